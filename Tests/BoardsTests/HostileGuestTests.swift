import Backends
import Buses
import DeviceKit
import Devices
import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Boards

/// SplitMix64: the same sequence for the same seed.
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}

/// The whole hvm machine on a fake board, with a disk, a disc and two serial ports.
private struct WholeMachine {
  let fake: FakeBoard
  let devices: [Device]
  let disk = MemoryBlockBackend(sectors: 3000)
  let disc = MemoryBlockBackend(sectors: 900, isReadOnly: true)
  let serial = RecordingCharacter(room: 1 << 20)

  init() throws {
    var spec = MachineSpec(memory: 4 << 20)
    spec.blocks = [BlockSpec(id: "disk0", path: "/disk"), BlockSpec(id: "cdrom0", path: "/disc", readOnly: true)]
    spec.characters = [CharacterSpec(id: "serial0", endpoint: .null), CharacterSpec(id: "serial1", endpoint: .null)]
    spec.devices = [DeviceSpec(model: "testdev", id: "test")]
    let resources = FakeResources(
      blocks: ["disk0": disk, "cdrom0": disc], characters: ["serial0": serial, "serial1": RecordingCharacter()],
      files: [
        "firmware": [UInt8](repeating: 0x90, count: 256 << 10), "vgabios": [UInt8](repeating: 0x55, count: 40 << 10),
      ])
    fake = FakeBoard(ramSize: 4 << 20, resources: resources)
    devices = try Recipe.assemble(try Recipe.resolve(spec, registry: catalog), registry: catalog, on: fake.board)
    for device in devices { device.start() }
  }

  func reset() { for device in devices { device.reset() } }
}

/// Accesses as no driver makes them.
private struct HostileGuest {
  private var random: SeededGenerator
  private let board: Board
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)

  /// Where ports or memory do something.
  private static let ports: [(base: UInt64, count: UInt64)] = [
    (0xCF8, 8), (0xCF8, 8), (0xCF8, 8), (0x1F0, 8), (0x170, 8), (0x3F6, 1), (0x376, 1), (0x3B0, 0x30), (0x1CE, 3),
    (0x1CE, 3), (0x510, 12), (0x600, 64), (0xB0, 4), (0xAFE0, 4), (0xB100, 16), (0x60, 8), (0x70, 2), (0x70, 2),
    (0x80, 16), (0x00, 16), (0xC0, 32), (0x92, 1), (0xE0, 16), (0xF4, 4), (0x3F8, 8), (0x2F8, 8), (0x402, 1),
    (0x505, 1), (0xC000, 16), (0, 0x1_0000),
  ]
  private static let memory: [(base: UInt64, count: UInt64)] = [
    (0xA_0000, 0x2_0000), (0xC_0000, 0x4_0000), (0xFED0_0000, 0x400), (0xFED0_0000, 0x180), (0xE000_0000, 0x1000),
    (0xF000_0000, 1 << 24), (0xFEB0_0000, 0x2000), (0, 1 << 53),
  ]
  /// Values that ends of ranges, enables and commands are made of.
  private static let values: [UInt64] = [
    0, 1, 2, 3, 7, 0x0F, 0x20, 0x7F, 0x80, 0xA0, 0xC8, 0xCA, 0xEC, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0xC001,
    0x8000_0000, 0x8000_0804, 0x8000_0900, 0x8000_0904, 0x8000_0920, 0x8000_0B40, 0x8000_0B80, 0x8000_1004,
    0x8000_1010, 0x8000_1018, 0x8000_1030, 0x8000_0058, 0x8000_0070, 0xF000_0000, 0xFEB0_0001, .max, 1 << 63,
  ]

  init(seed: UInt64, _ board: Board) {
    random = SeededGenerator(state: seed)
    self.board = board
    for address in stride(from: UInt64(0), to: 0x2_0000, by: 8) {
      try? board.memory.store(random.next() & 0x80FF_FFFF_003F_FFFF, at: address)
    }
  }

  func end() { buffer.deallocate() }

  mutating func pick(_ count: Int) -> Int { Int(random.next() % UInt64(count)) }

  private mutating func value() -> UInt64 {
    pick(2) == 0 ? Self.values[pick(Self.values.count)] : random.next() >> UInt64(pick(64))
  }

  private mutating func place(_ ranges: [(base: UInt64, count: UInt64)]) -> UInt64 {
    let range = ranges[pick(ranges.count)]
    return range.base + random.next() % range.count
  }

  /// One access, or a string of them at one address.
  mutating func access() {
    let isPort = pick(3) > 0
    let space = isPort ? board.ports : board.mmio
    let address = isPort ? place(Self.ports) : place(Self.memory)
    let width: AccessWidth = isPort ? [.byte, .byte, .word, .dword][pick(4)] : [.byte, .word, .dword, .qword][pick(4)]
    switch pick(16) {
    case 0:
      let items = 1 + pick(4096 / width.bytes)
      let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<(items * width.bytes)])
      if pick(2) == 0 {
        space.readString(address, width, into: part)
      } else {
        space.writeString(address, width, from: UnsafeRawBufferPointer(part))
      }
    case 1...4: _ = space.read(address, width)
    case 5: command()
    default: space.write(address, width, value() & width.mask)
    }
  }

  /// A start of something that random writes seldom make.
  private mutating func command() {
    switch pick(6) {
    case 0:
      // A configuration register of a function that is there.
      let function = [0x0000, 0x0800, 0x0900, 0x0B00, 0x1000][pick(5)]
      board.ports.write(0xCF8, .dword, 0x8000_0000 | UInt64(function) | UInt64(pick(64) * 4))
      board.ports.write(0xCFC, .dword, value() & 0xFFFF_FFFF)
    case 1:
      board.ports.write(0xCF8, .dword, 0x8000_0904)
      board.ports.write(0xCFC, .dword, 5)
      board.ports.write(0xCF8, .dword, 0x8000_0920)
      board.ports.write(0xCFC, .dword, 0xC001)
    case 2:
      // Bus-master DMA with a table of noise.
      let channel = UInt64(pick(2))
      let base: UInt64 = channel == 0 ? 0x1F0 : 0x170
      board.ports.write(0xC004 + channel * 8, .dword, random.next() & 0x1_FFF8)
      board.ports.write(base + 2, .byte, random.next() & 0x1F)
      board.ports.write(base + 4, .byte, random.next() & 0x07)
      board.ports.write(base + 6, .byte, 0xE0)
      board.ports.write(base + 7, .byte, [0xC8, 0xCA, 0x25, 0x35, 0x20, 0x30, 0xEC, 0xE7][pick(8)])
      board.ports.write(0xC000 + channel * 8, .byte, [1, 9][pick(2)])
    case 3:
      // fw_cfg DMA, descriptor and target in noise.
      board.ports.write(0x514, .dword, 0)
      board.ports.write(0x518, .dword, UInt64(UInt32(truncatingIfNeeded: random.next() & 0x1_FFFF).byteSwapped))
    case 4:
      board.ports.write(0x1CE, .word, UInt64(pick(12)))
      board.ports.write(0x1CF, .word, value() & 0xFFFF)
    default:
      // HPET: an interrupt as often as it goes.
      board.mmio.write(0xFED0_0100 + UInt64(pick(3)) * 0x20, .qword, 0x4C | UInt64(pick(2)) << 1)
      board.mmio.write(0xFED0_0108 + UInt64(pick(3)) * 0x20, .qword, UInt64(pick(3)))
      board.mmio.write(0xFED0_0010, .qword, UInt64(pick(4)))
    }
  }
}

