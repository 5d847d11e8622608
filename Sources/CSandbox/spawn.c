#define _GNU_SOURCE
#include "CSandbox.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

// The child runs in the memory of its parent, whose calling thread waits until it has executed the program or ended:
// that saves a copy of all page tables and of each page that either writes to. Other threads go on, so nothing here may
// take a lock or allocate: system calls only.

static _Noreturn void fail(int control, enum csandbox_stage stage) {
  struct csandbox_failure failure = {.stage = stage, .error = errno};
  send(control, &failure, sizeof failure, MSG_NOSIGNAL);
  _exit(127);
}

// A process whose user is not 0 in its namespace loses its capabilities in exec unless they are ambient.
static void keep_capabilities_over_exec(void) {
  static const int needed[] = {CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_SYS_CHROOT};
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) < 0) return;
  data[0].inheritable = data[0].permitted;
  data[1].inheritable = data[1].permitted;
  if (syscall(SYS_capset, &header, data) < 0) return;
  for (unsigned i = 0; i < sizeof needed / sizeof *needed; i++)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, needed[i], 0, 0);
}

static void close_from(unsigned first) {
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
  // Before Linux 5.9.
  struct rlimit limit = {0};
  getrlimit(RLIMIT_NOFILE, &limit);
  for (rlim_t fd = first; fd < limit.rlim_cur && fd < 65536; fd++) close((int)fd);
}

static int run_child(void *argument) {
  const struct csandbox_child *child = argument;
  // exec would reset handlers too, but signals are unblocked before it.
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int number = 1; number < NSIG; number++) sigaction(number, &standard, 0);

  close(child->parent_control);
  if (setsid() < 0) fail(child->control, CSANDBOX_STAGE_SESSION);

  if (child->namespaces & CLONE_NEWUSER) keep_capabilities_over_exec();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) fail(child->control, CSANDBOX_STAGE_PARENT_DEATH);
  // The parent may have died before that. Its number is 0 in another PID namespace, so its socket must tell.
  char byte;
  if (recv(child->control, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0) _exit(127);

  // Sources go above every target first: a source may have the number of another's target.
  const int count_given = child->descriptor_count, control = 3 + count_given, executable = 4 + count_given;
  const int sources[3] = {child->null, child->control, child->executable};
  for (int i = 0; i < count_given + 3; i++) {
    int source = i < 3 ? sources[i] : child->descriptors[i - 3];
    child->scratch[i] = fcntl(source, F_DUPFD_CLOEXEC, 5 + count_given);
    if (child->scratch[i] < 0) fail(child->control, CSANDBOX_STAGE_DESCRIPTORS);
  }
  const int *moved = child->scratch;
  _Bool arranged = dup2(moved[0], 0) == 0 && dup2(moved[0], 1) == 1;
  if (fcntl(2, F_GETFD) < 0) arranged = arranged && dup2(moved[0], 2) == 2;
  for (int i = 0; i < count_given; i++) arranged = arranged && dup2(moved[3 + i], 3 + i) == 3 + i;
  arranged = arranged && dup2(moved[1], control) == control;
  arranged = arranged && dup3(moved[2], executable, O_CLOEXEC) == executable;
  if (!arranged) fail(moved[1], CSANDBOX_STAGE_DESCRIPTORS);
  close_from((unsigned)executable + 1);

  umask(077);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, 0);
  syscall(SYS_execveat, executable, "", child->arguments, child->environment, AT_EMPTY_PATH);
  fail(control, CSANDBOX_STAGE_EXEC);
}

int csandbox_open_self(void) { return open("/proc/self/exe", O_PATH | O_CLOEXEC); }

int csandbox_start(const struct csandbox_child *child, int *pidfd) {
  // Below it the child would write over frames that the parent returns to.
  static const size_t stack_size = 64 << 10;
  char *stack = malloc(stack_size);
  if (!stack) return -1;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  *pidfd = -1;
  // clone, not clone3: container policies answer clone3 with ENOSYS because they cannot look into its flags.
  int flags = (int)child->namespaces | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
  int result = clone(run_child, stack + stack_size, flags, (void *)child, pidfd);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, 0);
  free(stack);
  errno = error;
  return result;
}
