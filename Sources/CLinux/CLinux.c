#define _GNU_SOURCE
#include "CLinux.h"

#include <malloc.h>
#include <sched.h>

void clinux_return_freed_memory(void) { malloc_trim(0); }

int clinux_current_processor(void) { return sched_getcpu(); }
