#define _GNU_SOURCE
#include "CSandbox.h"

#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int csandbox_landlock_abi(void) {
  return (int)syscall(SYS_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

int csandbox_landlock_create(const struct csandbox_landlock_ruleset *ruleset, unsigned long size) {
  return (int)syscall(SYS_landlock_create_ruleset, ruleset, size, 0);
}

int csandbox_landlock_allow_reading(int ruleset, int file) {
  struct landlock_path_beneath_attr rule = {.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE, .parent_fd = file};
  return (int)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

int csandbox_landlock_restrict(int ruleset) { return (int)syscall(SYS_landlock_restrict_self, ruleset, 0); }

int csandbox_seccomp(const void *program, unsigned short count, _Bool all_threads) {
  struct sock_fprog filter = {.len = count, .filter = (struct sock_filter *)program};
  unsigned flags = all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0;
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);
}

int csandbox_pivot_root(const char *new_root, const char *put_old) {
  return (int)syscall(SYS_pivot_root, new_root, put_old);
}

int csandbox_prctl(int option, unsigned long argument) { return prctl(option, argument, 0, 0, 0); }

_Static_assert(CSANDBOX_NEW_MOUNT == CLONE_NEWNS && CSANDBOX_NEW_UTS == CLONE_NEWUTS &&
                   CSANDBOX_NEW_IPC == CLONE_NEWIPC && CSANDBOX_NEW_USER == CLONE_NEWUSER &&
                   CSANDBOX_NEW_PROCESS == CLONE_NEWPID && CSANDBOX_NEW_NETWORK == CLONE_NEWNET,
               "namespace flags");

int csandbox_unshare(int namespaces) { return unshare(namespaces); }

int csandbox_set_group(uint32_t group) { return setresgid(group, group, group); }
int csandbox_set_user(uint32_t user) { return setresuid(user, user, user); }

int csandbox_lower_limit(enum csandbox_limit limit, uint64_t most) {
  static const int resources[] = {
      [CSANDBOX_LIMIT_CORE] = RLIMIT_CORE,
      [CSANDBOX_LIMIT_OPEN_FILES] = RLIMIT_NOFILE,
      [CSANDBOX_LIMIT_LOCKED_MEMORY] = RLIMIT_MEMLOCK,
      [CSANDBOX_LIMIT_MESSAGE_QUEUES] = RLIMIT_MSGQUEUE,
      [CSANDBOX_LIMIT_NICE] = RLIMIT_NICE,
      [CSANDBOX_LIMIT_REALTIME_PRIORITY] = RLIMIT_RTPRIO,
      [CSANDBOX_LIMIT_PROCESSES] = RLIMIT_NPROC,
  };
  struct rlimit current;
  if (getrlimit(resources[limit], &current) < 0) return -1;
  if (current.rlim_max > most) current.rlim_max = most;
  if (current.rlim_cur > most) current.rlim_cur = most;
  return setrlimit(resources[limit], &current);
}

int csandbox_pidfd_signal(int pidfd, int number) {
  return (int)syscall(SYS_pidfd_send_signal, pidfd, number, 0, 0);
}

int csandbox_wait(int pidfd, _Bool block, int *code, int *status) {
  siginfo_t info = {0};
  int result;
  do result = waitid((idtype_t)P_PIDFD, (id_t)pidfd, &info, WEXITED | (block ? 0 : WNOHANG));
  while (result < 0 && errno == EINTR);
  if (result < 0) return -1;
  if (info.si_pid == 0) return 0;
  *code = info.si_code;
  *status = info.si_status;
  return 1;
}
