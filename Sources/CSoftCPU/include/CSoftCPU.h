// The software CPU's state and micro-operations: C, so that handlers may be C functions and offsets are stable.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// A page's translation. A tag is the page's linear address and, in its low 12 bits, the generation it belongs to;
/// an access is allowed when its tag is equal. Host address = linear address + addend.
typedef struct soft_tlb_entry {
  uint64_t read_tag;
  uint64_t write_tag;
  int64_t addend;
  uint64_t physical;
} soft_tlb_entry;

/// A segment register. Offsets low...high (of all bytes of an access) may be read or written; low > high: none.
typedef struct soft_segment {
  /// What is added to an offset: 0 for CS, DS, ES and SS in 64-bit mode.
  uint64_t linear_base;
  uint64_t read_low, read_high;
  uint64_t write_low, write_high;
  uint64_t base;
  /// In bytes, granularity applied.
  uint32_t limit;
  /// Bits 23:8 of the descriptor's second doubleword, as 15:0.
  uint16_t attributes;
  uint16_t selector;
} soft_segment;

typedef struct soft_table {
  uint64_t base;
  uint32_t limit;
} soft_table;

/// What the vCPUs know of a page of guest memory; shared by them and used atomically. A vCPU is bit (index mod 64).
typedef struct soft_code_page {
  /// For each 64 bytes of the page: instructions in them stand in a block.
  uint64_t lines;
  /// vCPUs with such blocks.
  uint64_t holders;
  /// vCPUs whose TLB may let them write the page without being noticed.
  uint64_t writers;
} soft_code_page;

/// The x87 state as FNSAVE writes it in 32-bit protected mode: registers in stack order.
typedef struct soft_x87 {
  uint16_t control, reserved0;
  uint16_t status, reserved1;
  uint16_t tag, reserved2;
  uint32_t pointers[4];
  uint8_t registers[80];
} soft_x87;

_Static_assert(sizeof(soft_x87) == 108, "FNSAVE writes 108 bytes");

struct soft_op;

typedef struct soft_jump {
  uint64_t tag;
  const struct soft_op *_Nullable target;
  /// `soft_cpu.code_page` of the target.
  uint64_t code_page;
  /// What translated code jumps to, with the entry's address in RCX.
  const void *_Nullable native;
} soft_jump;

/// Where the calls under way return to, the last ones: code of the host by RIP.
typedef struct soft_returns {
  /// Where the last one stands, in bytes from `entries`.
  uint64_t last;
  struct {
    /// As `soft_jump.tag`.
    uint64_t tag;
    const void *_Nullable native;
  } entries[16];
} soft_returns;

