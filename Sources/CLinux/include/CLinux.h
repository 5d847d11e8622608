// Linux calls that Swift's Glibc module cannot express: variadic functions, macros and raw system calls.
#ifndef CLINUX_H
#define CLINUX_H

#include "CLinuxCharacter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static inline int clinux_memfd_create(const char *name, unsigned flags) {
  return (int)syscall(SYS_memfd_create, name, flags);
}

static inline int clinux_open(const char *path, int flags, unsigned mode) { return open(path, flags, mode); }

static inline int clinux_fcntl_int(int fd, int command, int argument) { return fcntl(fd, command, argument); }
static inline int clinux_fcntl_lock(int fd, int command, struct flock *lock) { return fcntl(fd, command, lock); }

/// Sleeps while `*word == expected`, at most `timeout_ns` (negative: for ever). Returns 0 or an errno.
static inline int clinux_futex_wait(const void *word, uint32_t expected, int64_t timeout_ns) {
  struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
  long r = syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? 0 : &ts, 0, 0);
  return r < 0 ? errno : 0;
}

static inline void clinux_futex_wake(const void *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE, count, 0, 0, 0);
}

static inline void clinux_set_thread_name(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
static inline int clinux_gettid(void) { return (int)syscall(SYS_gettid); }
static inline int clinux_tgkill(int process, int thread, int number) {
  return (int)syscall(SYS_tgkill, process, thread, number);
}
static inline int clinux_pidfd_open(int process) { return (int)syscall(SYS_pidfd_open, process, 0); }

static inline void clinux_cpu_relax(void) { __builtin_ia32_pause(); }
static inline uint64_t clinux_rdtsc(void) { return __builtin_ia32_rdtsc(); }

#endif
