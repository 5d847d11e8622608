// The instructions that Swift has no words for, under the names that they have in the manuals.
#pragma once
#include <stdint.h>

#define CPU_INLINE static inline __attribute__((always_inline))

CPU_INLINE uint8_t inb(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

CPU_INLINE uint16_t inw(uint16_t port) {
  uint16_t value;
  __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

CPU_INLINE uint32_t inl(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

CPU_INLINE void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

CPU_INLINE void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }

CPU_INLINE void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

/// Reads `count` words from the port into memory at `address`.
CPU_INLINE void insw(uint16_t port, uint64_t address, uint64_t count) {
  __asm__ volatile("rep insw" : "+D"(address), "+c"(count) : "d"(port) : "memory");
}

/// Writes `count` words of memory at `address` to the port.
CPU_INLINE void outsw(uint16_t port, uint64_t address, uint64_t count) {
  __asm__ volatile("rep outsw" : "+S"(address), "+c"(count) : "d"(port) : "memory");
}

CPU_INLINE uint8_t load8(uint64_t address) { return *(volatile uint8_t *)address; }
CPU_INLINE uint16_t load16(uint64_t address) { return *(volatile uint16_t *)address; }
CPU_INLINE uint32_t load32(uint64_t address) { return *(volatile uint32_t *)address; }
CPU_INLINE uint64_t load64(uint64_t address) { return *(volatile uint64_t *)address; }
CPU_INLINE void store8(uint64_t address, uint8_t value) { *(volatile uint8_t *)address = value; }
CPU_INLINE void store16(uint64_t address, uint16_t value) { *(volatile uint16_t *)address = value; }
CPU_INLINE void store32(uint64_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
CPU_INLINE void store64(uint64_t address, uint64_t value) { *(volatile uint64_t *)address = value; }

/// `lock xadd`: adds one and returns what was there.
CPU_INLINE uint32_t atomic_increment(uint64_t address) {
  return __atomic_fetch_add((volatile uint32_t *)address, 1, __ATOMIC_SEQ_CST);
}

CPU_INLINE uint64_t popcnt(uint64_t value) {
  __asm__ volatile("popcnt %0, %0" : "+r"(value) : : "cc");
  return value;
}

/// A million times pi, rounded.
CPU_INLINE uint32_t x87_scaled_pi(void) {
  uint32_t million = 1000000, result;
  __asm__ volatile("fwait; fninit; fldpi; fimull %1; fistpl %0" : "=m"(result) : "m"(million));
  return result;
}

/// Enables SSE (CR4.OSFXSR) and multiplies.
CPU_INLINE uint64_t sse2_product(uint32_t a, uint32_t b) {
  uint64_t cr4, result;
  __asm__ volatile("mov %%cr4, %0; or $0x200, %0; mov %0, %%cr4" : "=r"(cr4));
  __asm__ volatile("movd %1, %%xmm3; movd %2, %%xmm12; pmuludq %%xmm12, %%xmm3; movq %%xmm3, %0"
                   : "=r"(result) : "r"(a), "r"(b));
  return result;
}

CPU_INLINE void invlpg(uint64_t address) { __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory"); }

CPU_INLINE uint64_t rdtsc(void) {
  uint32_t low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t)high << 32 | low;
}

CPU_INLINE uint64_t rdmsr(uint32_t index) {
  uint32_t low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (uint64_t)high << 32 | low;
}

CPU_INLINE void wrmsr(uint32_t index, uint64_t value) {
  __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

struct cpuid_result {
  uint32_t eax, ebx, ecx, edx;
};

CPU_INLINE struct cpuid_result cpuid(uint32_t leaf, uint32_t subleaf) {
  struct cpuid_result r;
  __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
  return r;
}

CPU_INLINE void cli(void) { __asm__ volatile("cli" : : : "memory"); }
CPU_INLINE void sti(void) { __asm__ volatile("sti" : : : "memory"); }
CPU_INLINE void hlt(void) { __asm__ volatile("hlt" : : : "memory"); }
/// Orders a store before a later load.
CPU_INLINE void mfence(void) { __asm__ volatile("mfence" : : : "memory"); }

CPU_INLINE void pause(void) { __asm__ volatile("pause" : : : "memory"); }

/// Waits for an interrupt without losing one that comes in between: STI holds interrupts off for one instruction.
CPU_INLINE void sti_hlt(void) { __asm__ volatile("sti; hlt" : : : "memory"); }

/// A page fault for which there is no gate, nor one for the faults that follow from it.
CPU_INLINE void triple_fault(void) {
  struct __attribute__((packed)) {
    uint16_t limit;
    uint64_t base;
  } idtr = {0, 0};
  __asm__ volatile("lidt %0; mov (%1), %%al" : : "m"(idtr), "r"(1UL << 40) : "rax", "memory");
}

/// What the stubs in start.s leave on the stack.
struct interrupt_frame {
  uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/// How often each vector was taken.
extern volatile uint32_t interrupt_counts[64];

CPU_INLINE uint64_t interrupt_count_address(uint8_t vector) { return (uint64_t)&interrupt_counts[vector & 63]; }

/// The code that a start-up IPI runs, and the number of processors that have run it.
extern const uint8_t ap_trampoline[], ap_trampoline_end[];
extern volatile uint32_t ap_tickets;

CPU_INLINE uint64_t trampoline_address(void) { return (uint64_t)ap_trampoline; }
CPU_INLINE uint64_t trampoline_size(void) { return (uint64_t)ap_trampoline_end - (uint64_t)ap_trampoline; }
CPU_INLINE uint32_t processors_started(void) { return ap_tickets; }

// Control and debug registers.
#define REGISTER_ACCESS(name)                                                                                          \
  CPU_INLINE uint64_t read_##name(void) {                                                                              \
    uint64_t value;                                                                                                    \
    __asm__ volatile("mov %%" #name ", %0" : "=r"(value));                                                             \
    return value;                                                                                                      \
  }                                                                                                                    \
  CPU_INLINE void write_##name(uint64_t value) {                                                                       \
    __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                                                    \
  }
REGISTER_ACCESS(cr0)
REGISTER_ACCESS(cr2)
REGISTER_ACCESS(cr3)
REGISTER_ACCESS(cr4)
REGISTER_ACCESS(dr0)
REGISTER_ACCESS(dr6)
REGISTER_ACCESS(dr7)

/// The exception that an attempt met: its vector, or 0xFF for none. `next` is where the handler goes on.
struct caught {
  uint64_t next, vector, error, rip;
};
extern struct caught caught_exception;
CPU_INLINE volatile struct caught *_Nonnull caught(void) { return &caught_exception; }

// Executes an instruction; an exception of it is caught.
#define ATTEMPT(instruction, ...)                                                                                      \
  caught()->vector = 0xFF;                                                                                             \
  __asm__ volatile("mov %%rsp, %%r8\n\tlea 1f(%%rip), %%rax\n\tmov %%rax, caught_exception(%%rip)\n\t" instruction     \
                   "\n1:\n\tmov %%r8, %%rsp\n\tmovq $0, caught_exception(%%rip)"                                       \
                   : : __VA_ARGS__ : "rax", "rcx", "rdx", "r8", "memory", "cc")

CPU_INLINE void attempt_load(uint64_t address) { ATTEMPT("mov (%0), %%cl", "r"(address)); }
CPU_INLINE void attempt_store(uint64_t address) { ATTEMPT("movb $0x5A, (%0)", "r"(address)); }
CPU_INLINE void attempt_call(uint64_t address) { ATTEMPT("call *%0", "r"(address)); }
CPU_INLINE void attempt_rdmsr(uint32_t index) { ATTEMPT("mov %0, %%ecx\n\trdmsr", "r"(index)); }
CPU_INLINE void attempt_wrmsr(uint32_t index, uint64_t value) {
  ATTEMPT("mov %0, %%ecx\n\tmov %1, %%rdx\n\tshr $32, %%rdx\n\tmov %k1, %%eax\n\twrmsr", "r"(index), "r"(value));
}
CPU_INLINE void attempt_segment(uint16_t selector) { ATTEMPT("mov %w0, %%fs", "r"((uint32_t)selector)); }
CPU_INLINE void attempt_cr0(uint64_t value) { ATTEMPT("mov %0, %%cr0", "r"(value)); }
CPU_INLINE void attempt_cr4(uint64_t value) { ATTEMPT("mov %0, %%cr4", "r"(value)); }
CPU_INLINE void attempt_divide(uint32_t divisor) { ATTEMPT("xor %%edx, %%edx\n\tmov $1, %%eax\n\tdivl %0", "r"(divisor)); }
CPU_INLINE void attempt_undefined(void) { ATTEMPT("ud2", "i"(0)); }
CPU_INLINE void attempt_breakpoint(void) { ATTEMPT("int3", "i"(0)); }
CPU_INLINE void attempt_software_interrupt(void) { ATTEMPT("int $0x29", "i"(0)); }
CPU_INLINE void attempt_gate_beyond_the_table(void) { ATTEMPT("int $0x80", "i"(0)); }
CPU_INLINE void attempt_debug_trap(void) { ATTEMPT(".byte 0xF1", "i"(0)); }
CPU_INLINE void attempt_single_step(void) {
  ATTEMPT("pushf\n\torq $0x100, (%%rsp)\n\tpopf\n\tnop\n\tnop\n\tpushf\n\tandq $~0x100, (%%rsp)\n\tpopf", "i"(0));
}
CPU_INLINE void attempt_out(uint16_t port) { ATTEMPT("mov %0, %%edx\n\tout %%al, %%dx\n\tnop", "r"((uint32_t)port)); }
CPU_INLINE void attempt_read_dr0(void) { ATTEMPT("mov %%dr0, %%rcx", "i"(0)); }
CPU_INLINE void attempt_invpcid(uint64_t type, uint64_t pcid, uint64_t address) {
  uint64_t descriptor[2] = {pcid, address};
  ATTEMPT("invpcid (%1), %0", "r"(type), "r"(descriptor));
}
/// AC suspends SMAP.
CPU_INLINE void attempt_load_with_ac(uint64_t address) {
  ATTEMPT("pushf\n\torq $0x40000, (%%rsp)\n\tpopf\n\tmov (%0), %%cl\n\tpushf\n\tandq $~0x40000, (%%rsp)\n\tpopf", "r"(address));
}

/// Calls code at an address.
CPU_INLINE uint64_t call_code(uint64_t address) {
  uint64_t result;
  __asm__ volatile("call *%1" : "=a"(result) : "r"(address) : "rcx", "rdx", "memory", "cc");
  return result;
}
