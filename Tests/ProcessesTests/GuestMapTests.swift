import Buses
import Engines
import LinuxSystem
import Sandbox
import Synchronization
import Testing

@testable import Processes

/// An engine that records what is mapped, and refuses overlaps as KVM does.
private final class RecordingMachine: VirtualMachine {
  final class CPU: VCPU {
    func run(_ entry: Entry) -> Exit { .interrupted }
    func kick() {}
    func reset() throws(EngineFailure) {}
    func begin(at start: StartState) throws(EngineFailure) {}
  }

  struct State {
    var slots: [Int: HostMapping] = [:]
    var log: [String] = []
  }

  let state = Mutex(State())

  func map(slot: Int, _ mapping: HostMapping?) -> Bool {
    state.withLock { state in
      state.log.append("\(slot) " + (mapping.map { String($0.guestAddress, radix: 16) } ?? "empty"))
      guard let mapping else { return state.slots.removeValue(forKey: slot) != nil }
      let overlaps = state.slots.contains { other, old in
        other != slot && mapping.guestAddress < old.guestAddress + old.size
          && old.guestAddress < mapping.guestAddress + mapping.size
      }
      if !overlaps { state.slots[slot] = mapping }
      return !overlaps
    }
  }

  func makeVCPU(_ index: Int) throws(EngineFailure) -> CPU { CPU() }
  var summary: String? { nil }
  func start(confine: @escaping @Sendable () -> Bool) throws(EngineFailure) {}
  func connect(input: Int, edge event: borrowing EventDescriptor) throws(EngineFailure) {}
  func connect(
    input: Int, trigger: borrowing EventDescriptor, resample: borrowing EventDescriptor
  ) throws(EngineFailure) {}
  func share(_ posted: PostedInterrupts, isAsserted: @escaping @Sendable (_ input: Int) -> Bool) {}
  func connect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {}
  func disconnect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {}
  func connect(message index: Int, event: borrowing EventDescriptor) throws(EngineFailure) {}
  func route(_ changes: [MessageRoute]) throws(EngineFailure) {}
  func resetInterruptControllers() throws(EngineFailure) {}
  func setLegacyReplacement(_ enabled: Bool) {}

  /// What the log says since the last call.
  func takeLog() -> [String] {
    state.withLock { state in
      defer { state.log = [] }
      return state.log
    }
  }
  var slots: [Int: HostMapping] { state.withLock { $0.slots } }
}

@Suite struct GuestMapTests {
  private let machine = RecordingMachine()
  private let page: MachinePage
  private let map: GuestMap<RecordingMachine>
  // Never dereferenced.
  private static var ram: UnsafeMutableRawBufferPointer { .init(start: .init(bitPattern: 0x10_0000), count: 1 << 20) }
  private static var firmware: UnsafeMutableRawBufferPointer {
    .init(start: .init(bitPattern: 0x1000_0000), count: 256 << 10)
  }
  private static var device: UnsafeMutableRawBufferPointer {
    .init(start: .init(bitPattern: 0x2000_0000), count: 64 << 10)
  }

