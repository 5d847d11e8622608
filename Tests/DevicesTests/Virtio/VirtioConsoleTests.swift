import Backends
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

@Suite struct VirtioConsoleTests {
  private static let multiport: UInt64 = 1 << 1

  /// A console with a console port on `serial0` and a named one on `serial1`.
  final class Console {
    let first: RecordingCharacter
    let second = RecordingCharacter()
    let card: VirtioDriver
    /// Buffers for messages that the device has not used yet.
    private var buffers: [UInt16: TestDescriptor] = [:]

    init(room: Int = .max, rowsFirst: Bool = false) throws {
      first = RecordingCharacter(room: room)
      let fake = FakeBoard(resources: FakeResources(characters: ["serial0": first, "serial1": second]))
      let device = try VirtioConsole.model.pci.make(
        "console",
        Properties(["addr": .string("03.0"), "max-ports": .integer(2), "rows-first": .boolean(rowsFirst)]), fake.board)
      _ = try VirtioConsole.console.make("port0", Properties(["chardev": .string("serial0")]), fake.board)
      _ = try VirtioConsole.port.make(
        "port1", Properties(["chardev": .string("serial1"), "name": .string("org.example")]), fake.board)
      card = VirtioDriver(fake, device)
    }

    static func message(_ event: UInt16, port: UInt32 = 0, value: UInt16 = 1, _ payload: [UInt8] = []) -> [UInt8] {
      ConsoleControl(event, port: Int(port), value: value, payload: payload).bytes
    }

    func control(_ event: UInt16, port: UInt32 = 0, value: UInt16 = 1) throws {
      try card.add(3, [card.readable(Self.message(event, port: port, value: value))])
    }

    /// The next messages from the device, which has `count` buffers for them at least.
    func messages(_ count: Int) throws -> [[UInt8]] {
      for _ in 0..<max(0, count - buffers.count) {
        let part = card.writable(64)
        buffers[card.add(2, [part])] = part
      }
      return try card.takeUsed(2).compactMap { used in
        try buffers.removeValue(forKey: used.id).map { try card.bytes($0, Int(used.length)) }
      }
    }

    /// What Linux does until both ports are there.
    func open() throws {
      card.start(VirtioConsoleTests.multiport)
      try control(ConsoleControl.Event.deviceReady)
      try control(ConsoleControl.Event.portReady, port: 0)
      try control(ConsoleControl.Event.portReady, port: 1)
      try control(ConsoleControl.Event.portOpen, port: 0)
      try control(ConsoleControl.Event.portOpen, port: 1)
    }
  }

  @Test func withoutPortsMessagesTheFirstPortIsAConsole() throws {
    let console = try Console()
    console.card.start()
    try console.card.add(1, [console.card.readable(Array("hello ".utf8)), console.card.readable(Array("world".utf8))])
    #expect(console.first.takeText() == "hello world")
    #expect(console.card.takeUsed(1).count == 1)
    console.first.type("keys")
    let part = console.card.writable(16)
    console.card.add(0, [part])
    #expect(console.card.takeUsed(0) == [.init(id: 0, length: 4)])
    #expect(try console.card.bytes(part, 4) == Array("keys".utf8))
  }

