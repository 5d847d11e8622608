import Buses
import LinuxSystem
import Sandbox
import Synchronization

/// What vCPU threads do themselves of accesses to registers that devices share, and which writes are posted.
///
/// A register is reached while no posted write waits that could change it: those to its device but for the ones that the
/// device has declared unrelated. Others go the way of all accesses, and then it is their turn.
final class RegisterAccess: Sendable {
  private struct Device: ~Copyable {
    /// The number behind the last posted write that registers wait for.
    let awaited = Atomic<UInt64>(0)
    let bell = Mutex<SharedEvent?>(nil)
  }

  private let page: MachinePage
  private let devices = InlineArray<8, Device> { _ in Device() }

  init(_ page: MachinePage) { self.page = page }

  /// Sets what is signalled where the device has to act on a write.
  func setBell(_ registers: Int, _ event: SharedEvent?) {
    guard devices.indices.contains(registers) else { return }
    devices[registers].bell.withLock { $0 = event }
  }

  /// Reads a shared register; false: the device process is to be asked.
  @inline(__always)
  func read(_ address: UInt64, width: Int, isPort: Bool, into data: UnsafeMutableRawPointer) -> Bool {
    guard let place = page.postedPlace(address, width: width, isPort: isPort), let number = place.registers else {
      return false
    }
    return read(number, place.offset, width, data)
  }

  private func read(_ number: Int, _ offset: UInt64, _ width: Int, _ data: UnsafeMutableRawPointer) -> Bool {
    let registers = page.registers[number]
    guard let access = registers.find(offset, width: width), access.isRead, isCurrent(number),
      let value = registers.read(access)
    else { return false }
    withUnsafeBytes(of: value.littleEndian) {
      UnsafeMutableRawBufferPointer(start: data, count: width).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: $0.prefix(width)))
    }
    return true
  }

  /// Performs or posts a write; false: it is to be waited for.
  @inline(__always)
  func write(
    _ operation: MailboxOperation, _ address: UInt64, width: Int, data: UnsafeRawPointer, _ mailbox: MailboxClient
  ) -> Bool {
    guard let place = page.postedPlace(address, width: width, isPort: operation == .portWrite) else { return false }
    guard let number = place.registers else {
      return place.isPosted && mailbox.post(operation, address, width: width, data: data) != nil
    }
    let registers = page.registers[number]
    let access = registers.find(place.offset, width: width)
    if let access, perform(access, number, registers, width, data) { return true }
    guard place.isPosted, let order = mailbox.post(operation, address, width: width, data: data) else { return false }
    if access?.write != .unrelated { setAwaited(number, order &+ 1) }
    return true
  }

  /// Registers wait for all posted writes below `end`.
  private func setAwaited(_ number: Int, _ end: UInt64) {
    var old = devices[number].awaited.load(ordering: .relaxed)
    while old < end {
      let (isDone, current) = devices[number].awaited.compareExchange(
        expected: old, desired: end, ordering: .acquiringAndReleasing)
      if isDone { return }
      old = current
    }
  }

  private func perform(
    _ access: SharedRegisters.Access, _ number: Int, _ registers: SharedRegisters, _ width: Int,
    _ data: UnsafeRawPointer
  ) -> Bool {
    guard access.write != .device, access.write != .unrelated, isCurrent(number) else { return false }
    var value: UInt32 = 0
    withUnsafeMutableBytes(of: &value) {
      $0.copyMemory(from: UnsafeRawBufferPointer(start: data, count: min(width, $0.count)))
    }
    guard let rings = registers.write(access, UInt32(littleEndian: value)) else { return false }
    // Signalled under the lock: an event that is replaced may be closed.
    if rings { devices[number].bell.withLock { $0?.event.signal() } }
    return true
  }

  /// Whether all posted writes that could change the registers have been performed.
  private func isCurrent(_ number: Int) -> Bool {
    page.hasPerformed(devices[number].awaited.load(ordering: .acquiring))
  }
}
