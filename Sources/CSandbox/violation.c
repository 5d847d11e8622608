#include "CSandbox.h"

#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

static _Atomic(uint64_t) *violation_record;
static int violation_notify = -1;

static void on_sigsys(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  if (info->si_code != SYS_SECCOMP) return;
  uint64_t none = 0;
  uint64_t call = (uint64_t)info->si_arch << 32 | (uint32_t)info->si_syscall;
  atomic_compare_exchange_strong(violation_record, &none, call);
  if (violation_notify < 0) syscall(SYS_exit_group, 126);
  uint64_t one = 1;
  (void)!write(violation_notify, &one, sizeof one);
  // The thread must not go on, and must not vanish holding a lock either.
  static const uint32_t parked = 0;
  for (;;) syscall(SYS_futex, &parked, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
}

int csandbox_handle_violations(void *record, int notify) {
  violation_record = record;
  violation_notify = notify;
  struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigfillset(&action.sa_mask);
  // Blocked by whoever started this process, it would kill without a word; threads started from now on inherit it.
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGSYS);
  if (pthread_sigmask(SIG_UNBLOCK, &set, 0) != 0) return -1;
  return sigaction(SIGSYS, &action, 0);
}
