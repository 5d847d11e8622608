#define _GNU_SOURCE
#include "CSandboxProbe.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

long probe_call(long number, long a0, long a1, long a2, long a3, long a4, long a5) {
  long result = syscall(number, a0, a1, a2, a3, a4, a5);
  return result < 0 ? -errno : result;
}

long probe_call_i386(long number) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number) : "memory", "r8", "r9", "r10", "r11");
  return result;
}

int probe_fork(void) { return (int)syscall(SYS_fork); }

int probe_become(unsigned user, unsigned group) {
  if (setgroups(0, 0) < 0 || setresgid(group, group, group) < 0 || setresuid(user, user, user) < 0) return -1;
  return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

int probe_lose_administration(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0) return -1;
  data[0].effective &= ~(1u << CAP_SYS_ADMIN);
  data[0].permitted &= ~(1u << CAP_SYS_ADMIN);
  return prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) < 0 || syscall(SYS_capset, &header, data) < 0 ? -1 : 0;
}
