// Raw calls for the sandbox tests.
#ifndef CSANDBOXPROBE_H
#define CSANDBOXPROBE_H

/// Makes the system call and returns its result or minus its errno.
long probe_call(long number, long a0, long a1, long a2, long a3, long a4, long a5);
/// One of the i386 ABI, through int 0x80.
long probe_call_i386(long number);
int probe_fork(void);
/// Becomes an ordinary user without other groups.
int probe_become(unsigned user, unsigned group);
/// Stands for root in a container: without CAP_SYS_ADMIN, now and after exec.
int probe_lose_administration(void);

#endif