  init() throws {
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)))
    page = try MachinePage(memory, vcpus: 1, initialize: true)
    map = GuestMap(machine, page: page, sources: .init(ram: Self.ram, firmware: Self.firmware, device: Self.device))
  }

  private func set(
    _ slot: Int, at address: UInt64, _ size: UInt64, _ source: SharedSource = .device, _ offset: UInt64 = 0,
    readOnly: Bool = false
  ) {
    page.set(
      slot,
      SharedMapping(guestAddress: address, size: size, source: source, offset: offset, readOnly: readOnly))
  }

  @Test func aMappingShowsItsPartOfTheSource() {
    set(0, at: 0xE000_0000, 0x8000, .device, 0x4000)
    set(1, at: 0xC_0000, 0x4000, .ram, 0xC_0000, readOnly: true)
    // Firmware is never writable, whatever the device process says.
    set(2, at: 0xE_0000, 0x2_0000, .firmware, 0x2_0000)
    map.update()
    #expect(
      machine.slots == [
        8: HostMapping(
          guestAddress: 0xE000_0000, size: 0x8000, host: Self.device.baseAddress! + 0x4000, readOnly: false),
        9: HostMapping(guestAddress: 0xC_0000, size: 0x4000, host: Self.ram.baseAddress! + 0xC_0000, readOnly: true),
        10: HostMapping(
          guestAddress: 0xE_0000, size: 0x2_0000, host: Self.firmware.baseAddress! + 0x2_0000, readOnly: true),
      ])
  }

  struct Bad: Sendable {
    let address: UInt64
    let size: UInt64
    let offset: UInt64
    init(_ address: UInt64, _ size: UInt64, _ offset: UInt64) {
      (self.address, self.size, self.offset) = (address, size, offset)
    }
  }

  @Test(arguments: [
    // Outside its source: too long, from beyond, with sums that wrap.
    Bad(0xE000_0000, 0x1_1000, 0), Bad(0xE000_0000, 0x1000, 0x1_0000), Bad(0xE000_0000, 0x2000, 0xF000),
    Bad(0xE000_0000, 0x1000, 0xFFFF_FFFF_FFFF_F000), Bad(0xE000_0000, 0xFFFF_FFFF_FFFF_F000, 0x2000),
    // Not whole pages.
    Bad(0xE000_0800, 0x1000, 0), Bad(0xE000_0000, 0x1800, 0), Bad(0xE000_0000, 0x1000, 0x10), Bad(0xE000_0000, 1, 0),
    // Nothing, and where no guest physical address is.
    Bad(0xE000_0000, 0, 0), Bad(1 << 52, 0x1000, 0), Bad(0xFFFF_FFFF_FFFF_F000, 0x1000, 0),
  ])
  func aMappingThatTheLauncherCannotVouchForIsNoMapping(_ bad: Bad) {
    set(0, at: bad.address, bad.size, .device, bad.offset)
    map.update()
    #expect(machine.slots.isEmpty)
    #expect(machine.takeLog() == [])
  }

  @Test func slotsAreEmptiedBeforeOthersTakeTheirPlace() {
    set(0, at: 0xE000_0000, 0x1000)
    set(1, at: 0xF000_0000, 0x1000)
    map.update()
    #expect(machine.takeLog() == ["8 e0000000", "9 f0000000"])
    set(0, at: 0xF000_0000, 0x1000)
    set(1, at: 0xE000_0000, 0x1000)
    map.update()
    #expect(machine.takeLog() == ["8 empty", "9 empty", "8 f0000000", "9 e0000000"])
    page.set(0, nil)
    map.update()
    #expect(machine.takeLog() == ["8 empty"])
    map.update()
    #expect(machine.takeLog() == [], "what has not changed is left alone")
  }

  @Test func fixedMemoryHasSlotsOfItsOwn() throws {
    let low = HostMapping(guestAddress: 0, size: 0x1000, host: Self.ram.baseAddress!, readOnly: false)
    try map.add(fixed: 0, low)
    #expect(throws: EngineFailure.self) { try map.add(fixed: 1, low) }
    #expect(throws: EngineFailure.self) { try map.add(fixed: 8, low) }
  }

  @Test func guestMemoryIsOneFileMappedWhereItsPagesMayBeHuge() throws {
    // Not a multiple of a huge page: the rest is mapped, too.
    let count = 5 << 20
    let file = try Descriptor.memory(named: "ram", size: UInt64(count), isSealed: true)
    let first = try Mapping(sharingInHugePages: file, count: count)
    let second = try Mapping(sharingInHugePages: file, count: count)
    let bases = [first.base, second.base].map { Int(bitPattern: $0) }
    #expect(bases.allSatisfy { $0 % (2 << 20) == 0 })
    first.bytes[count - 1] = 7
    let seen = second.bytes[count - 1]
    #expect(seen == 7)
    #expect(throws: SystemError.self) { _ = try Mapping(sharingInHugePages: file, count: .max) }
  }
}
