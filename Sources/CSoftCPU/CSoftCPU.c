#include "CSoftCPU.h"

#include <cpuid.h>

void soft_host_cpuid(uint32_t leaf, uint32_t *registers) {
  registers[0] = registers[1] = registers[2] = registers[3] = 0;
  __get_cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]);
}