  @Test func portsAreAddedNamedAndOpened() throws {
    let console = try Console()
    console.card.start(Self.multiport)
    #expect(console.card.pci.configuration(4, .dword) == 2)
    try console.control(ConsoleControl.Event.deviceReady)
    typealias Event = ConsoleControl.Event
    #expect(
      try console.messages(4) == [
        Console.message(Event.portAdd, port: 0, value: 0), Console.message(Event.portAdd, port: 1, value: 0),
      ])
    try console.control(Event.portReady, port: 0)
    try console.control(Event.portReady, port: 1)
    #expect(
      try console.messages(4) == [
        Console.message(Event.consolePort, port: 0), Console.message(Event.portOpen, port: 0),
        Console.message(Event.portName, port: 1, value: 1, Array("org.example".utf8)),
        Console.message(Event.portOpen, port: 1),
      ])
  }

  @Test func eachPortHasItsOwnQueues() throws {
    let console = try Console()
    try console.open()
    try console.card.add(5, [console.card.readable(Array("two".utf8))])
    #expect(console.second.takeText() == "two")
    #expect(console.first.takeText().isEmpty)
    let part = console.card.writable(8)
    console.card.add(4, [part])
    console.second.type("in")
    #expect(console.card.takeUsed(4) == [.init(id: 0, length: 2)])
    #expect(try console.card.bytes(part, 2) == Array("in".utf8))
  }

  @Test func whatTheHostDoesNotTakeStaysWithTheDriver() throws {
    let console = try Console(room: 3)
    console.card.start()
    try console.card.add(1, [console.card.readable(Array("ab".utf8)), console.card.readable(Array("cdef".utf8))])
    try console.card.add(1, [console.card.readable(Array("gh".utf8))])
    #expect(console.card.takeUsed(1).isEmpty)
    console.first.setRoom(3)
    #expect(console.card.takeUsed(1).count == 1)
    console.first.setRoom(100)
    #expect(console.card.takeUsed(1).count == 1)
    #expect(console.first.takeText() == "abcdefgh")
  }

  @Test func inputForAClosedPortWaitsWithTheHost() throws {
    let console = try Console()
    console.card.start(Self.multiport)
    console.first.type("early")
    #expect(console.first.waiting == 5)
    try console.control(ConsoleControl.Event.portOpen, port: 0)
    #expect(console.first.resumes == 1)
    console.first.deliver()
    #expect(console.first.waiting == 0)
    // More than the port holds is taken as the driver makes room.
    console.first.type([UInt8](repeating: 7, count: 5000))
    #expect(console.first.waiting == 5005 - 4096)
    console.card.add(0, [console.card.writable(4096)])
    #expect(console.first.resumes == 2)
  }

  @Test func aTerminalsSizeReachesTheGuest() throws {
    let console = try Console()
    let port = try #require(console.first.attached)
    port.resized(columns: 80, rows: 25)
    #expect(console.card.pci.configuration(0, .dword) == 0)
    try console.open()
    #expect(console.card.pci.configuration(0, .dword) == 80 | 25 << 16)
    let messages = try console.messages(8)
    #expect(messages.contains(Console.message(ConsoleControl.Event.resize, value: 0, [80, 0, 25, 0])))
    port.resized(columns: 300, rows: 40)
    #expect(try console.messages(2) == [Console.message(ConsoleControl.Event.resize, value: 0, [44, 1, 40, 0])])
    port.resized(columns: 300, rows: 40)
    #expect(try console.messages(1).isEmpty)
  }

  @Test func olderLinuxGetsRowsFirst() throws {
    let console = try Console(rowsFirst: true)
    try console.open()
    _ = try console.messages(8)
    let port = try #require(console.first.attached)
    port.resized(columns: 80, rows: 25)
    #expect(try console.messages(1) == [Console.message(ConsoleControl.Event.resize, value: 0, [25, 0, 80, 0])])
  }

  @Test func anEmergencyWriteNeedsNoQueue() throws {
    let console = try Console()
    console.card.pci.setConfiguration(8, .dword, UInt64(UInt8(ascii: "!")))
    #expect(console.first.takeText() == "!")
  }

  @Test func messagesOfAHostileDriverChangeNothing() throws {
    let console = try Console()
    console.card.start(Self.multiport)
    try console.card.add(3, [console.card.readable([1, 2, 3])])
    for event in UInt16(0)...9 {
      for port in [UInt32(2), .max] { try console.control(event, port: port, value: 1) }
    }
    try console.control(0xFFFF, port: 0)
    for _ in 0..<300 { try console.control(ConsoleControl.Event.deviceReady) }
    #expect(!console.card.needsReset)
    // A buffer too small for a message gets what fits.
    let part = console.card.writable(3)
    console.card.add(2, [part])
    #expect(console.card.takeUsed(2) == [.init(id: 0, length: 3)])
    // A port that nothing is plugged into takes nothing.
    console.card.stop()
    console.card.start()
    try console.card.add(1, [console.card.readable(Array("still here".utf8))])
    #expect(console.first.takeText() == "still here")
  }

  @Test func aResetForgetsWhatWasPending() throws {
    let console = try Console(room: 0)
    console.card.start()
    try console.card.add(1, [console.card.readable(Array("lost".utf8))])
    console.card.start()
    console.first.setRoom(100)
    #expect(console.first.takeText().isEmpty)
    #expect(console.card.takeUsed(1).isEmpty)
  }

  @Test func morePortsThanThereAreIsAnError() throws {
    let fake = FakeBoard()
    #expect(throws: DeviceError.self) { _ = try VirtioConsole.console.make("port0", Properties([:]), fake.board) }
    _ = try VirtioConsole.model.pci.make("console", Properties(["max-ports": .integer(1)]), fake.board)
    _ = try VirtioConsole.console.make("port0", Properties([:]), fake.board)
    #expect(throws: DeviceError.self) { _ = try VirtioConsole.port.make("port1", Properties([:]), fake.board) }
  }
}
