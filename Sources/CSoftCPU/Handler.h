// How a C handler reaches its operands and the next handler.
#pragma once

#include "Vector.h"

#define NEXT __attribute__((musttail)) return op[1].handler(cpu, op + 1)

/// The operand at a slot in units of 8 bytes.
static inline void *slot(soft_cpu *cpu, uint8_t number) { return (uint64_t *)cpu + number; }
