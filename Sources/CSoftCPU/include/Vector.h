// Micro-operations on vector registers. The handlers are in Vector.S, Vector.c and X87.c.
#pragma once

#include "CSoftCPU.h"

/// How `soft_vector_instruction` is applied.
typedef enum soft_vector_form : uint8_t {
  /// dst = handler(dst, src).
  soft_form_register,
  /// `code` + 8 * immediate is what AUX calls; the handler of the register form, an insertion, a shift of dst,
  /// an extraction, or a comparison of strings.
  soft_form_immediate,
  soft_form_insert,
  soft_form_shift,
  soft_form_extract,
  soft_form_string,
} soft_vector_form;

/// A SIMD instruction that the host executes.
typedef struct soft_vector_instruction {
  const char *_Nonnull mnemonic;
  soft_handler _Nonnull handler;
  const uint8_t *_Nullable code;
  soft_vector_form form;
  /// The operands are MMX registers.
  uint8_t is_mmx;
  /// It raises SIMD floating-point exceptions.
  uint8_t is_float;
} soft_vector_instruction;

/// Number `index` of the instructions; the mnemonic after the last is empty.
const soft_vector_instruction *_Nonnull soft_vector_instruction_at(size_t index);

/// Host code of dst = handler(dst, src) with dst in XMM0: after a byte with its length the instruction, whose last four
/// bytes are the offset of src from RDI.
typedef struct soft_vector_code {
  soft_handler _Nonnull handler;
  const uint8_t *_Nonnull code;
} soft_vector_code;

size_t soft_vector_code_count(void);
const soft_vector_code *_Nonnull soft_vector_code_at(size_t index);

#define SOFT_HANDLER(name) void name(soft_cpu *_Nonnull cpu, const soft_op *_Nonnull op);

SOFT_HANDLER(soft_xmm_move)
SOFT_HANDLER(soft_xmm_movss)
SOFT_HANDLER(soft_xmm_movsd)
SOFT_HANDLER(soft_xmm_movd)
SOFT_HANDLER(soft_xmm_movq)
SOFT_HANDLER(soft_xmm_movlps)
SOFT_HANDLER(soft_xmm_movhps)
SOFT_HANDLER(soft_xmm_cvtsi2sdl)
SOFT_HANDLER(soft_xmm_cvtsi2sdq)
SOFT_HANDLER(soft_xmm_cvtsi2ssl)
SOFT_HANDLER(soft_xmm_cvtsi2ssq)
/// Handlers of the forms with immediates.
SOFT_HANDLER(soft_xmm_immediate)
SOFT_HANDLER(soft_xmm_extract)
SOFT_HANDLER(soft_mmx_immediate)
SOFT_HANDLER(soft_mmx_extract)
SOFT_HANDLER(soft_compare_strings)

// A general register, or memory loaded into a temporary: dst becomes src, zero-extended.
SOFT_HANDLER(soft_copy_8)
SOFT_HANDLER(soft_copy_16)
SOFT_HANDLER(soft_copy_32)
SOFT_HANDLER(soft_copy_64)

// XMM to general registers.
SOFT_HANDLER(soft_movmskps)
SOFT_HANDLER(soft_movmskpd)
SOFT_HANDLER(soft_pmovmskb)
SOFT_HANDLER(soft_cvtss2si32)
SOFT_HANDLER(soft_cvtss2si64)
SOFT_HANDLER(soft_cvttss2si32)
SOFT_HANDLER(soft_cvttss2si64)
SOFT_HANDLER(soft_cvtsd2si32)
SOFT_HANDLER(soft_cvtsd2si64)
SOFT_HANDLER(soft_cvttsd2si32)
SOFT_HANDLER(soft_cvttsd2si64)

// XMM to flags.
SOFT_HANDLER(soft_comiss)
SOFT_HANDLER(soft_ucomiss)
SOFT_HANDLER(soft_comisd)
SOFT_HANDLER(soft_ucomisd)
SOFT_HANDLER(soft_ptest)

// MMX registers. `read` and `write` move register `src` or `dst` to or from a slot, and do to the x87 state what MMX
// instructions do.
SOFT_HANDLER(soft_mmx_read)
SOFT_HANDLER(soft_mmx_write)
SOFT_HANDLER(soft_mmx_enter)
SOFT_HANDLER(soft_mmx_empty)
SOFT_HANDLER(soft_mmx_pmovmskb)
SOFT_HANDLER(soft_cvtpi2ps)
SOFT_HANDLER(soft_cvtpi2pd)
SOFT_HANDLER(soft_cvtps2pi)
SOFT_HANDLER(soft_cvttps2pi)
SOFT_HANDLER(soft_cvtpd2pi)
SOFT_HANDLER(soft_cvttpd2pi)

