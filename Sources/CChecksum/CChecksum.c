#include "CChecksum.h"

#include <cpuid.h>
#include <immintrin.h>

_Bool cchecksum_has_fold(void) {
  // Not __builtin_cpu_supports(), which asks for all features at the start of each process, used or not.
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_PCLMUL;
}

// A block of 128 bits stands for a polynomial over GF(2), its first bit for the highest power. To move it d bits ahead is
// to multiply both halves by powers of x modulo the CRC's polynomial: x^(d+32) and x^(d-32), bits reversed and one up, as
// the product of reversed numbers is one bit low.
static const uint64_t ahead_512[2] = {0x154442bd4, 0x1c6e41596};
static const uint64_t ahead_128[2] = {0x1751997d0, 0x0ccaa009e};

__attribute__((target("pclmul,sse2"))) static inline __m128i move(__m128i block, __m128i powers, __m128i next) {
  __m128i low = _mm_clmulepi64_si128(block, powers, 0x00);
  __m128i high = _mm_clmulepi64_si128(block, powers, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

__attribute__((target("pclmul,sse2"))) size_t cchecksum_crc32_fold(
    uint32_t state, const uint8_t *bytes, size_t count, uint8_t rest[16]) {
  if (count < 64) return 0;
  const __m128i *blocks = (const __m128i *)bytes;
  size_t total = count / 16, at = 4;
  __m128i a = _mm_xor_si128(_mm_loadu_si128(blocks), _mm_cvtsi32_si128((int)state));
  __m128i b = _mm_loadu_si128(blocks + 1), c = _mm_loadu_si128(blocks + 2), d = _mm_loadu_si128(blocks + 3);
  __m128i powers = _mm_loadu_si128((const __m128i *)ahead_512);
  for (; at + 4 <= total; at += 4) {
    a = move(a, powers, _mm_loadu_si128(blocks + at));
    b = move(b, powers, _mm_loadu_si128(blocks + at + 1));
    c = move(c, powers, _mm_loadu_si128(blocks + at + 2));
    d = move(d, powers, _mm_loadu_si128(blocks + at + 3));
  }
  powers = _mm_loadu_si128((const __m128i *)ahead_128);
  a = move(move(move(a, powers, b), powers, c), powers, d);
  for (; at < total; at++) a = move(a, powers, _mm_loadu_si128(blocks + at));
  _mm_storeu_si128((__m128i *)rest, a);
  return total * 16;
}
