// Datagrams with descriptors over Unix sockets, and epoll(7): macros and headers that Swift cannot see.
#ifndef CLINUX_SOCKET_H
#define CLINUX_SOCKET_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

/// SCM_MAX_FD of the kernel.
enum { CLINUX_MAX_DESCRIPTORS = 253 };

/// Sends one datagram and duplicates of `count` descriptors. Returns bytes sent, or -1 with errno.
static inline ssize_t clinux_send(int socket, const void *bytes, size_t size, const int *descriptors, int count) {
  char control[CMSG_SPACE(sizeof(int) * CLINUX_MAX_DESCRIPTORS)];
  struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > CLINUX_MAX_DESCRIPTORS) {
    errno = E2BIG;
    return -1;
  }
  if (count > 0) {
    memset(control, 0, sizeof control);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    memcpy(CMSG_DATA(header), descriptors, sizeof(int) * (size_t)count);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL);
}

/// Receives one datagram. `descriptors` has room for CLINUX_MAX_DESCRIPTORS; `*count` is how many came, closed on
/// exec. A datagram that did not fit is an error, and its descriptors are closed by the caller all the same.
static inline ssize_t clinux_receive(int socket, void *bytes, size_t size, int *descriptors, int *count) {
  char control[CMSG_SPACE(sizeof(int) * CLINUX_MAX_DESCRIPTORS)];
  struct iovec part = {.iov_base = bytes, .iov_len = size};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  *count = 0;
  ssize_t received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (received < 0) return -1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int arrived = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(descriptors + *count, CMSG_DATA(header), sizeof(int) * (size_t)arrived);
    *count += arrived;
  }
  if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
    errno = EMSGSIZE;
    return -1;
  }
  return received;
}

static inline int clinux_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

/// Reports `token` at each change of the descriptor's readiness, or else while it is readable.
static inline int clinux_epoll_add(int queue, int fd, uint64_t token, int changes_only) {
  unsigned events = changes_only ? EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET : EPOLLIN;
  struct epoll_event event = {.events = events, .data = {.u64 = token}};
  return epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event);
}

enum { CLINUX_EPOLL_BATCH = 64 };

/// Waits, and puts the tokens of those that are ready, CLINUX_EPOLL_BATCH at most, to `tokens`. Returns how many.
static inline int clinux_epoll_wait(int queue, uint64_t *tokens) {
  struct epoll_event events[CLINUX_EPOLL_BATCH];
  int count = epoll_wait(queue, events, CLINUX_EPOLL_BATCH, -1);
  for (int i = 0; i < count; i++) tokens[i] = events[i].data.u64;
  return count;
}

#endif
