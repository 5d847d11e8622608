#include "Handler.h"
#include "VectorInstructions.h"

_Static_assert(offsetof(soft_op, aux) == 16, "OP_AUX in Vector.S");
_Static_assert(offsetof(soft_op, dst) == 24, "OP_DST in Vector.S");
_Static_assert(offsetof(soft_op, src) == 25, "OP_SRC in Vector.S");
_Static_assert(offsetof(soft_cpu, xmm) == 176, "XMM0_OFFSET in Vector.S");

typedef float vector __attribute__((vector_size(16)));

#define X(name) SOFT_HANDLER(soft_xmm_##name)
SOFT_FLOAT_INSTRUCTIONS(X)
SOFT_XMM_INSTRUCTIONS(X)
SOFT_MMX_INSTRUCTIONS(X)
SOFT_XMM0_INSTRUCTIONS(X)
#undef X
#define X(name) SOFT_HANDLER(soft_mmx_##name)
SOFT_MMX_INSTRUCTIONS(X)
#undef X
#define X(name) extern const uint8_t soft_immediates_##name[];
SOFT_FLOAT_IMMEDIATES(X)
SOFT_XMM_IMMEDIATES(X)
SOFT_STRING_INSTRUCTIONS(X)
#undef X
#define X(name) extern const uint8_t soft_shifts_##name[];
SOFT_XMM_SHIFTS(X)
#undef X
#define X(name) extern const uint8_t soft_inserts_##name[];
SOFT_XMM_INSERTS(X)
#undef X
#define X(name) extern const uint8_t soft_extracts_##name[];
SOFT_XMM_EXTRACTS(X, X)
#undef X
#define X(name) extern const uint8_t soft_mmx_immediates_##name[];
SOFT_MMX_IMMEDIATES(X)
#undef X
#define X(name) extern const uint8_t soft_mmx_shifts_##name[];
SOFT_MMX_SHIFTS(X)
#undef X
extern const uint8_t soft_mmx_inserts_pinsrw[], soft_mmx_extracts_pextrw[];

static const soft_vector_instruction instructions[] = {
#define X(name) {#name, soft_xmm_##name, 0, soft_form_register, 0, 1},
  SOFT_FLOAT_INSTRUCTIONS(X)
#undef X
#define X(name) {#name, soft_xmm_##name, 0, soft_form_register, 0, 0},
  SOFT_XMM_INSTRUCTIONS(X)
  SOFT_MMX_INSTRUCTIONS(X)
  SOFT_XMM0_INSTRUCTIONS(X)
#undef X
#define X(name) {#name, soft_mmx_##name, 0, soft_form_register, 1, 0},
  SOFT_MMX_INSTRUCTIONS(X)
#undef X
#define X(name) {#name, soft_xmm_immediate, soft_immediates_##name, soft_form_immediate, 0, 1},
  SOFT_FLOAT_IMMEDIATES(X)
#undef X
#define X(name) {#name, soft_xmm_immediate, soft_immediates_##name, soft_form_immediate, 0, 0},
  SOFT_XMM_IMMEDIATES(X)
#undef X
#define X(name) {#name, soft_xmm_immediate, soft_shifts_##name, soft_form_shift, 0, 0},
  SOFT_XMM_SHIFTS(X)
#undef X
#define X(name) {#name, soft_xmm_immediate, soft_inserts_##name, soft_form_insert, 0, 0},
  SOFT_XMM_INSERTS(X)
#undef X
#define X(name) {#name, soft_xmm_extract, soft_extracts_##name, soft_form_extract, 0, 0},
  SOFT_XMM_EXTRACTS(X, X)
#undef X
#define X(name) {#name, soft_compare_strings, soft_immediates_##name, soft_form_string, 0, 0},
  SOFT_STRING_INSTRUCTIONS(X)
#undef X
#define X(name) {#name, soft_mmx_immediate, soft_mmx_immediates_##name, soft_form_immediate, 1, 0},
  SOFT_MMX_IMMEDIATES(X)
#undef X
#define X(name) {#name, soft_mmx_immediate, soft_mmx_shifts_##name, soft_form_shift, 1, 0},
  SOFT_MMX_SHIFTS(X)
#undef X
  {"pinsrw", soft_mmx_immediate, soft_mmx_inserts_pinsrw, soft_form_insert, 1, 0},
  {"pextrw", soft_mmx_extract, soft_mmx_extracts_pextrw, soft_form_extract, 1, 0},
  {"", soft_xmm_move, 0, soft_form_register, 0, 0},
};

