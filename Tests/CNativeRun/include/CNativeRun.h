// Runs one instruction on the host with given registers and flags.
#pragma once
#include <stdint.h>

typedef struct native_state {
  uint64_t gpr[16];
  uint64_t flags;
  uint64_t host_rsp;
} native_state;

/// `code` executes the instruction and returns; RSP is loaded, too, and must be 8 above writable memory.
void native_run(native_state *_Nonnull state, const void *_Nonnull code);
/// Executable memory for `native_run`, and memory at a fixed address. Null: the host refuses.
void *_Nullable native_executable(uint64_t size);
void *_Nullable native_memory(uint64_t address, uint64_t size);