private final class Flag: Sendable {
  let value = Atomic<Bool>(false)
}

@Suite struct HostileGuestTests {
  /// Accesses of one run.
  private static let steps = environment("VMRUN_TEST_LONG") == nil ? 15_000 : 500_000

  @Test(arguments: 0..<4)
  func randomAccessesOfEveryDeviceNeverTrapOrHang(_ seed: UInt64) throws {
    let machine = try WholeMachine()
    let fake = machine.fake
    machine.disk.fail(sectors: 100..<101, with: .host(errno: 5))
    machine.disk.fail(sectors: 200..<210, with: .noSpace)
    var guest = HostileGuest(seed: seed, fake.board)
    defer { guest.end() }
    for step in 0..<Self.steps {
      guest.access()
      if step % 16 == 0 { fake.advance(nanoseconds: UInt64(guest.pick(40_000))) }
      if step % 512 == 0 { machine.serial.type([UInt8](repeating: 0x41, count: guest.pick(64))) }
      if step % 1024 == 0 {
        fake.clock.set(fake.clock.now + UInt64(guest.pick(1 << 50)))
        fake.board.timers.runDue()
        for device in machine.devices { _ = (device as? any Screen)?.textScreen() }
      }
      if guest.pick(4096) == 0 { machine.reset() }
    }
    for device in machine.devices { device.drain() }
    machine.reset()
    // After a reset the machine is a machine again: the bridge answers, and the disk says that it is ready.
    fake.outl(0xCF8, 0x8000_0000)
    #expect(fake.inl(0xCFC) == 0x1237_8086)
    #expect(fake.inb(0x3F6) == 0x50)
  }

  /// For the thread sanitizer: vCPUs, timers and input at the same time.
  @Test func accessesFromManyThreadsNeverTrapOrDeadlock() throws {
    let machine = try WholeMachine()
    let board = machine.fake.board
    let threads = try (0..<3).map { index in
      try HostThread("guest\(index)", stackSize: 8 << 20) {
        var guest = HostileGuest(seed: 100 + UInt64(index), board)
        for _ in 0..<Self.steps / 3 { guest.access() }
        guest.end()
      }
    }
    let stopping = Flag()
    let (clock, serial) = (machine.fake.clock, machine.serial)
    let timers = try HostThread("timers", stackSize: 8 << 20) {
      while !stopping.value.load(ordering: .acquiring) {
        clock.set(clock.now + 50_000)
        board.timers.runDue()
        serial.type("x")
      }
    }
    for thread in threads { thread.join() }
    stopping.value.store(true, ordering: .releasing)
    timers.join()
    for device in machine.devices { device.drain() }
    machine.reset()
    #expect(board.pci.read(slot: 0, function: 0, register: 0, .dword) == 0x1237_8086)
  }
}
