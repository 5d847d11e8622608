#include "CSoftCPU.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

soft_code_page *soft_make_code_pages(size_t count) { return calloc(count, sizeof(soft_code_page)); }

void soft_free_code_pages(soft_code_page *pages) { free(pages); }

void soft_host_cpuid(uint32_t leaf, uint32_t *registers) {
  registers[0] = registers[1] = registers[2] = registers[3] = 0;
  __get_cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]);
}

void soft_move_items(void *to, const void *from, size_t count, size_t width) {
  // Only where the destination starts within the source do later items read what earlier ones wrote.
  if ((uintptr_t)to - (uintptr_t)from >= count * width) {
    memmove(to, from, count * width);
    return;
  }
  char *target = to;
  const char *source = from;
  for (size_t index = 0; index < count; index++, target += width, source += width) memmove(target, source, width);
}

void soft_store_items(void *to, uint64_t value, size_t count, size_t width) {
  if (width == 1) {
    memset(to, (int)(value & 0xFF), count);
    return;
  }
  char *target = to;
  for (size_t index = 0; index < count; index++, target += width) memcpy(target, &value, width);
}