// x87. AUX: the piece of code from one of the tables below; IMM: RIP relative to `code_page`; BASE: ModRM; INDEX: opcode;
// SRC: memory operand.
SOFT_HANDLER(soft_x87_execute)
SOFT_HANDLER(soft_x87_compare)
SOFT_HANDLER(soft_x87_store_status)
SOFT_HANDLER(soft_x87_store_control)
/// FDP becomes the offset of the memory operand.
SOFT_HANDLER(soft_x87_point)
/// Moves the x87 state out of the host's FPU.
SOFT_HANDLER(soft_x87_put_away)

/// The tables: register forms, memory forms, FCOMI and its kin, FCMOVcc.
const uint8_t *_Nonnull soft_x87_register_code(void);
const uint8_t *_Nonnull soft_x87_memory_code(void);
const uint8_t *_Nonnull soft_x87_comparison_code(void);
const uint8_t *_Nonnull soft_x87_conditional_code(void);

/// FLDCW.
void soft_x87_set_control(soft_cpu *_Nonnull cpu, uint16_t value);
/// The status word becomes `status`. TOP may change: the registers stay where they are, and get other numbers.
void soft_x87_set_status(soft_cpu *_Nonnull cpu, uint16_t status);
/// What any MMX instruction does to the x87 state: TOP = 0, all registers valid (SDM vol. 3, 13.1).
void soft_mmx_begin(soft_cpu *_Nonnull cpu);

/// Executes FCMOVcc, a piece of `soft_x87_conditionals`, with these flags.
void soft_x87_move_if(soft_cpu *_Nonnull cpu, const soft_op *_Nonnull op, uint64_t flags);
/// Moves the x87 state into the host's FPU, or out of it. Between them the host must not use x87 or MMX.
void soft_x87_load(soft_cpu *_Nonnull cpu);
void soft_x87_unload(soft_cpu *_Nonnull cpu);

/// Around running guest code: gives the host's MXCSR the guest's rounding and flags, and takes them back.
void soft_enter_guest(soft_cpu *_Nonnull cpu);
void soft_leave_guest(soft_cpu *_Nonnull cpu);
/// The guest's MXCSR while it runs.
uint32_t soft_mxcsr(const soft_cpu *_Nonnull cpu);
void soft_set_mxcsr(soft_cpu *_Nonnull cpu, uint32_t value);

/// Before an instruction that may raise an unmasked SIMD floating-point exception: clears the host's flags.
/// `flushes`: with tiny results flushed to zero, which raises underflow for exact ones, too.
void soft_clear_float_flags(const soft_cpu *_Nonnull cpu, uint8_t flushes);
uint32_t soft_float_flags(void);

static inline void soft_copy_vector(void *_Nonnull to, const void *_Nonnull from) {
  __builtin_memcpy(to, from, 16);
}
/// The low 8 or 4 bytes, zero-extended to 16.
static inline void soft_extend_64(void *_Nonnull to, const void *_Nonnull from) {
  uint64_t value;
  __builtin_memcpy(&value, from, 8);
  typedef uint64_t vector __attribute__((vector_size(16)));
  *(vector *)to = (vector){value, 0};
}
static inline void soft_extend_32(void *_Nonnull to, const void *_Nonnull from) {
  uint32_t value;
  __builtin_memcpy(&value, from, 4);
  typedef uint32_t vector __attribute__((vector_size(16)));
  *(vector *)to = (vector){value, 0, 0, 0};
}

// dst = instruction(dst, memory), for the operations that have a memory operand in one.
#define SOFT_APPLY(name)                                                                                     \
  static inline void soft_apply_##name(void *_Nonnull dst, const void *_Nonnull memory) {                    \
    typedef float vector __attribute__((vector_size(16)));                                                   \
    vector value = *(vector *)dst;                                                                           \
    __asm__ volatile(#name " %1, %0" : "+x"(value) : "m"(*(const char(*)[16])memory));                       \
    *(vector *)dst = value;                                                                                  \
  }
SOFT_APPLY(addsd)
SOFT_APPLY(subsd)
SOFT_APPLY(mulsd)
SOFT_APPLY(divsd)
SOFT_APPLY(addpd)
SOFT_APPLY(subpd)
SOFT_APPLY(mulpd)
SOFT_APPLY(divpd)
SOFT_APPLY(addss)
SOFT_APPLY(subss)
SOFT_APPLY(mulss)
SOFT_APPLY(divss)
SOFT_APPLY(addps)
SOFT_APPLY(subps)
SOFT_APPLY(mulps)
SOFT_APPLY(divps)