typedef struct soft_cpu {
  // Operands are byte offsets from here.
  uint64_t gpr[16];
  uint64_t temp[3];
  /// RIP that the start of the current block's page would have. Operations know RIP relative to it, so that a block
  /// serves wherever its page is mapped.
  uint64_t code_page;
  uint64_t zero;
  uint64_t sink;
  /// XMM0 to XMM15 and two temporaries.
  _Alignas(16) uint64_t xmm[36];

  // Lazy flags; see Flags.swift.
  int64_t result;
  uint64_t carries;
  /// RFLAGS but CF, PF, AF, ZF, SF and OF.
  uint64_t system_flags;

  soft_tlb_entry *_Nonnull tlb;
  uint64_t tlb_generation;
  /// What linear addresses of segmented accesses wrap at.
  uint64_t linear_mask;
  /// What the stack pointer wraps at.
  uint64_t stack_mask;
  soft_jump *_Nonnull jumps;
  soft_returns *_Nonnull returns;
  uint64_t jump_tag;
  /// Changes whenever translated supervisor code may no longer branch from page to page as it did: `BranchEpoch`.
  uint32_t branch_epoch;
  /// Not zero: leave the interpreter at the next block.
  uint32_t attention;
  /// As `attention`, but a word that another process writes; it stays where it was first.
  const uint32_t *_Nonnull notice;
  /// Why the interpreter was left: `LeaveReason`.
  uint32_t leave;
  /// The first operation of the block being executed; out of date between two operations of translated code.
  const struct soft_op *_Nullable block;
  /// Valid outside blocks, and in complex operations (the next instruction's).
  uint64_t rip;
  /// In complex operations: the instruction's own.
  uint64_t instruction_rip;
  /// Where a slow access goes.
  uint64_t linear;
  /// Where the translated code stands that asked for it, and what it wants to store there.
  uint64_t native_return, native_value;
  /// Where translated code goes on, and what `RegisterCache.registers` of the host have there.
  const void *_Nullable native_target;
  uint64_t native_registers[7];

  soft_segment segment[8];
  soft_table gdtr, idtr;
  uint64_t cr0, cr2, cr3, cr4, cr8;
  uint64_t dr[8];
  uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base, apic_base, pat, tsc_aux, misc_enable;
  uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
  uint64_t tsc_offset;
  uint64_t pdpte[4];
  uint8_t cpl;
  /// 0: 16-bit, 1: 32-bit, 2: 64-bit code; bit 2: 32-bit stack; bits 3 and 4: VectorChecks.
  uint8_t mode;
  /// Interrupts are held off for one instruction (STI, MOV SS).
  uint8_t shadow;
  uint8_t halted;
  uint8_t nmi_blocked;
  /// A block of this CPU was invalidated since the flag was cleared.
  uint8_t code_changed;
  uint8_t waiting_for_sipi;
  /// The instruction being executed is not single-stepped: it entered a handler.
  uint8_t step_suppressed;
  /// DR7 enables breakpoints on data or ports; on instructions.
  uint8_t data_breakpoints, code_breakpoints;
  /// Every access goes the slow way, for breakpoints and alignment checks.
  uint8_t checks_accesses;
  /// Bits of DR6 to be raised when the instruction is done.
  uint64_t pending_debug;
  /// Interrupts wait that could not be taken when they came.
  uint8_t events_waiting;

  // The exception being raised, or the access the outside is asked for.
  uint8_t vector;
  uint8_t has_error_code;
  uint32_t error_code;

  /// Accesses outside memory that the current operation has completed, in order; it is executed anew after each.
  uint64_t device_values[64];
  uint32_t device_done;
  uint32_t device_next;
  uint64_t device_address;
  uint64_t device_data;
  uint32_t device_width;
  /// More than 1: of a string instruction, in `CPUContext.transfer`.
  uint32_t device_items;

  /// Exception flags of the current run are in the host's MXCSR, too; `soft_mxcsr` joins them.
  uint32_t mxcsr;
  /// What an instruction that may raise unmasked SIMD floating-point exceptions changes.
  uint64_t float_saved[2];
  int64_t float_result;
  uint64_t float_carries;
  /// The x87 state is in the host's FPU, and `x87` is out of date but for the control word.
  uint8_t x87_live;
  /// FOP, FIP, FCS and FDP (SDM vol. 1, 8.1.8): of the last x87 instruction that does not control the FPU.
  uint16_t x87_opcode, x87_selector;
  uint64_t x87_instruction, x87_data;
  soft_x87 x87;
  uint64_t xcr0;
  void *_Nullable owner;
} soft_cpu;

typedef void (*soft_handler)(soft_cpu *_Nonnull, const struct soft_op *_Nonnull);

/// One micro-operation.
typedef struct soft_op {
  soft_handler _Nonnull handler;
  /// Immediate, displacement or branch target.
  int64_t imm;
  /// Address mask, second immediate, or where a direct branch goes (0: not linked yet).
  uint64_t aux;
  /// Byte offsets in soft_cpu.
  uint8_t dst, src, base, index;
  uint8_t shift;
  uint8_t segment;
  /// Of the instruction, from the block's first.
  uint16_t offset;
} soft_op;

_Static_assert(sizeof(soft_op) == 32, "micro-operations are 32 bytes");
_Static_assert(offsetof(soft_cpu, sink) + 8 <= 256, "operands are byte offsets");

/// Operands of vector operations are offsets in units of 8 bytes. That of XMM0; the next register is two further.
static const uint8_t soft_xmm_slot = offsetof(soft_cpu, xmm) / 8;
_Static_assert(offsetof(soft_cpu, xmm) % 16 == 0, "XMM registers are aligned");
_Static_assert(offsetof(soft_cpu, xmm) + sizeof(((soft_cpu *)0)->xmm) <= 2048, "vector operands are bytes");

// Offsets that translated code uses.
static const int32_t soft_result_offset = offsetof(soft_cpu, result);
static const int32_t soft_carries_offset = offsetof(soft_cpu, carries);
static const int32_t soft_tlb_offset = offsetof(soft_cpu, tlb);
static const int32_t soft_tlb_generation_offset = offsetof(soft_cpu, tlb_generation);
static const int32_t soft_linear_mask_offset = offsetof(soft_cpu, linear_mask);
static const int32_t soft_jumps_offset = offsetof(soft_cpu, jumps);
static const int32_t soft_returns_offset = offsetof(soft_cpu, returns);
static const int32_t soft_return_entries_offset = offsetof(soft_returns, entries);
static const int32_t soft_return_entry_size = sizeof(((soft_returns *)0)->entries[0]);
static const int32_t soft_return_entries_size = sizeof(((soft_returns *)0)->entries);
_Static_assert(sizeof(((soft_returns *)0)->entries[0]) == 16 && sizeof(((soft_returns *)0)->entries) == 256,
  "as translated code finds them");