const soft_vector_instruction *soft_vector_instruction_at(size_t index) { return &instructions[index]; }

#define X(name) extern const uint8_t soft_code_##name[];
#define ALL(X)                                                                                               \
  SOFT_FLOAT_INSTRUCTIONS(X)                                                                                 \
  SOFT_XMM_INSTRUCTIONS(X)                                                                                   \
  SOFT_MMX_INSTRUCTIONS(X)                                                                                   \
  SOFT_XMM_PARTS(X)
ALL(X)
#undef X
static const soft_vector_code codes[] = {
#define X(name) {soft_xmm_##name, soft_code_##name},
  ALL(X)
#undef X
#undef ALL
};

size_t soft_vector_code_count(void) { return sizeof(codes) / sizeof(codes[0]); }
const soft_vector_code *soft_vector_code_at(size_t index) { return &codes[index]; }

#define COPY(bits)                                                                                           \
  void soft_copy_##bits(soft_cpu *cpu, const soft_op *op) {                                                  \
    *(uint64_t *)slot(cpu, op->dst) = *(uint##bits##_t *)slot(cpu, op->src);                                 \
    NEXT;                                                                                                    \
  }
COPY(8)
COPY(16)
COPY(32)
COPY(64)

// The instruction's own source may be memory, so that only its bytes are read.
#define TO_GENERAL(name, mnemonic, type)                                                                     \
  void soft_##name(soft_cpu *cpu, const soft_op *op) {                                                       \
    type result;                                                                                             \
    __asm__ volatile(mnemonic " %1, %0" : "=r"(result) : "x"(*(const vector *)slot(cpu, op->src)));          \
    *(uint64_t *)slot(cpu, op->dst) = result;                                                                \
    NEXT;                                                                                                    \
  }
TO_GENERAL(movmskps, "movmskps", uint32_t)
TO_GENERAL(movmskpd, "movmskpd", uint32_t)
TO_GENERAL(pmovmskb, "pmovmskb", uint32_t)
TO_GENERAL(cvtss2si32, "cvtss2si", uint32_t)
TO_GENERAL(cvtss2si64, "cvtss2si", uint64_t)
TO_GENERAL(cvttss2si32, "cvttss2si", uint32_t)
TO_GENERAL(cvttss2si64, "cvttss2si", uint64_t)
TO_GENERAL(cvtsd2si32, "cvtsd2si", uint32_t)
TO_GENERAL(cvtsd2si64, "cvtsd2si", uint64_t)
TO_GENERAL(cvttsd2si32, "cvttsd2si", uint32_t)
TO_GENERAL(cvttsd2si64, "cvttsd2si", uint64_t)

/// Sets the lazy flags (Flags.swift), AF clear.
static inline void set_flags(soft_cpu *cpu, uint64_t cf, uint64_t pf, uint64_t zf, uint64_t sf, uint64_t of) {
  cpu->result = zf ? 0 : 1 << 8;
  cpu->carries = cf << 63 | (cf ^ of) << 62 | (pf ^ 1) << 8 | sf;
}

// Not "=@ccc" and its kin: with several of them LLVM 21 makes an SBB, which changes the flags that others still read.
#define COMPARISON(name)                                                                                     \
  void soft_##name(soft_cpu *cpu, const soft_op *op) {                                                       \
    uint8_t cf, pf, zf;                                                                                      \
    __asm__ volatile(#name " %4, %3\n\tsetc %0\n\tsetp %1\n\tsetz %2"                                      \
                     : "=q"(cf), "=q"(pf), "=q"(zf)                                                          \
                     : "x"(*(const vector *)slot(cpu, op->dst)), "x"(*(const vector *)slot(cpu, op->src)));  \
    set_flags(cpu, cf, pf, zf, 0, 0);                                                                        \
    NEXT;                                                                                                    \
  }
