// Micro-operations that are one host instruction on the guest's operands. A handler has the state in RDI and its
// micro-operation in RSI, keeps both, and ends by jumping to the next one. `Vector.c` asserts the offsets.
#include "VectorInstructions.h"

#define OP_AUX 16
#define OP_DST 24
#define OP_SRC 25
#define OP_SIZE 32
#define XMM0_OFFSET 176
#define DST (%rdi,%rax,8)
#define SRC (%rdi,%rcx,8)

  .text

.macro begin name
  .p2align 4
  .globl \name
  .hidden \name
  .type \name, @function
\name:
  .cfi_startproc
.endm

.macro end name
  .cfi_endproc
  .size \name, . - \name
.endm

.macro handler name
  begin \name
  movzbl OP_DST(%rsi), %eax
  movzbl OP_SRC(%rsi), %ecx
.endm

.macro next name
  addq $OP_SIZE, %rsi
  jmpq *(%rsi)
  end \name
.endm

// For translated code: how long the instruction is, and the instruction; its last four bytes are the source's offset.
.macro code instruction
  .pushsection .rodata, "a", @progbits
  .globl soft_code_\instruction
  .hidden soft_code_\instruction
soft_code_\instruction:
  .byte 2f - 1f
1:
  \instruction 0x7FFFFFFF(%rdi), %xmm0
2:
  .popsection
.endm

// dst = instruction(dst, src). Only packed instructions read 16 bytes of the source, and then it is an XMM register.
.macro xmm instruction
  handler soft_xmm_\instruction
  movdqa DST, %xmm0
  \instruction SRC, %xmm0
  movdqa %xmm0, DST
  next soft_xmm_\instruction
  code \instruction
.endm

.macro mmx instruction
  handler soft_mmx_\instruction
  movq DST, %mm0
  \instruction SRC, %mm0
  movq %mm0, DST
  emms
  next soft_mmx_\instruction
.endm

#define X(name) xmm name;
SOFT_FLOAT_INSTRUCTIONS(X)
SOFT_XMM_INSTRUCTIONS(X)
SOFT_MMX_INSTRUCTIONS(X)
SOFT_XMM_PARTS(X)
#undef X
#define X(name) mmx name;
SOFT_MMX_INSTRUCTIONS(X)
#undef X

.macro copy name, instruction
  handler soft_xmm_\name
  movdqa DST, %xmm0
  movdqa SRC, %xmm1
  \instruction %xmm1, %xmm0
  movdqa %xmm0, DST
  next soft_xmm_\name
.endm
copy movss, movss
copy movsd, movsd
copy move, movdqa

.macro xmm0 instruction
  handler soft_xmm_\instruction
  movdqa XMM0_OFFSET(%rdi), %xmm0
  movdqa DST, %xmm1
  \instruction %xmm0, SRC, %xmm1
  movdqa %xmm1, DST
  next soft_xmm_\instruction
.endm
#define X(name) xmm0 name;
SOFT_XMM0_INSTRUCTIONS(X)
#undef X

// Instructions with immediates: AUX is the piece of code for the immediate, which has dst in XMM0 or MM0, src in XMM1
// or MM1 and at RDX, and returns an element in RAX.
  handler soft_xmm_immediate
  leaq DST, %r8
  leaq SRC, %rdx
  movdqa (%r8), %xmm0
  movdqu (%rdx), %xmm1
  callq *OP_AUX(%rsi)
  movdqa %xmm0, (%r8)
  next soft_xmm_immediate

  handler soft_xmm_extract
  leaq DST, %r8
  movdqa SRC, %xmm0
  callq *OP_AUX(%rsi)
  movq %rax, (%r8)
  next soft_xmm_extract

  handler soft_mmx_immediate
  leaq DST, %r8
  leaq SRC, %rdx
  movq (%r8), %mm0
  movq (%rdx), %mm1
  callq *OP_AUX(%rsi)
  movq %mm0, (%r8)
  emms
  next soft_mmx_immediate

  handler soft_mmx_extract
  leaq DST, %r8
  movq SRC, %mm0
  callq *OP_AUX(%rsi)
  movq %rax, (%r8)
  emms
  next soft_mmx_extract

