#ifndef COPTIONROM_H
#define COPTIONROM_H

#include <stddef.h>
#include <stdint.h>

// What kernel.S is assembled to: the image of an option ROM without its size and checksums.
extern const uint8_t vmrun_kernel_rom_start;
extern const uint8_t vmrun_kernel_rom_end;

static inline const uint8_t *_Nonnull kernel_rom(void) { return &vmrun_kernel_rom_start; }
static inline size_t kernel_rom_size(void) { return (size_t)(&vmrun_kernel_rom_end - &vmrun_kernel_rom_start); }

#endif