static const int32_t soft_jump_tag_offset = offsetof(soft_cpu, jump_tag);
static const int32_t soft_branch_epoch_offset = offsetof(soft_cpu, branch_epoch);
static const int32_t soft_attention_offset = offsetof(soft_cpu, attention);
static const int32_t soft_notice_offset = offsetof(soft_cpu, notice);
static const int32_t soft_block_offset = offsetof(soft_cpu, block);
static const int32_t soft_rip_offset = offsetof(soft_cpu, rip);
static const int32_t soft_linear_offset = offsetof(soft_cpu, linear);
static const int32_t soft_native_return_offset = offsetof(soft_cpu, native_return);
static const int32_t soft_native_value_offset = offsetof(soft_cpu, native_value);
static const int32_t soft_native_target_offset = offsetof(soft_cpu, native_target);
static const int32_t soft_native_registers_offset = offsetof(soft_cpu, native_registers);
static const int32_t soft_segment_offset = offsetof(soft_cpu, segment);
static const int32_t soft_linear_base_offset = offsetof(soft_segment, linear_base);
static const int32_t soft_read_low_offset = offsetof(soft_segment, read_low);
static const int32_t soft_read_high_offset = offsetof(soft_segment, read_high);
static const int32_t soft_write_low_offset = offsetof(soft_segment, write_low);
static const int32_t soft_write_high_offset = offsetof(soft_segment, write_high);
static const int32_t soft_read_tag_offset = offsetof(soft_tlb_entry, read_tag);
static const int32_t soft_write_tag_offset = offsetof(soft_tlb_entry, write_tag);
static const int32_t soft_addend_offset = offsetof(soft_tlb_entry, addend);
static const int32_t soft_jump_entry_tag_offset = offsetof(soft_jump, tag);
static const int32_t soft_jump_target_offset = offsetof(soft_jump, target);
static const int32_t soft_jump_code_page_offset = offsetof(soft_jump, code_page);
static const int32_t soft_jump_native_offset = offsetof(soft_jump, native);
_Static_assert(sizeof(soft_tlb_entry) == 32 && sizeof(soft_jump) == 32, "as translated code finds them");
_Static_assert(offsetof(soft_op, handler) == 0, "as translated code finds it");

/// Executes a micro-operation and what follows. Translated code changes registers that the ABI has functions keep.
void soft_execute(soft_cpu *_Nonnull cpu, const soft_op *_Nonnull op);

/// Segment register 0 to 7.
static inline soft_segment *_Nonnull soft_segment_at(soft_cpu *_Nonnull cpu, uint32_t index) {
  return &cpu->segment[index & 7];
}

static inline uint32_t soft_attention(const soft_cpu *_Nonnull cpu) {
  return __atomic_load_n(&cpu->attention, __ATOMIC_RELAXED);
}
static inline uint8_t soft_has_notice(const soft_cpu *_Nonnull cpu) {
  return __atomic_load_n(cpu->notice, __ATOMIC_RELAXED) != 0;
}
/// A notice that never comes.
static inline const uint32_t *_Nonnull soft_no_notice(void) {
  static const uint32_t none;
  return &none;
}
/// The word as threads that wait for it see it.
static inline uint32_t *_Nonnull soft_attention_word(soft_cpu *_Nonnull cpu) { return &cpu->attention; }
static inline void soft_request_attention(soft_cpu *_Nonnull cpu, uint32_t bits) {
  __atomic_fetch_or(&cpu->attention, bits, __ATOMIC_SEQ_CST);
}
static inline uint32_t soft_take_attention(soft_cpu *_Nonnull cpu) {
  return __atomic_exchange_n(&cpu->attention, 0, __ATOMIC_SEQ_CST);
}