COMPARISON(comiss)
COMPARISON(ucomiss)
COMPARISON(comisd)
COMPARISON(ucomisd)

void soft_ptest(soft_cpu *cpu, const soft_op *op) {
  uint8_t cf, zf;
  __asm__ volatile("ptest %3, %2\n\tsetc %0\n\tsetz %1"
                   : "=q"(cf), "=q"(zf)
                   : "x"(*(const vector *)slot(cpu, op->dst)), "x"(*(const vector *)slot(cpu, op->src)));
  set_flags(cpu, cf, 0, zf, 0, 0);
  NEXT;
}

typedef struct soft_string_result {
  uint64_t mask[2];
  uint64_t index;
  uint64_t flags;
} soft_string_result;

void soft_call_string(
  uint64_t code, const void *a, const void *b, int64_t length_a, int64_t length_b, soft_string_result *result);

/// Lengths are absolute values, and count up to 16.
static int64_t string_length(uint64_t value, int is_wide) {
  int64_t length = is_wide ? (int64_t)value : (int32_t)value;
  return length > 16 || length < -16 ? 16 : length;
}

/// BASE: not zero where the lengths are 64 bits. INDEX: not zero where the result is a mask in XMM0, not RCX.
void soft_compare_strings(soft_cpu *cpu, const soft_op *op) {
  soft_string_result result;
  soft_call_string(
    op->aux, slot(cpu, op->dst), slot(cpu, op->src), string_length(cpu->gpr[0], op->base),
    string_length(cpu->gpr[2], op->base), &result);
  if (op->index) {
    cpu->xmm[0] = result.mask[0];
    cpu->xmm[1] = result.mask[1];
  } else {
    cpu->gpr[1] = (uint32_t)result.index;
  }
  set_flags(cpu, result.flags & 1, 0, result.flags >> 6 & 1, result.flags >> 7 & 1, result.flags >> 11 & 1);
  NEXT;
}

static uint32_t host_mxcsr(void) {
  uint32_t value;
  __asm__ volatile("stmxcsr %0" : "=m"(value));
  return value;
}

static void set_host_mxcsr(uint32_t value) { __asm__ volatile("ldmxcsr %0" : : "m"(value)); }

enum { mxcsr_flags = 0x3F, mxcsr_masks = 0x1F80, mxcsr_default = 0x1F80, mxcsr_flush = 0x8000 };

// The host's code sets flags, too: what it set since the guest ran last is thrown away. Most guests use the host's
// rounding and have the same sticky flags soon, so that neither has to load the register.

void soft_enter_guest(soft_cpu *cpu) {
  uint32_t wanted = cpu->mxcsr | mxcsr_masks;
  uint32_t host = host_mxcsr();
  if (host & ~wanted || (host ^ wanted) & ~(uint32_t)mxcsr_flags) set_host_mxcsr(wanted);
}

void soft_leave_guest(soft_cpu *cpu) {
  uint32_t host = host_mxcsr();
  cpu->mxcsr |= host & mxcsr_flags;
  if ((host & ~(uint32_t)mxcsr_flags) != mxcsr_default) set_host_mxcsr(mxcsr_default);
}

uint32_t soft_mxcsr(const soft_cpu *cpu) { return cpu->mxcsr | (host_mxcsr() & mxcsr_flags); }

void soft_set_mxcsr(soft_cpu *cpu, uint32_t value) {
  cpu->mxcsr = value;
  set_host_mxcsr(value | mxcsr_masks);
}

void soft_clear_float_flags(const soft_cpu *cpu, uint8_t flushes) {
  uint32_t control = cpu->mxcsr & ~(uint32_t)(mxcsr_flags | mxcsr_flush);
  set_host_mxcsr(control | mxcsr_masks | (flushes ? mxcsr_flush : cpu->mxcsr & mxcsr_flush));
}

uint32_t soft_float_flags(void) { return host_mxcsr() & mxcsr_flags; }
