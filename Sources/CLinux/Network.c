#define _GNU_SOURCE
#include "CLinuxNetwork.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// Linux 6.2.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

ssize_t clinux_send_parts(int socket, const struct iovec *parts, int count) {
  struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)count};
  return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int clinux_receive_frames(int socket, void *buffer, size_t stride, unsigned count, uint32_t *lengths) {
  struct mmsghdr messages[CLINUX_FRAME_BATCH];
  struct iovec parts[CLINUX_FRAME_BATCH];
  if (count > CLINUX_FRAME_BATCH) count = CLINUX_FRAME_BATCH;
  for (unsigned i = 0; i < count; i++) {
    parts[i] = (struct iovec){.iov_base = (char *)buffer + i * stride, .iov_len = stride};
    messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[i], .msg_iovlen = 1}};
  }
  int received = recvmmsg(socket, messages, count, MSG_DONTWAIT | MSG_TRUNC, 0);
  for (int i = 0; i < received; i++) lengths[i] = messages[i].msg_len;
  return received;
}

ssize_t clinux_send_frames(int socket, const void *frames, size_t size) {
  struct mmsghdr messages[CLINUX_FRAME_BATCH];
  struct iovec parts[CLINUX_FRAME_BATCH];
  size_t ends[CLINUX_FRAME_BATCH];
  unsigned count = 0;
  for (size_t position = 0; count < CLINUX_FRAME_BATCH && size - position >= 8; count++) {
    uint64_t length;
    memcpy(&length, (const char *)frames + position, sizeof length);
    if (length > size - position - 8) break;
    parts[count] = (struct iovec){.iov_base = (char *)frames + position + 8, .iov_len = length};
    messages[count] = (struct mmsghdr){.msg_hdr = {.msg_iov = &parts[count], .msg_iovlen = 1}};
    position += 8 + ((length + 7) & ~UINT64_C(7));
    ends[count] = position;
  }
  if (count == 0) return 0;
  int sent = sendmmsg(socket, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent <= 0 ? sent : (ssize_t)ends[sent - 1];
}

int clinux_unix_datagram_socket(void) { return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

int clinux_unix_autobind(int socket) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  return bind(socket, (struct sockaddr *)&address, sizeof address.sun_family);
}

int clinux_socket_type(int fd) {
  int type;
  socklen_t size = sizeof type;
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ? -1 : type;
}

const int clinux_tap_flag_tap = IFF_TAP, clinux_tap_flag_header = IFF_VNET_HDR,
          clinux_tap_flag_no_information = IFF_NO_PI;

int clinux_tap_open(const char *name, int several_queues) {
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several_queues ? IFF_MULTI_QUEUE : 0))};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &request) == 0) return fd;
  int reason = errno;
  close(fd);
  errno = reason;
  return -1;
}

int clinux_tap_flags(int fd) {
  struct ifreq request = {0};
  return ioctl(fd, TUNGETIFF, &request) < 0 ? -1 : (unsigned short)request.ifr_flags;
}

int clinux_tap_use_header(int fd) {
  int size = 10, little = 1;
  if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0) return -1;
  return ioctl(fd, TUNSETVNETLE, &little);
}

int clinux_tap_set_offloads(int fd, unsigned offloads) {
  static const unsigned bits[] = {TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4 | TUN_F_USO6};
  unsigned wanted = 0;
  for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++)
    if (offloads >> i & 1) wanted |= bits[i];
  if (ioctl(fd, TUNSETOFFLOAD, wanted) == 0) return 0;
  // Kernels before 6.2 refuse bits that they do not know.
  return ioctl(fd, TUNSETOFFLOAD, wanted & ~(unsigned)(TUN_F_USO4 | TUN_F_USO6));
}

int clinux_tap_set_active(int fd, int active) {
  struct ifreq request = {.ifr_flags = active ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
  return ioctl(fd, TUNSETQUEUE, &request);
}
