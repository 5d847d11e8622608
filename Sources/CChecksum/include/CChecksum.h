#pragma once
#include <stddef.h>
#include <stdint.h>

/// Whether the host has PCLMULQDQ.
_Bool cchecksum_has_fold(void);

/// The state of a CRC-32 (IEEE 802.3 §3.2.9, reflected) is changed as by the whole blocks of 16 bytes at the start of
/// `bytes`, which are left over as one block that has the same effect on a state of zero: put into `rest`. Returns how many
/// bytes were taken; 0: too few to be worth it. Needs PCLMULQDQ.
size_t cchecksum_crc32_fold(uint32_t state, const uint8_t *bytes, size_t count, uint8_t rest[16]);
