// Locked instructions, fences and serialising ones, each as it is named: an address may lie anywhere.
#pragma once
#include <stdint.h>

#define CPU_INLINE static inline __attribute__((always_inline))

CPU_INLINE void lock_inc(uint64_t address) { __asm__ volatile("lock incq (%0)" : : "r"(address) : "memory", "cc"); }
CPU_INLINE void lock_dec(uint64_t address) { __asm__ volatile("lock decq (%0)" : : "r"(address) : "memory", "cc"); }
CPU_INLINE void lock_add(uint64_t address, uint64_t value) {
  __asm__ volatile("lock addq %1, (%0)" : : "r"(address), "r"(value) : "memory", "cc");
}

CPU_INLINE uint64_t lock_xadd(uint64_t address, uint64_t value) {
  __asm__ volatile("lock xaddq %0, (%1)" : "+r"(value) : "r"(address) : "memory", "cc");
  return value;
}

/// Gives what was there: `expected` if it was replaced.
CPU_INLINE uint64_t lock_cmpxchg(uint64_t address, uint64_t expected, uint64_t desired) {
  __asm__ volatile("lock cmpxchgq %2, (%1)" : "+a"(expected) : "r"(address), "r"(desired) : "memory", "cc");
  return expected;
}

/// Bit 31, which is the fourth byte's; gives what it was.
CPU_INLINE uint8_t lock_bts(uint64_t address) {
  uint8_t was;
  __asm__ volatile("lock btsq $31, (%1); setc %0" : "=q"(was) : "r"(address) : "memory", "cc");
  return was;
}
CPU_INLINE void lock_btr(uint64_t address) { __asm__ volatile("lock btrq $31, (%0)" : : "r"(address) : "memory", "cc"); }

CPU_INLINE uint64_t xchg(uint64_t address, uint64_t value) {
  __asm__ volatile("xchgq %0, (%1)" : "+r"(value) : "r"(address) : "memory");
  return value;
}

/// Like `lock_cmpxchg`.
CPU_INLINE uint64_t lock_cmpxchg8b(uint64_t address, uint64_t expected, uint64_t desired) {
  uint32_t low = (uint32_t)expected, high = (uint32_t)(expected >> 32);
  __asm__ volatile("lock cmpxchg8b (%2)"
                   : "+a"(low), "+d"(high)
                   : "r"(address), "b"((uint32_t)desired), "c"((uint32_t)(desired >> 32)) : "memory", "cc");
  return (uint64_t)high << 32 | low;
}

/// `lock cmpxchg16b` of 16-byte aligned memory; 1: it was equal to the expected value and is replaced.
CPU_INLINE uint8_t compare_exchange_16(
  uint64_t address, uint64_t expected_low, uint64_t expected_high, uint64_t low, uint64_t high) {
  uint8_t equal;
  __asm__ volatile("lock cmpxchg16b (%5); sete %0"
                   : "=q"(equal), "+a"(expected_low), "+d"(expected_high)
                   : "b"(low), "c"(high), "r"(address)
                   : "memory", "cc");
  return equal;
}

// One processor's half of the store buffer test (SDM vol. 3, 9.2.3.4): stores its word, then loads the other's.
CPU_INLINE uint32_t store_then_load(uint64_t own, uint64_t other) {
  uint32_t seen;
  __asm__ volatile("movl $1, (%1); movl (%2), %0" : "=r"(seen) : "r"(own), "r"(other) : "memory");
  return seen;
}
CPU_INLINE uint32_t store_fence_load(uint64_t own, uint64_t other) {
  uint32_t seen;
  __asm__ volatile("movl $1, (%1); mfence; movl (%2), %0" : "=r"(seen) : "r"(own), "r"(other) : "memory");
  return seen;
}
CPU_INLINE uint32_t exchange_then_load(uint64_t own, uint64_t other) {
  uint32_t seen = 1;
  __asm__ volatile("xchgl %0, (%1); movl (%2), %0" : "+r"(seen) : "r"(own), "r"(other) : "memory");
  return seen;
}

/// CPUID, which completes everything before it and discards what was fetched of what comes behind.
CPU_INLINE void serialise(void) {
  uint32_t a = 0, b, c = 0, d;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}
