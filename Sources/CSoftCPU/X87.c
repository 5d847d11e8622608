#include "Handler.h"

// The guest's x87 state stays in the host's FPU from its first x87 instruction until MMX, an instruction that reads the
// state as a whole, or the end of the run. Nothing the compiler makes for this architecture uses that FPU.

extern const uint8_t soft_x87_registers[], soft_x87_memory[], soft_x87_comparisons[], soft_x87_conditionals[];

const uint8_t *soft_x87_register_code(void) { return soft_x87_registers; }
const uint8_t *soft_x87_memory_code(void) { return soft_x87_memory; }
const uint8_t *soft_x87_comparison_code(void) { return soft_x87_comparisons; }
const uint8_t *soft_x87_conditional_code(void) { return soft_x87_conditionals; }

typedef void (*instruction)(void *operand);
typedef uint64_t (*comparison)(void);
typedef void (*conditional)(uint64_t flags);

void soft_x87_load(soft_cpu *cpu) {
  if (cpu->x87_live) return;
  __asm__ volatile("frstor %0" : : "m"(cpu->x87));
  cpu->x87_live = 1;
}

void soft_x87_unload(soft_cpu *cpu) {
  if (!cpu->x87_live) return;
  __asm__ volatile("fnsave %0" : "=m"(cpu->x87));
  cpu->x87_live = 0;
}

void soft_x87_set_control(soft_cpu *cpu, uint16_t value) {
  soft_x87_load(cpu);
  __asm__ volatile("fldcw %1\n\tfnstcw %0" : "=m"(cpu->x87.control) : "m"(value));
}

static inline void begin(soft_cpu *cpu, const soft_op *op) {
  if (!cpu->x87_live) soft_x87_load(cpu);
  cpu->x87_instruction = (cpu->code_page + (uint64_t)op->imm) & cpu->linear_mask;
  cpu->x87_opcode = (uint16_t)((op->index & 7) << 8 | op->base);
}

void soft_x87_execute(soft_cpu *cpu, const soft_op *op) {
  begin(cpu, op);
  ((instruction)op->aux)(slot(cpu, op->src));
  NEXT;
}

void soft_x87_compare(soft_cpu *cpu, const soft_op *op) {
  begin(cpu, op);
  uint64_t flags = ((comparison)op->aux)();
  cpu->result = flags & 0x40 ? 0 : 1 << 8;
  cpu->carries = (flags & 1 ? 3ull << 62 : 0) | (flags & 4 ? 0 : 1 << 8);
  NEXT;
}

void soft_x87_move_if(soft_cpu *cpu, const soft_op *op, uint64_t flags) {
  begin(cpu, op);
  ((conditional)op->aux)(flags);
}

void soft_x87_store_status(soft_cpu *cpu, const soft_op *op) {
  uint16_t *to = slot(cpu, op->dst);
  if (cpu->x87_live) {
    __asm__ volatile("fnstsw %0" : "=m"(*to));
  } else {
    *to = cpu->x87.status;
  }
  NEXT;
}

void soft_x87_store_control(soft_cpu *cpu, const soft_op *op) {
  *(uint16_t *)slot(cpu, op->dst) = cpu->x87.control;
  NEXT;
}

void soft_x87_point(soft_cpu *cpu, const soft_op *op) {
  uint64_t base = *(uint64_t *)((char *)cpu + op->base);
  uint64_t index = *(uint64_t *)((char *)cpu + op->index);
  cpu->x87_data = (base + (index << (op->shift & 3)) + (uint64_t)op->imm) & op->aux;
  NEXT;
}

void soft_x87_put_away(soft_cpu *cpu, const soft_op *op) {
  soft_x87_unload(cpu);
  NEXT;
}

void soft_x87_set_status(soft_cpu *cpu, uint16_t status) {
  soft_x87_unload(cpu);
  uint32_t turn = ((status >> 11) - (cpu->x87.status >> 11)) & 7;
  if (turn) {
    uint8_t copy[80];
    __builtin_memcpy(copy, cpu->x87.registers, 80);
    for (uint32_t number = 0; number < 8; number++) {
      __builtin_memcpy(cpu->x87.registers + 10 * number, copy + 10 * ((number + turn) & 7), 10);
    }
  }
  cpu->x87.status = status;
}

void soft_mmx_begin(soft_cpu *cpu) {
  soft_x87_unload(cpu);
  soft_x87_set_status(cpu, cpu->x87.status & ~(7 << 11));
  cpu->x87.tag = 0;
}

void soft_mmx_read(soft_cpu *cpu, const soft_op *op) {
  soft_mmx_begin(cpu);
  __builtin_memcpy(slot(cpu, op->dst), cpu->x87.registers + 10 * (op->src & 7), 8);
  NEXT;
}

void soft_mmx_write(soft_cpu *cpu, const soft_op *op) {
  soft_mmx_begin(cpu);
  uint8_t *to = cpu->x87.registers + 10 * (op->dst & 7);
  __builtin_memcpy(to, slot(cpu, op->src), 8);
  to[8] = to[9] = 0xFF;
  NEXT;
}

void soft_mmx_enter(soft_cpu *cpu, const soft_op *op) {
  soft_mmx_begin(cpu);
  NEXT;
}

void soft_mmx_empty(soft_cpu *cpu, const soft_op *op) {
  soft_mmx_begin(cpu);
  cpu->x87.tag = 0xFFFF;
  NEXT;
}

#define BETWEEN(name, code)                                                                                  \
  void soft_##name(soft_cpu *cpu, const soft_op *op) {                                                       \
    __asm__ volatile(code "\n\temms" : : "r"(slot(cpu, op->dst)), "r"(slot(cpu, op->src)) : "memory", "xmm0", "rax"); \
    NEXT;                                                                                                    \
  }
BETWEEN(mmx_pmovmskb, "movq (%1), %%mm0\n\tpmovmskb %%mm0, %%eax\n\tmovq %%rax, (%0)")
BETWEEN(cvtpi2ps, "movaps (%0), %%xmm0\n\tcvtpi2ps (%1), %%xmm0\n\tmovaps %%xmm0, (%0)")
BETWEEN(cvtpi2pd, "cvtpi2pd (%1), %%xmm0\n\tmovaps %%xmm0, (%0)")
BETWEEN(cvtps2pi, "cvtps2pi (%1), %%mm0\n\tmovq %%mm0, (%0)")
BETWEEN(cvttps2pi, "cvttps2pi (%1), %%mm0\n\tmovq %%mm0, (%0)")
BETWEEN(cvtpd2pi, "cvtpd2pi (%1), %%mm0\n\tmovq %%mm0, (%0)")
BETWEEN(cvttpd2pi, "cvttpd2pi (%1), %%mm0\n\tmovq %%mm0, (%0)")
