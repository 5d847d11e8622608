#include "CSoftCPU.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

soft_code_page *soft_make_code_pages(size_t count) { return calloc(count, sizeof(soft_code_page)); }

void soft_free_code_pages(soft_code_page *pages) { free(pages); }

// Whole pages: an entry lies in one line of the host's cache.
static void *make_table(size_t count, size_t size) {
  void *table = mmap(NULL, count * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (table == MAP_FAILED) abort();
  return table;
}

soft_tlb_entry *soft_make_tlb(size_t count) { return make_table(count, sizeof(soft_tlb_entry)); }

soft_jump *soft_make_jumps(size_t count) { return make_table(count, sizeof(soft_jump)); }

uint64_t *soft_make_block_table(size_t count) { return make_table(count, sizeof(uint64_t)); }

void soft_free_block_table(uint64_t *table, size_t count) { munmap(table, count * sizeof(uint64_t)); }

void soft_free_tlb(soft_tlb_entry *tlb, size_t count) { munmap(tlb, count * sizeof(soft_tlb_entry)); }

void soft_free_jumps(soft_jump *jumps, size_t count) { munmap(jumps, count * sizeof(soft_jump)); }

void soft_discard_tlb(soft_tlb_entry *tlb, size_t count) { madvise(tlb, count * sizeof(soft_tlb_entry), MADV_DONTNEED); }

void soft_discard_jumps(soft_jump *jumps, size_t count) { madvise(jumps, count * sizeof(soft_jump), MADV_DONTNEED); }

uint8_t soft_equal_lines(const void *a, const void *b, uint64_t lines) {
  for (; lines != 0; lines &= lines - 1) {
    size_t offset = (size_t)__builtin_ctzll(lines) * 64;
    if (memcmp((const char *)a + offset, (const char *)b + offset, 64) != 0) return 0;
  }
  return 1;
}

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
  char *target = to;
  switch (width) {
    case 1: memset(to, (int)(value & 0xFF), count); break;
    case 2: for (size_t index = 0; index < count; index++) memcpy(target + index * 2, &value, 2); break;
    case 4: for (size_t index = 0; index < count; index++) memcpy(target + index * 4, &value, 4); break;
    default: for (size_t index = 0; index < count; index++) memcpy(target + index * 8, &value, 8); break;
  }
}

void soft_keep_global(
    soft_tlb_entry *entries, uint64_t *globals, size_t count, uint64_t old, uint64_t generation) {
  for (size_t word = 0; word < count / 64; word++) {
    for (uint64_t left = globals[word]; left != 0; left &= left - 1) {
      size_t bit = (size_t)__builtin_ctzll(left);
      soft_tlb_entry *entry = entries + word * 64 + bit;
      if ((entry->physical & 1) != 0 && (entry->read_tag & 0xFFF) == old) {
        entry->read_tag ^= old ^ generation;
        if ((entry->write_tag & 0xFFF) == old) entry->write_tag ^= old ^ generation;
      } else {
        globals[word] &= ~(1ULL << bit);
      }
    }
  }
}

void soft_forbid_writes(soft_tlb_entry *entries, size_t count, uint64_t physical) {
  for (soft_tlb_entry *entry = entries; entry < entries + count; entry++)
    if ((entry->physical ^ physical) >> 12 == 0) entry->write_tag = 0;
}

void soft_forbid_all_writes(soft_tlb_entry *entries, size_t count) {
  for (soft_tlb_entry *entry = entries; entry < entries + count; entry++) entry->write_tag = 0;
}
