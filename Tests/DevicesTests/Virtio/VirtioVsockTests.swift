import Backends
import DeviceKit
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Devices

/// A stream whose host end a test plays.
final class FakeVsockStream: VsockStream {
  struct State {
    var input: [UInt8] = []
    var inputHasEnded = false
    var output: [UInt8] = []
    var room = Int.max
    var takesNoMore = false
    var acceptedFrom: UInt32?
    var hasEnded = false
    var isClosed = false
  }
  let state = Mutex(State())

  subscript<Value: Sendable>(_ path: KeyPath<State, Value> & Sendable) -> Value { state.withLock { $0[keyPath: path] } }

  func receive(into buffer: UnsafeMutableRawBufferPointer) -> VsockReceived {
    state.withLock { state in
      guard !state.input.isEmpty else { return state.inputHasEnded ? .end : .nothing }
      let count = min(buffer.count, state.input.count)
      buffer.copyBytes(from: state.input[..<count])
      state.input.removeFirst(count)
      return .bytes(count)
    }
  }
  func send(_ bytes: UnsafeRawBufferPointer) -> Int? {
    state.withLock { state in
      guard !state.takesNoMore else { return nil }
      let count = min(bytes.count, state.room)
      state.output += bytes[..<count]
      if state.room != .max { state.room -= count }
      return count
    }
  }
  func accepted(hostPort: UInt32) { state.withLock { $0.acceptedFrom = hostPort } }
  func endSending() { state.withLock { $0.hasEnded = true } }
  func close() { state.withLock { $0.isClosed = true } }
}

/// A host where a test decides who listens.
final class FakeVsock: VsockBackend {
  let receiver = Mutex<(any VsockReceiver)?>(nil)
  let listeners = Mutex<[UInt32: FakeVsockStream]>([:])
  func attach(_ receiver: any VsockReceiver) { self.receiver.withLock { $0 = receiver } }
  func connect(port: UInt32, _ answer: @escaping @Sendable ((any VsockStream)?) -> Void) {
    answer(listeners.withLock { $0[port] })
  }
  func listen(_ port: UInt32) -> FakeVsockStream {
    let stream = FakeVsockStream()
    listeners.withLock { $0[port] = stream }
    return stream
  }
  func request(_ port: UInt32) -> FakeVsockStream {
    let stream = FakeVsockStream()
    receiver.withLock { $0 }?.requested(port: port, stream)
    return stream
  }
  func ready(_ stream: FakeVsockStream) { receiver.withLock { $0 }?.ready(stream) }
}

@Suite struct VirtioVsockTests {
  typealias Operation = VsockHeader.Operation

  struct Packet: Equatable {
    var operation: UInt16
    var from: UInt32
    var to: UInt32
    var flags: UInt32 = 0
    var data: [UInt8] = []
  }

  final class Guest {
    let host = FakeVsock()
    let card: VirtioDriver
    private var buffers: [UInt16: TestDescriptor] = [:]
    /// The header of the last packet.
    private(set) var last = [UInt8](repeating: 0, count: VsockHeader.size)

    init() throws {
      let fake = FakeBoard(resources: FakeResources(vsock: host))
      let device = try VirtioVsock.model.pci.make(
        "vsock", Properties(["guest-cid": .integer(42), "addr": .string("03.0")]), fake.board)
      card = VirtioDriver(fake, device)
      card.start()
    }

