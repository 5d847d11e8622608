#define _GNU_SOURCE
#include "CNativeRun.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

// The code jumps back through the pointer at the start of its memory: no register is free, and its stack is the guest's.
static native_state *current;
static uint64_t *resume_at;

/// The instruction ends here: the frame's registers are as it left them.
static void on_trap(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)info;
  current->trapped = 1;
  ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (greg_t)*resume_at;
}

/// The guest's stack is no place for a signal frame.
static void catch_traps(void) {
  static char stack[65536];
  stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
  sigaltstack(&alternative, 0);
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigaction(SIGFPE, &action, 0);
}

void native_run(native_state *state, const void *code) {
  current = state;
  if (state->has_fx) catch_traps();
  static const void *target;
  target = code;
  __asm__ volatile(
    "push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n"
    "lea 1f(%%rip), %%rax\n mov %1, %%rbx\n mov %%rax, (%%rbx)\n"
    "mov %0, %%r15\n"
    "cmpq $0, %c4(%%r15)\n je 2f\n fxsave64 %c5(%%r15)\n fxrstor64 %c3(%%r15)\n 2:\n"
    "pushq 128(%%r15)\n popfq\n"
    "mov %%rsp, 136(%%r15)\n"
    "mov 0(%%r15), %%rax\n mov 8(%%r15), %%rcx\n mov 16(%%r15), %%rdx\n mov 24(%%r15), %%rbx\n"
    "mov 32(%%r15), %%rsp\n mov 40(%%r15), %%rbp\n mov 48(%%r15), %%rsi\n mov 56(%%r15), %%rdi\n"
    "mov 64(%%r15), %%r8\n mov 72(%%r15), %%r9\n mov 80(%%r15), %%r10\n mov 88(%%r15), %%r11\n"
    "mov 96(%%r15), %%r12\n mov 104(%%r15), %%r13\n mov 112(%%r15), %%r14\n mov 120(%%r15), %%r15\n"
    "jmp *%2\n"
    "1:\n"
    // RSP is the guest's; only plain moves until it is ours again, so that flags survive.
    "xchg %0, %%r15\n"
    "mov %%rsp, 32(%%r15)\n mov 136(%%r15), %%rsp\n"
    "pushfq\n popq 128(%%r15)\n cld\n"
    "mov %%rax, 0(%%r15)\n mov %%rcx, 8(%%r15)\n mov %%rdx, 16(%%r15)\n mov %%rbx, 24(%%r15)\n"
    "mov %%rbp, 40(%%r15)\n mov %%rsi, 48(%%r15)\n mov %%rdi, 56(%%r15)\n"
    "cmpq $0, %c4(%%r15)\n je 2f\n fxsave64 %c3(%%r15)\n fninit\n fxrstor64 %c5(%%r15)\n 2:\n"
    "mov %%r8, 64(%%r15)\n mov %%r9, 72(%%r15)\n mov %%r10, 80(%%r15)\n mov %%r11, 88(%%r15)\n"
    "mov %%r12, 96(%%r15)\n mov %%r13, 104(%%r15)\n mov %%r14, 112(%%r15)\n"
    "mov %0, %%rax\n mov %%rax, 120(%%r15)\n"
    "pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n"
    : "+m"(current)
    : "m"(resume_at), "m"(target), "i"(offsetof(native_state, fx)), "i"(offsetof(native_state, has_fx)),
      "i"(offsetof(native_state, host_fx))
    : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

void *native_executable(uint64_t size) {
  void *memory = mmap(0, size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  resume_at = memory;
  return memory;
}

void *native_memory(uint64_t address, uint64_t size) {
  void *memory = mmap(
    (void *)address, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  return memory == MAP_FAILED ? 0 : memory;
}

int native_equal(const void *a, const void *b, uint64_t size) { return memcmp(a, b, size) == 0; }

void native_free(void *memory, uint64_t size) { munmap(memory, size); }