// 256 pieces of 8 bytes: an instruction with each immediate, and a return.
.macro immediates name, instruction, operands:vararg
  begin \name
  .set immediate, 0
  .rept 256
  .p2align 3
  \instruction $immediate, \operands
  ret
  .set immediate, immediate + 1
  .endr
  end \name
.endm

#define X(name) immediates soft_immediates_##name, name, %xmm1, %xmm0;
SOFT_FLOAT_IMMEDIATES(X)
SOFT_XMM_IMMEDIATES(X)
SOFT_STRING_INSTRUCTIONS(X)
#undef X
#define X(name) immediates soft_shifts_##name, name, %xmm0;
SOFT_XMM_SHIFTS(X)
#undef X
#define X(name) immediates soft_inserts_##name, name, (%rdx), %xmm0;
SOFT_XMM_INSERTS(X)
#undef X
#define X(name) immediates soft_extracts_##name, name, %xmm0, %eax;
#define Y(name) immediates soft_extracts_##name, name, %xmm0, %rax;
SOFT_XMM_EXTRACTS(X, Y)
#undef X
#undef Y
#define X(name) immediates soft_mmx_immediates_##name, name, %mm1, %mm0;
SOFT_MMX_IMMEDIATES(X)
#undef X
#define X(name) immediates soft_mmx_shifts_##name, name, %mm0;
SOFT_MMX_SHIFTS(X)
#undef X
immediates soft_mmx_inserts_pinsrw, pinsrw, (%rdx), %mm0
immediates soft_mmx_extracts_pextrw, pextrw, %mm0, %eax

// void soft_call_string(code, const void *a, const void *b, int64 length_a, int64 length_b, soft_string_result *)
  begin soft_call_string
  movdqu (%rsi), %xmm0
  movdqu (%rdx), %xmm1
  movq %rdi, %r10
  movq %rcx, %rax
  movq %r8, %rdx
  callq *%r10
  pushfq
  popq %rax
  movdqu %xmm0, (%r9)
  movq %rcx, 16(%r9)
  movq %rax, 24(%r9)
  ret
  end soft_call_string

// x87 instructions with register operands, by opcode (D8 to DF) and ModRM (C0 to FF): 4 bytes each.
  begin soft_x87_registers
  .set opcode, 0xD8
  .rept 8
  .set modrm, 0xC0
  .rept 64
  .byte opcode, modrm
  ret
  nop
  .set modrm, modrm + 1
  .endr
  .set opcode, opcode + 1
  .endr
  end soft_x87_registers

// Those with memory operands, at RDI, by opcode and ModRM.reg: 4 bytes each.
  begin soft_x87_memory
  .set opcode, 0xD8
  .rept 8
  .set modrm, 0x07
  .rept 8
  .byte opcode, modrm
  ret
  nop
  .set modrm, modrm + 8
  .endr
  .set opcode, opcode + 1
  .endr
  end soft_x87_memory

// FUCOMI, FCOMI (DB E8 to F7) and FUCOMIP, FCOMIP (DF): 8 bytes each; RFLAGS in RAX.
  begin soft_x87_comparisons
  .irp opcode, 0xDB, 0xDF
  .set modrm, 0xE8
  .rept 16
  .p2align 3
  .byte \opcode, modrm
  pushfq
  popq %rax
  ret
  .set modrm, modrm + 1
  .endr
  .endr
  end soft_x87_comparisons

// FCMOVcc (DA C0 to DF, DB C0 to DF) with the flags in RDI: 8 bytes each.
  begin soft_x87_conditionals
  .irp opcode, 0xDA, 0xDB
  .set modrm, 0xC0
  .rept 32
  .p2align 3
  pushq %rdi
  popfq
  .byte \opcode, modrm
  ret
  .set modrm, modrm + 1
  .endr
  .endr
  end soft_x87_conditionals

  .section .note.GNU-stack, "", @progbits
