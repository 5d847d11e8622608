import CSoftCPU
import LinuxSystem

/// KVM's paravirtual clock (Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst): the guest reads time from memory
/// and its time-stamp counter.
struct ParavirtualClock {
  enum MSR {
    static let wallClock: UInt32 = 0x4B56_4D00
    static let systemTime: UInt32 = 0x4B56_4D01
    static let oldWallClock: UInt32 = 0x11
    static let oldSystemTime: UInt32 = 0x12
  }

  /// Bit 0: on; the rest is the physical address of the structure.
  var systemTime: UInt64 = 0
  var wallClock: UInt64 = 0
  /// Grows by 2 with each update; odd while one is under way.
  private var version: UInt32 = 0

  private static let isStable: UInt64 = 1
  /// A multiplier of a half in units of 2^-32, applied after a shift by 1.
  private static let nanosecondPerTick: UInt64 = 1 << 32 | 0x8000_0000

  /// Writes struct pvclock_vcpu_time_info, after the guest asked for it or changed its counter.
  mutating func update(_ map: inout PhysicalMap, tscOffset: UInt64) {
    guard systemTime & 1 != 0 else { return }
    version = version &+ 2
    let address = systemTime & ~1
    map.store(UInt64(version &- 1), at: address, width: 4)
    soft_fence()
    // The counter's value at guest time 0.
    map.store(tscOffset, at: address &+ 8, width: 8)
    map.store(0, at: address &+ 16, width: 8)
    map.store(Self.nanosecondPerTick | Self.isStable << 40, at: address &+ 24, width: 8)
    soft_fence()
    map.store(UInt64(version), at: address, width: 4)
  }

  /// Writes struct pvclock_wall_clock: the wall clock when guest time was 0.
  mutating func writeWallClock(_ map: inout PhysicalMap, guestTime: UInt64) {
    let boot = realtimeNanoseconds() &- guestTime
    version = version &+ 2
    map.store(UInt64(version &- 1), at: wallClock, width: 4)
    soft_fence()
    map.store(boot / 1_000_000_000, at: wallClock &+ 4, width: 4)
    map.store(boot % 1_000_000_000, at: wallClock &+ 8, width: 4)
    soft_fence()
    map.store(UInt64(version), at: wallClock, width: 4)
  }
}

extension PhysicalMap {
  /// Stores the low `width` bytes (4 or 8) at a physical address; nothing where there is no writable memory.
  mutating func store(_ value: UInt64, at address: UInt64, width: Int) {
    guard address & 4095 <= UInt64(4096 &- width), let region = region(address), !region.pointee.readOnly,
      let host = host(address)
    else { return }
    if width == 4 {
      host.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
    } else {
      host.storeBytes(of: value, as: UInt64.self)
    }
  }
}
