import Glibc

/// VMRUN_TEST_LONG=1: millions of instructions instead of a sample.
let isLongRun = getenv("VMRUN_TEST_LONG").map { String(cString: $0) == "1" } ?? false
