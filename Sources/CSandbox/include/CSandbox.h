// What the sandbox needs of the kernel and cannot say in Swift: code that runs between clone and exec, a signal
// handler, macros and system calls without a libc wrapper.
#ifndef CSANDBOX_H
#define CSANDBOX_H

// No _GNU_SOURCE here: the same headers must mean the same in every module that Swift imports.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// The CLONE_NEW* flags (namespaces(7)).
enum {
  CSANDBOX_NEW_MOUNT = 0x00020000,
  CSANDBOX_NEW_UTS = 0x04000000,
  CSANDBOX_NEW_IPC = 0x08000000,
  CSANDBOX_NEW_USER = 0x10000000,
  CSANDBOX_NEW_PROCESS = 0x20000000,
  CSANDBOX_NEW_NETWORK = 0x40000000,
};

/// What the new process does between clone and exec. Every array is made by the parent; the child only reads them,
/// and writes `scratch`.
struct csandbox_child {
  /// What to execute, opened with O_PATH.
  int executable;
  /// /dev/null, which becomes descriptors 0 and 1.
  int null;
  /// The child's end of a SOCK_SEQPACKET pair, which the new program has behind the `descriptors`; a `csandbox_failure`
  /// on it names what failed. `parent_control` is the other end, to be closed in the child.
  int control, parent_control;
  /// Open descriptors that become 3, 4, 5...; every other one but 2 is closed.
  const int *descriptors;
  int descriptor_count;
  /// Room for `descriptor_count + 3` numbers.
  int *scratch;
  /// The CSANDBOX_NEW_* flags to clone with.
  unsigned long namespaces;
  char *const *arguments;
  char *const *environment;
};

enum csandbox_stage {
  CSANDBOX_STAGE_SESSION = 1,
  CSANDBOX_STAGE_PARENT_DEATH,
  CSANDBOX_STAGE_DESCRIPTORS,
  CSANDBOX_STAGE_EXEC,
};

struct csandbox_failure {
  int32_t stage;
  int32_t error;
};

/// This program's file, for `csandbox_child.executable`; it need not be readable.
int csandbox_open_self(void);

/// Clones and, in the child, arranges descriptors and executes; returns when the child has executed or ended. Safe in a
/// process with threads. Returns the child's number and, in `pidfd`, a descriptor for it; -1 with errno set where clone failed.
int csandbox_start(const struct csandbox_child *child, int *pidfd);

/// Installs the SIGSYS handler. It stores `arch << 32 | number` of the first forbidden call into `record`, then ends
/// the process with status 126 or, where `notify` is an eventfd and not -1, adds one to it and parks the thread.
int csandbox_handle_violations(void *record, int notify);

/// When the parent thread dies: puts the terminal back into `mode` (a struct termios) and ends the process, in place of
/// the SIGKILL that it would get. Returns 0, or -1 with errno set.
int csandbox_guard_terminal(int terminal, const void *mode, unsigned long size);

/// Puts the guarded terminal back now; nothing where none is guarded.
void csandbox_restore_terminal(void);

/// The value of a constant that policies may name. Returns false where there is none of that name.
_Bool csandbox_constant(const char *name, uint64_t *value);

struct csandbox_landlock_ruleset {
  uint64_t handled_access_fs, handled_access_net, scoped;
};

/// The Landlock ABI of the running kernel, or -1 with errno set.
int csandbox_landlock_abi(void);
/// A rule set without rules; `size` is that of the structure in the kernel's ABI.
int csandbox_landlock_create(const struct csandbox_landlock_ruleset *ruleset, unsigned long size);
/// Adds the right to read the open file.
int csandbox_landlock_allow_reading(int ruleset, int file);
int csandbox_landlock_restrict(int ruleset);

/// Installs a BPF program of `count` instructions on this thread, or on all threads of the process.
/// Returns 0, -1 with errno set, or the number of a thread that could not take it.
int csandbox_seccomp(const void *program, unsigned short count, _Bool all_threads);

int csandbox_pivot_root(const char *new_root, const char *put_old);
int csandbox_prctl(int option, unsigned long argument);
int csandbox_unshare(int namespaces);
/// Changes the real, effective and saved user or group of the calling thread's process.
int csandbox_set_group(uint32_t group);
int csandbox_set_user(uint32_t user);

enum csandbox_limit {
  CSANDBOX_LIMIT_CORE,
  CSANDBOX_LIMIT_OPEN_FILES,
  CSANDBOX_LIMIT_LOCKED_MEMORY,
  CSANDBOX_LIMIT_MESSAGE_QUEUES,
  CSANDBOX_LIMIT_NICE,
  CSANDBOX_LIMIT_REALTIME_PRIORITY,
  CSANDBOX_LIMIT_PROCESSES,
};
/// Lowers the soft and hard limit to `most` where they are above it.
int csandbox_lower_limit(enum csandbox_limit limit, uint64_t most);
int csandbox_pidfd_signal(int pidfd, int number);
/// Waits for the process behind `pidfd`. Returns 1 and fills `code` (CLD_*) and `status` where it ended, 0 where it
/// still runs, -1 with errno set.
int csandbox_wait(int pidfd, _Bool block, int *code, int *status);

#endif
