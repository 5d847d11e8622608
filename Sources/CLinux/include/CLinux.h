// Linux calls that Swift's Glibc module cannot express: variadic functions, macros and raw system calls.
#ifndef CLINUX_H
#define CLINUX_H

#include <cpuid.h>
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

/// Fixes the size of a memfd for ever. <linux/fcntl.h> has the numbers, and cannot be included beside <fcntl.h>.
static inline int clinux_seal_size(int fd) {
  enum { add_seals = 1033, seal_seal = 1, seal_shrink = 2, seal_grow = 4 };
  return fcntl(fd, add_seals, seal_seal | seal_shrink | seal_grow);
}

static inline int clinux_open(const char *path, int flags, unsigned mode) { return open(path, flags, mode); }

static inline int clinux_fcntl_int(int fd, int command, int argument) { return fcntl(fd, command, argument); }
static inline int clinux_fcntl_lock(int fd, int command, struct flock *lock) { return fcntl(fd, command, lock); }

static inline int clinux_pipe(int *ends) { return (int)syscall(SYS_pipe2, ends, O_CLOEXEC); }

/// Sleeps while `*word == expected`, at most `timeout_ns` (negative: for ever). Returns 0 or an errno.
static inline int clinux_futex_wait(const void *word, uint32_t expected, int64_t timeout_ns) {
  struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
  long r = syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? 0 : &ts, 0, 0);
  return r < 0 ? errno : 0;
}

/// ppoll(2) without a signal mask; <poll.h> declares it under _GNU_SOURCE only.
static inline int clinux_ppoll(struct pollfd *entries, unsigned long count, const struct timespec *limit) {
  struct timespec rest = *limit;
  return (int)syscall(SYS_ppoll, entries, count, &rest, 0, 8);
}

static inline void clinux_futex_wake(const void *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE, count, 0, 0, 0);
}

static inline void clinux_set_thread_name(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
static inline void clinux_set_timer_slack(unsigned long nanoseconds) { prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0); }
static inline void clinux_do_nothing(int number) { (void)number; }
/// No SA_RESTART: a blocking call of the thread that gets the signal returns EINTR. Whoever started this process may
/// have left the signal blocked.
static inline void clinux_handle_by_interrupting(int number) {
  struct sigaction action = {.sa_handler = clinux_do_nothing};
  sigaction(number, &action, 0);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  pthread_sigmask(SIG_UNBLOCK, &set, 0);
}
static inline void clinux_ignore(int number) {
  struct sigaction action = {.sa_handler = SIG_IGN};
  sigaction(number, &action, 0);
}
static inline int clinux_gettid(void) { return (int)syscall(SYS_gettid); }
static inline int clinux_tgkill(int process, int thread, int number) {
  return (int)syscall(SYS_tgkill, process, thread, number);
}
static inline int clinux_pidfd_open(int process) { return (int)syscall(SYS_pidfd_open, process, 0); }

/// CPUID of this processor; zeros where the leaf does not exist.
static inline void clinux_cpuid(unsigned leaf, unsigned *eax, unsigned *ebx, unsigned *ecx, unsigned *edx) {
  if (!__get_cpuid(leaf, eax, ebx, ecx, edx)) *eax = *ebx = *ecx = *edx = 0;
}

/// Gives pages of the heap that are free back to the host.
void clinux_return_freed_memory(void);

static inline void clinux_cpu_relax(void) { __builtin_ia32_pause(); }
static inline uint64_t clinux_rdtsc(void) { return __builtin_ia32_rdtsc(); }
/// The processor that the calling thread runs on; a system call only where the C library has no rseq area.
int clinux_current_processor(void);

// Disk images (Block.c).
extern const int clinux_o_direct;
extern const int clinux_o_tmpfile;
int clinux_block_device_size(int fd, uint64_t *size);
/// Locks the whole file for this open file description without waiting.
int clinux_lock_image(int fd, int exclusive);
/// Whether another open file description holds an exclusive lock.
int clinux_image_has_writer(int fd);
/// Gives a range of a file back to the host: it reads as zero, and the file keeps its size.
int clinux_punch_hole(int fd, uint64_t offset, uint64_t length);
/// Makes a range of a file read as zero and keeps its blocks where the file system can.
int clinux_zero_range(int fd, uint64_t offset, uint64_t length);
/// The same two of a block device, in whole sectors of it; what a discarded sector reads as is unknown.
int clinux_discard_blocks(int fd, uint64_t offset, uint64_t length);
int clinux_zero_blocks(int fd, uint64_t offset, uint64_t length);

#endif