    static func bytes(_ value: UInt64, _ count: Int) -> [UInt8] {
      (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
    }

    func send(
      _ operation: UInt16, from: UInt32 = 1000, to: UInt32 = 80, _ data: [UInt8] = [], flags: UInt32 = 0,
      source: UInt64 = 42, destination: UInt64 = 2, type: UInt16 = 1, length: Int? = nil, room: UInt32 = 1 << 16,
      forwarded: UInt32 = 0
    ) throws {
      var packet = Self.bytes(source, 8) + Self.bytes(destination, 8)
      packet += Self.bytes(UInt64(from), 4) + Self.bytes(UInt64(to), 4)
      packet += Self.bytes(UInt64(length ?? data.count), 4) + Self.bytes(UInt64(type), 2)
      packet += Self.bytes(UInt64(operation), 2) + Self.bytes(UInt64(flags), 4)
      packet += Self.bytes(UInt64(room), 4) + Self.bytes(UInt64(forwarded), 4)
      let parts = data.isEmpty ? [try card.readable(packet)] : [try card.readable(packet), try card.readable(data)]
      card.add(1, parts)
      _ = card.takeUsed(1)
    }

    /// What the device sends through `count` more buffers, and through those it had before.
    func packets(_ count: Int = 4, size: Int = 256) throws -> [Packet] {
      for _ in 0..<max(0, count - buffers.count) {
        let part = card.writable(size)
        buffers[card.add(0, [part])] = part
      }
      return try card.takeUsed(0).compactMap { used in
        guard let part = buffers.removeValue(forKey: used.id) else { return nil }
        let bytes = try card.bytes(part, Int(used.length))
        func number(_ offset: Int, _ count: Int) -> UInt64 {
          bytes[offset..<offset + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        last = Array(bytes[..<VsockHeader.size])
        #expect(number(0, 8) == 2 && number(8, 8) == 42)
        #expect(number(24, 4) == UInt64(bytes.count - VsockHeader.size))
        return Packet(
          operation: UInt16(number(30, 2)), from: UInt32(number(16, 4)), to: UInt32(number(20, 4)),
          flags: UInt32(number(32, 4)), data: Array(bytes[VsockHeader.size...]))
      }
    }

    var lastForwarded: UInt32 { last[40..<44].reversed().reduce(0) { $0 << 8 | UInt32($1) } }

    /// A connection of the guest's that the host has accepted.
    func connect() throws -> FakeVsockStream {
      let stream = host.listen(80)
      try send(Operation.request)
      #expect(try packets() == [Packet(operation: Operation.response, from: 80, to: 1000)])
      return stream
    }
  }

  @Test func theGuestKnowsItsIdentifier() throws {
    let guest = try Guest()
    #expect(guest.card.pci.configuration(0, .qword) == 42)
    #expect(guest.card.pci.read(2, .word) == 0x1053)
  }

  @Test func theGuestConnectsToThePortOfAHostSocket() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    try guest.send(Operation.data, Array("ping".utf8))
    #expect(stream[\.output] == Array("ping".utf8))
    stream.state.withLock { $0.input = Array("pong".utf8) }
    guest.host.ready(stream)
    #expect(try guest.packets() == [.init(operation: Operation.data, from: 80, to: 1000, data: Array("pong".utf8))])
    #expect(guest.lastForwarded == 4)
  }

  @Test func aPortWithoutListenerIsRefused() throws {
    let guest = try Guest()
    try guest.send(Operation.request, to: 81)
    #expect(try guest.packets() == [.init(operation: Operation.reset, from: 81, to: 1000)])
  }

  @Test func theHostConnectsToAPortOfTheGuest() throws {
    let guest = try Guest()
    let stream = guest.host.request(22)
    let asked = try #require(try guest.packets().first)
    #expect(asked.operation == Operation.request && asked.to == 22)
    #expect(stream[\.acceptedFrom] == nil)
    try guest.send(Operation.response, from: 22, to: asked.from)
    #expect(stream[\.acceptedFrom] == asked.from)
    stream.state.withLock { $0.input = [1, 2, 3] }
    guest.host.ready(stream)
    #expect(try guest.packets() == [.init(operation: Operation.data, from: asked.from, to: 22, data: [1, 2, 3])])
    // Another gets a port of its own.
    _ = guest.host.request(22)
    #expect(try guest.packets().first?.from != asked.from)
  }

  @Test func aGuestThatRefusesHangsTheClientUp() throws {
    let guest = try Guest()
    let stream = guest.host.request(22)
    let asked = try #require(try guest.packets().first)
    try guest.send(Operation.reset, from: 22, to: asked.from)
    #expect(stream[\.isClosed])
    #expect(try guest.packets().isEmpty)
  }

  @Test func theGuestsCreditBoundsWhatIsSentToIt() throws {
    let guest = try Guest()
    let stream = guest.host.listen(80)
    try guest.send(Operation.request, room: 10)
    _ = try guest.packets()
    stream.state.withLock { $0.input = Array(0..<25) }
    guest.host.ready(stream)
    let first = try guest.packets()
    #expect(first.map(\.operation) == [Operation.data, Operation.creditRequest])
    #expect(first[0].data == Array(0..<10))
    #expect(try guest.packets().isEmpty)
    try guest.send(Operation.creditUpdate, room: 10, forwarded: 7)
    #expect(try guest.packets().first?.data == Array(10..<17))
    // A guest that takes back what it had given has no credit.
    try guest.send(Operation.creditUpdate, room: 0, forwarded: 17)
    #expect(try guest.packets().allSatisfy { $0.operation == Operation.creditRequest })
    try guest.send(Operation.creditUpdate, room: 1 << 16, forwarded: 17)
    #expect(try guest.packets().first?.data == Array(17..<25))
  }

  @Test func theHostsCreditBoundsWhatTheGuestSends() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    stream.state.withLock { $0.room = 0 }
    let block = [UInt8](repeating: 5, count: 32 << 10)
    try guest.send(Operation.data, block)
    try guest.send(Operation.data, block)
    #expect(try guest.packets().isEmpty)
    stream.state.withLock { $0.room = 40 << 10 }
    guest.host.ready(stream)
    #expect(try guest.packets() == [.init(operation: Operation.creditUpdate, from: 80, to: 1000)])
    #expect(guest.lastForwarded == 40 << 10)
    // What is beyond the credit ends the connection.
    try guest.send(Operation.data, block + block)
    #expect(try guest.packets() == [.init(operation: Operation.reset, from: 80, to: 1000)])
    #expect(stream[\.isClosed])
  }

