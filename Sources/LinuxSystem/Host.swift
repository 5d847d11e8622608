import Glibc

/// Processors of the host.
public func availableProcessors() -> Int { max(1, Int(sysconf(CInt(_SC_NPROCESSORS_ONLN)))) }

/// Bytes of RAM the host has.
public func hostMemory() -> UInt64 {
  UInt64(max(0, sysconf(CInt(_SC_PHYS_PAGES)))) &* UInt64(max(0, sysconf(CInt(_SC_PAGESIZE))))
}