// Locked operations on guest memory. Misaligned ones are atomic, too: the host's LOCK does what the guest's would.
#define SOFT_ATOMICS(bits)                                                                                   \
  static inline uint##bits##_t soft_compare_exchange_##bits(                                                 \
    void *_Nonnull memory, uint##bits##_t expected, uint##bits##_t desired) {                                \
    __asm__ volatile("lock cmpxchg %2, %1"                                                                   \
                     : "+a"(expected), "+m"(*(uint##bits##_t *)memory) : "r"(desired) : "memory", "cc");     \
    return expected;                                                                                         \
  }
SOFT_ATOMICS(8)
SOFT_ATOMICS(16)
SOFT_ATOMICS(32)
SOFT_ATOMICS(64)

/// Replaces 16 bytes when they are equal to `expected`, which becomes what was there. 1: replaced. 16-byte aligned.
static inline uint8_t soft_compare_exchange_128(
  void *_Nonnull memory, uint64_t *_Nonnull expected_low, uint64_t *_Nonnull expected_high, uint64_t low, uint64_t high) {
  uint8_t equal;
  __asm__ volatile("lock cmpxchg16b %3\n\tsete %0"
                   : "=q"(equal), "+a"(*expected_low), "+d"(*expected_high), "+m"(*(unsigned __int128 *)memory)
                   : "b"(low), "c"(high) : "memory", "cc");
  return equal;
}

/// Everything before is seen before anything after, by other processors too.
static inline void soft_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/// Whether the host has RDRAND and RDSEED: bits 0 and 1.
static inline uint8_t soft_host_random(void) {
  uint32_t a = 1, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  uint8_t has = c >> 30 & 1;
  a = 7, c = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return has | (b >> 18 & 1) << 1;
}
/// The host's RDRAND or RDSEED, which it must have; 0: no number at hand.
static inline uint8_t soft_host_rdrand(uint64_t *_Nonnull value) {
  uint8_t valid;
  __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(*value), "=q"(valid) : : "cc");
  return valid;
}
static inline uint8_t soft_host_rdseed(uint64_t *_Nonnull value) {
  uint8_t valid;
  __asm__ volatile("rdseed %0\n\tsetc %1" : "=r"(*value), "=q"(valid) : : "cc");
  return valid;
}

static inline uint64_t soft_or_64(uint64_t *_Nonnull word, uint64_t bits) {
  return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}
static inline uint64_t soft_exchange_64(uint64_t *_Nonnull word, uint64_t value) {
  return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}
static inline uint8_t soft_exchange_8(uint8_t *_Nonnull word, uint8_t value) {
  return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}
static inline uint64_t soft_load_64(const uint64_t *_Nonnull word) {
  return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

typedef struct soft_quotient {
  uint64_t quotient, remainder;
} soft_quotient;

/// Divides a number of 128 bits whose upper half is below the divisor.
static inline soft_quotient soft_divide(uint64_t high, uint64_t low, uint64_t divisor) {
  __asm__("div %2" : "+a"(low), "+d"(high) : "r"(divisor) : "cc");
  return (soft_quotient){low, high};
}

/// Moves items of 1, 2, 4 or 8 bytes one after the other, from the first on.
void soft_move_items(void *_Nonnull to, const void *_Nonnull from, size_t count, size_t width);
/// Stores the low bytes of `value` in so many items.
void soft_store_items(void *_Nonnull to, uint64_t value, size_t count, size_t width);

/// Gives global entries of one generation another. `globals` has a bit for each entry, which is set where one may be
/// global; bits of others are cleared.
void soft_keep_global(
    soft_tlb_entry *_Nonnull entries, uint64_t *_Nonnull globals, size_t count, uint64_t old, uint64_t generation);

/// Takes the permission to write a page, by its physical address, from all entries that have it.
void soft_forbid_writes(soft_tlb_entry *_Nonnull entries, size_t count, uint64_t physical);
/// The same for all pages.
void soft_forbid_all_writes(soft_tlb_entry *_Nonnull entries, size_t count);

/// 1: both hold the same `size` bytes.
static inline uint8_t soft_equal(const void *_Nonnull a, const void *_Nonnull b, size_t size) {
  return __builtin_memcmp(a, b, size) == 0;
}

/// 1: two pages are equal in those of their 64 bytes whose bit is set in `lines`.
uint8_t soft_equal_lines(const void *_Nonnull a, const void *_Nonnull b, uint64_t lines);

/// Empty tables, which the host backs where they are used. They abort where there is no memory, as Swift's do.
soft_tlb_entry *_Nonnull soft_make_tlb(size_t count);
soft_jump *_Nonnull soft_make_jumps(size_t count);
void soft_free_tlb(soft_tlb_entry *_Nonnull tlb, size_t count);
void soft_free_jumps(soft_jump *_Nonnull jumps, size_t count);

/// Makes a table what it was at first, and gives the memory back.
void soft_discard_tlb(soft_tlb_entry *_Nonnull tlb, size_t count);
void soft_discard_jumps(soft_jump *_Nonnull jumps, size_t count);

/// `count` zeroed words, which the host backs when they are first used.
uint64_t *_Nonnull soft_make_block_table(size_t count);
void soft_free_block_table(uint64_t *_Nonnull table, size_t count);

/// `count` zeroed pages, which the host backs when they are first used; NULL: no memory.
soft_code_page *_Nullable soft_make_code_pages(size_t count);
void soft_free_code_pages(soft_code_page *_Nullable pages);

/// The host's CPUID, subleaf 0: EAX, EBX, ECX, EDX; zeros for a leaf that it does not have.
void soft_host_cpuid(uint32_t leaf, uint32_t *_Nonnull registers);

#include "Vector.h"
