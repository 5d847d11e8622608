// Runs one instruction on the host with given registers and flags.
#pragma once
#include <stdint.h>

typedef struct native_state {
  uint64_t gpr[16];
  uint64_t flags;
  uint64_t host_rsp;
  /// x87, MMX, XMM and MXCSR in FXSAVE's layout; not used when `has_fx` is 0.
  _Alignas(16) uint8_t fx[512];
  _Alignas(16) uint8_t host_fx[512];
  uint64_t has_fx;
  /// Out: the instruction raised a floating-point exception; the state is that of the handler's frame.
  uint64_t trapped;
} native_state;

/// `code` executes the instruction and returns; RSP is loaded, too, and must be 8 above writable memory.
void native_run(native_state *_Nonnull state, const void *_Nonnull code);
/// Executable memory for `native_run`, and memory at a fixed address. Null: the host refuses.
void *_Nullable native_executable(uint64_t size);
void *_Nullable native_memory(uint64_t address, uint64_t size);
void native_free(void *_Nonnull memory, uint64_t size);
/// 1: the bytes are equal.
int native_equal(const void *_Nonnull a, const void *_Nonnull b, uint64_t size);
