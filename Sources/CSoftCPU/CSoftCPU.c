#include "CSoftCPU.h"

#include <cpuid.h>
#include <stdlib.h>

soft_code_page *soft_make_code_pages(size_t count) { return calloc(count, sizeof(soft_code_page)); }

void soft_free_code_pages(soft_code_page *pages) { free(pages); }

void soft_host_cpuid(uint32_t leaf, uint32_t *registers) {
  registers[0] = registers[1] = registers[2] = registers[3] = 0;
  __get_cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]);
}