  @Test func theEndOfTheHostReachesTheGuestAfterItsData() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    stream.state.withLock {
      $0.input = [9]
      $0.inputHasEnded = true
    }
    guest.host.ready(stream)
    #expect(
      try guest.packets() == [
        .init(operation: Operation.data, from: 80, to: 1000, data: [9]),
        .init(operation: Operation.shutdown, from: 80, to: 1000, flags: VsockHeader.Shutdown.send),
      ])
    #expect(!stream[\.isClosed])
  }

  @Test func theEndOfTheGuestReachesTheHostAfterItsData() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    stream.state.withLock { $0.room = 1 }
    try guest.send(Operation.data, [1, 2])
    try guest.send(Operation.shutdown, flags: VsockHeader.Shutdown.send)
    #expect(!stream[\.hasEnded])
    stream.state.withLock { $0.room = .max }
    guest.host.ready(stream)
    #expect(stream[\.hasEnded] && stream[\.output] == [1, 2])
    try guest.send(Operation.shutdown, flags: VsockHeader.Shutdown.both)
    #expect(try guest.packets() == [.init(operation: Operation.reset, from: 80, to: 1000)])
    #expect(stream[\.isClosed])
  }

  @Test func aHostThatReadsNoMoreIsToldOf() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    stream.state.withLock { $0.takesNoMore = true }
    try guest.send(Operation.data, [1])
    #expect(
      try guest.packets() == [
        .init(operation: Operation.shutdown, from: 80, to: 1000, flags: VsockHeader.Shutdown.receive)
      ])
  }

  @Test func whatBelongsToNoConnectionIsRefusedOnceAndResetsAreNot() throws {
    let guest = try Guest()
    for operation in [UInt16(0), 2, 4, 5, 6, 7, 99] {
      try guest.send(operation)
      #expect(try guest.packets() == [.init(operation: Operation.reset, from: 80, to: 1000)])
    }
    try guest.send(Operation.reset)
    #expect(try guest.packets().isEmpty)
    _ = guest.host.listen(80)
    try guest.send(Operation.request, destination: 3)
    #expect(try guest.packets().map(\.operation) == [Operation.reset])
    try guest.send(Operation.request, type: 2)
    #expect(try guest.packets().map(\.operation) == [Operation.reset])
    try guest.send(Operation.request, source: 41)
    #expect(try guest.packets().isEmpty)
  }

  @Test func aSecondRequestForTheSamePortsEndsTheFirst() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    try guest.send(Operation.request)
    #expect(try guest.packets().map(\.operation) == [Operation.reset])
    #expect(stream[\.isClosed])
  }

  @Test func aLengthBeyondThePacketEndsTheConnection() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    try guest.send(Operation.data, [1, 2, 3], length: 4)
    #expect(stream[\.isClosed] && stream[\.output].isEmpty)
    // A packet without a whole header is passed over.
    try guest.card.add(1, [guest.card.readable([1, 2, 3])])
    #expect(!guest.card.needsReset)
  }

  @Test func aReceiveBufferWithoutRoomForAHeaderBreaksTheDevice() throws {
    let guest = try Guest()
    guest.card.add(0, [guest.card.writable(20)])
    try guest.send(Operation.data)
    #expect(guest.card.needsReset)
  }

  @Test func connectionsAndRefusalsAreBounded() throws {
    let guest = try Guest()
    for port in UInt32(0)..<600 {
      _ = guest.host.listen(port)
      try guest.send(Operation.request, from: 1, to: port)
    }
    var counts: [UInt16: Int] = [:]
    while case let packets = try guest.packets(8), !packets.isEmpty {
      for packet in packets { counts[packet.operation, default: 0] += 1 }
    }
    #expect(counts == [Operation.response: 512, Operation.reset: 88])
    for _ in 0..<1000 { try guest.send(Operation.data, from: 7, to: 7) }
    var refusals = 0
    while case let packets = try guest.packets(8), !packets.isEmpty { refusals += packets.count }
    // Eight went into buffers that were there.
    #expect(refusals == 256 + 8)
  }

  @Test func aResetOfTheDeviceClosesAll() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    let asked = guest.host.request(22)
    guest.card.stop()
    #expect(stream[\.isClosed] && asked[\.isClosed])
  }

  @Test func aLargeStreamArrivesWhole() throws {
    let guest = try Guest()
    let stream = try guest.connect()
    let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    stream.state.withLock { $0.input = bytes }
    guest.host.ready(stream)
    var received: [UInt8] = []
    while received.count < bytes.count {
      let packets = try guest.packets(8, size: 4096).filter { $0.operation == Operation.data }
      try #require(!packets.isEmpty)
      for packet in packets { received += packet.data }
      try guest.send(Operation.creditUpdate, forwarded: UInt32(received.count))
    }
    #expect(received == bytes)
  }
}
