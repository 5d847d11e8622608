import Buses
import LinuxSystem
import Sandbox
import Synchronization
import Testing

@testable import Processes

/// A launcher's and a device process's side of a machine whose one device has its registers at `base`.
// Safety: all that changes is in mutexes or atomic.
private final class Machine: @unchecked Sendable {
  static let base: UInt64 = 0xFEBC_0000
  static let status: UInt64 = 0x08
  static let slow: UInt64 = 0x10
  static let tail: UInt64 = 0x18
  static let unrelated: UInt64 = 0x20
  static let causes: UInt64 = 0xC0
  static let mask: UInt64 = 0xD0

  let device: MachinePage
  let access: RegisterAccess
  let client: MailboxClient
  let bell: SharedEvent
  let served = Mutex<[UInt64]>([])
  /// Held while the device process is to perform nothing.
  let gate = Mutex(())
  private let page: MachinePage

  var registers: SharedRegisters { device.registers[3] }

  init() throws {
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)))
    page = try MachinePage(memory, vcpus: 1, initialize: true)
    device = try MachinePage(memory, vcpus: 1, initialize: false)
    access = RegisterAccess(page)
    client = MailboxClient(page.mailboxes[0], spin: 1000)
    bell = try SharedEvent()
    registers.declare([
      SharedRegister(Int(Self.status), read: .value, index: 0), SharedRegister(Int(Self.unrelated), write: .unrelated),
      SharedRegister(Int(Self.tail), read: .value, write: .value, index: 1),
      SharedRegister(Int(Self.causes), read: .takeCauses),
      SharedRegister(Int(Self.mask), read: .mask, write: .setMask),
    ])
    device.setPostedRange(5, ofPorts: false, Self.base..<Self.base + 0x1000, registers: 3)
    access.setBell(3, bell)
  }

  /// Serves the mailbox as a device process does, for as long as `body` runs: a write to `slow` changes status.
  func serving(_ body: () throws -> Void) throws {
    let started = try HostThread("bus") { [self] in
      MailboxServer(device.mailboxes[0], spin: 1000).serve { [self] request in
        gate.withLock { _ in }
        served.withLock { $0.append(request.address &- Self.base) }
        guard request.operation == .memoryWrite else { return }
        let value = request.data.loadUnaligned(as: UInt32.self)
        if request.address == Self.base + Self.slow { registers.setValue(0, value) }
      }
    }
    try body()
    client.flush()
    page.mailboxes[0].close()
    started.join()
  }

  func read(_ offset: UInt64, width: Int = 4) -> UInt32? {
    var value: UInt32 = 0
    return access.read(Self.base + offset, width: width, isPort: false, into: &value) ? value : nil
  }

  func write(_ offset: UInt64, _ value: UInt32) -> Bool {
    var value = value
    return access.write(.memoryWrite, Self.base + offset, width: 4, data: &value, client)
  }
}

@Suite struct RegisterAccessTests {
  @Test func sharedRegistersAreReadAndWrittenWithoutTheDeviceProcess() throws {
    let machine = try Machine()
    machine.registers.setValue(0, 0x283)
    #expect(machine.read(Machine.status) == 0x283)
    #expect(machine.write(Machine.tail, 7) && machine.registers.value(1) == 7)
    machine.registers.setCauses(0x80)
    #expect(machine.read(Machine.causes) == 0x80 && machine.registers.causes == 0)
    #expect(machine.read(Machine.slow) == nil && machine.read(Machine.status, width: 2) == nil)
    #expect(machine.read(0x1000) == nil, "nothing is posted there")
    #expect(machine.bell.event.drain() == 0 && machine.served.withLock { $0.isEmpty })
  }

  @Test func theBellRingsWhereTheDeviceHasToAct() throws {
    let machine = try Machine()
    machine.registers.setAwaited(1, true)
    #expect(machine.write(Machine.tail, 1))
    #expect(machine.bell.event.drain() == 1)
    machine.registers.setCauses(1)
    #expect(machine.write(Machine.mask, 1))
    #expect(machine.bell.event.drain() == 1)
    machine.access.setBell(3, nil)
    #expect(machine.write(Machine.tail, 2) && machine.registers.value(1) == 2)
  }

  @Test func registersWaitForPostedWritesThatMayChangeThem() throws {
    let machine = try Machine()
    try machine.serving {
      for round in UInt32(1)...50 {
        machine.gate.withLock { _ in
          #expect(machine.write(Machine.slow, round))
          #expect(machine.read(Machine.status) == nil && machine.read(Machine.causes) == nil)
          // Behind it in the order, and not in the register before it.
          #expect(machine.write(Machine.tail, 1000 + round))
          #expect(machine.registers.value(1) != 1000 + round)
        }
        machine.client.flush()
        #expect(machine.read(Machine.status) == round)
        #expect(machine.served.withLock { $0.suffix(2) } == [Machine.slow, Machine.tail])
      }
    }
  }

  @Test func unrelatedWritesArePostedAndNotWaitedFor() throws {
    let machine = try Machine()
    try machine.serving {
      machine.gate.withLock { _ in
        #expect(machine.write(Machine.unrelated, 1))
        #expect(machine.read(Machine.status) == 0)
        #expect(machine.write(Machine.tail, 9) && machine.registers.value(1) == 9)
      }
      machine.client.flush()
      #expect(machine.served.withLock { $0 } == [Machine.unrelated])
    }
  }

  @Test func writesBesideRegistersAreWaitedForWhereTheRangeIsNotPosted() throws {
    let machine = try Machine()
    machine.device.setPostedRange(
      5, ofPorts: false, Machine.base..<Machine.base + 0x1000, registers: 3, isPosted: false)
    #expect(machine.write(Machine.tail, 7) && machine.registers.value(1) == 7)
    #expect(!machine.write(Machine.slow, 1) && !machine.write(Machine.unrelated, 1))
    #expect(machine.read(Machine.status) == 0)
  }

  /// A register number that does not exist makes a plain range of posted writes of it.
  @Test(arguments: [8, 77, -1, Int(UInt32.max) - 1])
  func aRangeWithRegistersThatAreNotThereIsOnlyPosted(_ number: Int) throws {
    let machine = try Machine()
    machine.device.setPostedRange(
      5, ofPorts: false, Machine.base..<Machine.base + 0x1000, registers: number)
    #expect(machine.read(Machine.status) == nil)
    try machine.serving { #expect(machine.write(Machine.tail, 1)) }
    #expect(machine.served.withLock { $0 } == [Machine.tail])
  }
}
