import CSoftCPU
import LinuxSystem

/// Steal time (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME): the guest reads from memory how long the
/// processor could have run and did not, and whether it runs now. While it is halted, another processor may leave it a
/// flush of its TLB there instead of interrupting it (cpuid.rst, KVM_FEATURE_PV_TLB_FLUSH).
///
/// The host's clocks are read when an interrupt comes, the thread's at most every `interval`, and around sleep.
struct StealTime {
  static let register: UInt32 = 0x4B56_4D03
  private static let isOn: UInt64 = 1
  /// Bits 5:1.
  private static let reserved: UInt64 = 0x3E

  /// Offsets in struct kvm_steal_time, which is 64 bytes and aligned to them.
  private enum Field {
    static let steal: UInt64 = 0
    static let version: UInt64 = 8
    static let preempted: UInt64 = 16
  }

  /// Values of `preempted`.
  private enum Preempted {
    static let no: UInt8 = 0
    static let yes: UInt8 = 1
    static let flush: UInt8 = 2
  }

  /// Nanoseconds between two updates.
  private static let interval: UInt64 = 10_000_000

  /// What the guest wrote: bit 0, and the structure's address.
  private(set) var value: UInt64 = 0
  /// The thread has left guest code for a device since the last update. What it waited then cannot be told from what was
  /// stolen, and is not counted.
  var hasPause = false
  private var stolen: UInt64 = 0
  private var version: UInt32 = 0
  /// Host time, less what the processor slept since, and the thread's processor time up to which is counted.
  private var lastWall: UInt64 = 0
  private var lastThread: UInt64 = 0
  private var asleepSince: UInt64 = 0

  private var isEnabled: Bool { value & Self.isOn != 0 }
  private var address: UInt64 { value & ~0x3F }

  /// WRMSR; false: #GP. The thread is the processor's.
  mutating func set(_ new: UInt64, _ map: inout PhysicalMap) -> Bool {
    guard new & Self.reserved == 0 else { return false }
    value = new
    guard isEnabled else { return true }
    (lastWall, lastThread) = (monotonicNanoseconds(), threadNanoseconds())
    hasPause = false
    write(&map)
    return true
  }

  /// Counts what the thread has waited for a processor of the host, now and then.
  mutating func update(_ map: inout PhysicalMap) {
    guard isEnabled else { return }
    let now = monotonicNanoseconds()
    let passed = now &- lastWall
    guard passed >= Self.interval, Int64(bitPattern: passed) > 0 else { return }
    let thread = threadNanoseconds()
    let used = thread &- lastThread
    if passed > used, !hasPause { stolen &+= passed &- used }
    (lastWall, lastThread, hasPause) = (now, thread, false)
    write(&map)
  }

  private mutating func write(_ map: inout PhysicalMap) {
    version = version &+ 2
    map.store(UInt64(version &- 1), at: address &+ Field.version, width: 4)
    soft_fence()
    map.store(stolen, at: address &+ Field.steal, width: 8)
    soft_fence()
    map.store(UInt64(version), at: address &+ Field.version, width: 4)
  }

  /// The processor halts and its thread is about to sleep: nobody need interrupt it for its TLB.
  mutating func beginSleep(_ map: inout PhysicalMap) {
    guard isEnabled else { return }
    asleepSince = monotonicNanoseconds()
    _ = map.exchange(Preempted.yes, at: address &+ Field.preempted)
  }

  /// It is awake. True: its TLB must be flushed before it executes anything.
  mutating func endSleep(_ map: inout PhysicalMap) -> Bool {
    guard isEnabled else { return false }
    lastWall = lastWall &+ (monotonicNanoseconds() &- asleepSince)
    return (map.exchange(Preempted.no, at: address &+ Field.preempted) ?? Preempted.no) & Preempted.flush != 0
  }
}

extension PhysicalMap {
  /// Replaces a byte that other processors use meanwhile; what it was, or nil where there is no writable memory.
  mutating func exchange(_ new: UInt8, at address: UInt64) -> UInt8? {
    guard let region = region(address), !region.pointee.readOnly, let host = host(address) else { return nil }
    return soft_exchange_8(host.assumingMemoryBound(to: UInt8.self), new)
  }
}

/// Poll control (msr.rst, MSR_KVM_POLL_CONTROL): bit 0 lets the host poll before a halted processor sleeps. This one
/// never does, so the register is kept and no more.
struct PollControl {
  static let register: UInt32 = 0x4B56_4D05
  var value: UInt64 = 1
}
