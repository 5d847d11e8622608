#include "CSandbox.h"

#include <string.h>
#include <termios.h>

static int guarded_terminal = -1;
static struct termios guarded_mode;

void csandbox_restore_terminal(void) {
  if (guarded_terminal >= 0) tcsetattr(guarded_terminal, TCSANOW, &guarded_mode);
}

static void on_parent_death(int number) {
  (void)number;
  csandbox_restore_terminal();
  _exit(125);
}

int csandbox_guard_terminal(int terminal, const void *mode, unsigned long size) {
  if (size != sizeof guarded_mode) {
    errno = EINVAL;
    return -1;
  }
  guarded_terminal = terminal;
  memcpy(&guarded_mode, mode, size);
  struct sigaction action = {.sa_handler = on_parent_death};
  if (sigaction(SIGUSR2, &action, 0) != 0) return -1;
  return csandbox_prctl(PR_SET_PDEATHSIG, SIGUSR2);
}
