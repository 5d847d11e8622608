#define _GNU_SOURCE
#include "CLinuxCharacter.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

int clinux_open_pseudoterminal(char *path, size_t size) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return -1;
  int slave = -1;
  if (grantpt(master) < 0 || unlockpt(master) < 0) goto failed;
  int status = ptsname_r(master, path, size);
  if (status != 0) {
    errno = status;
    goto failed;
  }
  slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) goto failed;
  struct termios raw;
  if (tcgetattr(slave, &raw) < 0) goto failed;
  cfmakeraw(&raw);
  if (tcsetattr(slave, TCSANOW, &raw) < 0) goto failed;
  // A slave that was opened and closed makes the master report a hang-up, which is how "nobody is there" shows.
  close(slave);
  return master;

failed:;
  int reason = errno;
  if (slave >= 0) close(slave);
  close(master);
  errno = reason;
  return -1;
}

int clinux_accept(int listener) { return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

int clinux_unix_socket(int nonblocking) {
  return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
}

size_t clinux_unix_path_limit(void) { return sizeof(((struct sockaddr_un *)0)->sun_path) - 1; }

int clinux_unix_address(int fd, const char *path, int bind_it) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length > clinux_unix_path_limit()) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(address.sun_path, path, length + 1);
  if (bind_it) return bind(fd, (struct sockaddr *)&address, sizeof address);
  return connect(fd, (struct sockaddr *)&address, sizeof address);
}

void clinux_block_sigpipe(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int clinux_is_socket(const char *path) {
  struct stat status;
  if (lstat(path, &status) < 0) return -1;
  return S_ISSOCK(status.st_mode) ? 1 : 0;
}

int clinux_window_size(int fd, unsigned short *columns, unsigned short *rows) {
  struct winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) < 0) return -1;
  *columns = size.ws_col;
  *rows = size.ws_row;
  return 0;
}
