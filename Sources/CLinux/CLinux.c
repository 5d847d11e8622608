#define _GNU_SOURCE
#include "CLinux.h"

#include <sched.h>

int clinux_current_processor(void) { return sched_getcpu(); }
