import LinuxSystem
import Synchronization
import Testing

@testable import Sandbox

/// The shared page of a machine as both processes map it.
private struct Crossing {
  let launcher: MachinePage
  let device: MachinePage

  init(vcpus: Int = 1) throws {
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: vcpus)))
    launcher = try MachinePage(memory, vcpus: vcpus, initialize: true)
    device = try MachinePage(memory, vcpus: vcpus, initialize: false)
  }
}

private struct SeededGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return state >> 33
  }
  /// Now and then something takes time: a few hundred cycles, or long enough for the other side to sleep.
  mutating func dawdle() {
    switch next() % 64 {
    case 0: usleepMicroseconds(60)
    case 1...8: for _ in 0..<next() % 2000 { spinHint() }
    default: break
    }
  }
}

private func usleepMicroseconds(_ count: UInt64) {
  let end = monotonicNanoseconds() + count * 1000
  while monotonicNanoseconds() < end { _ = try? EventDescriptor().wait(milliseconds: 0) }
}

private final class Counter: Sendable {
  let value = Atomic<Int>(0)
}

@Suite struct CrossingMailboxTests {
  struct Spins: Sendable {
    let client: UInt64
    let server: UInt64
  }

  private static let spins: [Spins] = [0, 2_000, 300_000].flatMap { client in
    [0, 2_000, 300_000].map { Spins(client: client, server: $0) }
  }

  @Test(arguments: spins)
  func everyAccessIsAnsweredOnceWhoeverSleeps(_ spins: Spins) throws {
    let crossing = try Crossing()
    let served = Counter()
    let server = try HostThread("server") {
      var random = SeededGenerator(state: 1)
      MailboxServer(crossing.device.mailboxes[0], spin: spins.server).serve { request in
        served.value.add(1, ordering: .relaxed)
        random.dawdle()
        guard request.operation == .portRead || request.operation == .memoryRead else { return }
        for index in request.data.indices {
          request.data[index] = UInt8(truncatingIfNeeded: request.address &+ UInt64(index))
        }
      }
    }
    let client = MailboxClient(crossing.launcher.mailboxes[0], spin: spins.client)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Mailbox.capacity + 16, alignment: 8)
    defer { buffer.deallocate() }
    var random = SeededGenerator(state: 2)
    for step in 0..<1000 {
      random.dawdle()
      let width = [1, 2, 4, 8][Int(random.next() % 4)]
      let items = step % 50 == 0 ? Mailbox.capacity / width : Int(random.next() % 3) + 1
      let isRead = random.next() % 2 == 0
      buffer.initializeMemory(as: UInt8.self, repeating: 0xEE)
      #expect(
        client.access(
          isRead ? .portRead : .memoryWrite, UInt64(step), width: width, items: items, data: buffer.baseAddress!))
      if isRead {
        let expected = (0..<width * items).allSatisfy { buffer[$0] == UInt8(truncatingIfNeeded: step + $0) }
        #expect(expected, "access \(step)")
      }
      #expect(buffer[width * items] == 0xEE, "nothing beyond the answer is touched")
    }
    #expect(served.value.load(ordering: .relaxed) == 1000)
    crossing.launcher.mailboxes[0].close()
    server.join()
  }

  @Test func aWriteArrivesAsItWasGiven() throws {
    let crossing = try Crossing()
    let seen = Mutex<[String]>([])
    let bytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
    try withServer(crossing, spin: 0) { request in
      let line = "\(request.operation) \(request.address) \(request.width) \(Array(request.data))"
      seen.withLock { $0.append(line) }
    } body: { client in
      var bytes = bytes
      #expect(client.access(.portWrite, 0x1F0, width: 2, items: 4, data: &bytes))
      #expect(client.access(.memoryWrite, 0xFED0_00F0, width: 8, items: 1, data: &bytes))
    }
    #expect(
      seen.withLock { $0 } == [
        "portWrite 496 2 [1, 2, 3, 4, 5, 6, 7, 8]", "memoryWrite 4275044592 8 [1, 2, 3, 4, 5, 6, 7, 8]",
      ])
  }

  @Test func closingWakesAServerThatSleepsAndEndsLaterAccesses() throws {
    let crossing = try Crossing()
    let server = try HostThread("server") {
      MailboxServer(crossing.device.mailboxes[0], spin: 0).serve { _ in }
    }
    usleepMicroseconds(20_000)
    crossing.launcher.mailboxes[0].close()
    server.join()
    var byte: UInt8 = 0
    let client = MailboxClient(crossing.launcher.mailboxes[0], spin: 0)
    #expect(!client.access(.portRead, 0, width: 1, items: 1, data: &byte))
    #expect(!client.access(.portRead, 0, width: 1, items: 1, data: &byte))
  }

  @Test(arguments: [UInt64(0), 1_000_000])
  func closingWakesAClientThatWaitsForAnAnswer(_ spin: UInt64) throws {
    let crossing = try Crossing()
    let answered = Counter()
    let client = try HostThread("client") {
      var byte: UInt8 = 0
      let client = MailboxClient(crossing.launcher.mailboxes[0], spin: spin)
      answered.value.store(client.access(.portRead, 0, width: 1, items: 1, data: &byte) ? 1 : -1, ordering: .relaxed)
    }
    usleepMicroseconds(20_000)
    crossing.device.mailboxes[0].close()
    client.join()
    #expect(answered.value.load(ordering: .relaxed) == -1)
  }

  @Test func aServerThatClosesInTheMiddleOfARequestStops() throws {
    let crossing = try Crossing()
    let mailbox = crossing.device.mailboxes[0]
    let server = try HostThread("server") {
      MailboxServer(mailbox, spin: 0).serve { _ in mailbox.close() }
    }
    var byte: UInt8 = 0
    let client = MailboxClient(crossing.launcher.mailboxes[0], spin: 0)
    _ = client.access(.portRead, 0, width: 1, items: 1, data: &byte)
    server.join()
    #expect(!client.access(.portRead, 0, width: 1, items: 1, data: &byte))
  }

  struct Header: Sendable {
    let operation: UInt8
    let width: UInt8
    let items: UInt32
  }

  @Test(arguments: [
    Header(operation: 4, width: 1, items: 1), Header(operation: 255, width: 1, items: 1),
    Header(operation: 0, width: 0, items: 1), Header(operation: 0, width: 3, items: 1),
    Header(operation: 1, width: 16, items: 1), Header(operation: 1, width: 255, items: 1),
    Header(operation: 0, width: 1, items: 0), Header(operation: 0, width: 1, items: 4097),
    Header(operation: 2, width: 8, items: 513), Header(operation: 3, width: 4, items: .max),
  ])
  func aRequestThatNoClientMakesIsAnsweredWithoutBeingCarriedOut(_ header: Header) throws {
    let crossing = try Crossing()
    let served = Counter()
    try withServer(crossing, spin: 0) { _ in
      served.value.add(1, ordering: .relaxed)
    } body: { client in
      let slot = crossing.launcher.mailboxes[0]
      slot.mailbox.pointee.operation = header.operation
      slot.mailbox.pointee.width = header.width
      slot.mailbox.pointee.items = header.items
      _ = slot.mailbox.pointee.state.exchange(Mailbox.State.request, ordering: .acquiringAndReleasing)
      slot.wake()
      while [Mailbox.State.request, Mailbox.State.requestAsleep].contains(
        slot.mailbox.pointee.state.load(ordering: .acquiring))
      {
        spinHint()
      }
      #expect(served.value.load(ordering: .relaxed) == 0)
      // The server goes on.
      var byte: UInt8 = 0
      #expect(client.access(.portRead, 0, width: 1, items: 1, data: &byte))
      #expect(served.value.load(ordering: .relaxed) == 1)
    }
  }

  @Test(arguments: [UInt32(0), 1, 4, 6, 77, .max])
  func aServerThatWritesAnyStateOnlySpoilsItsOwnAnswer(_ state: UInt32) throws {
    let crossing = try Crossing()
    let server = try HostThread("server") {
      let slot = crossing.device.mailboxes[0]
      // Garbage in every field beside the state, too: the client does not read it back.
      while ![Mailbox.State.request, Mailbox.State.requestAsleep].contains(
        slot.mailbox.pointee.state.load(ordering: .acquiring))
      {
        spinHint()
      }
      slot.mailbox.pointee.items = .max
      slot.mailbox.pointee.width = 255
      slot.mailbox.pointee.state.store(state, ordering: .releasing)
      slot.wake()
    }
    var bytes = [UInt8](repeating: 0xEE, count: 16)
    let client = MailboxClient(crossing.launcher.mailboxes[0], spin: 0)
    #expect(client.access(.portRead, 0, width: 4, items: 2, data: &bytes))
    server.join()
    #expect(bytes[8...].allSatisfy { $0 == 0xEE })
  }

  @Test(arguments: spins)
  func postedWritesArePerformedInOrderBeforeTheNextAccess(_ spins: Spins) throws {
    let crossing = try Crossing()
    let seen = Mutex<[UInt64]>([])
    let server = try HostThread("server") {
      var random = SeededGenerator(state: 3)
      MailboxServer(crossing.device.mailboxes[0], spin: spins.server).serve { request in
        random.dawdle()
        guard request.operation == .portWrite else { return request.data.copyBytes(from: [0x5A]) }
        seen.withLock { $0.append(request.address) }
      }
    }
    let client = MailboxClient(crossing.launcher.mailboxes[0], spin: spins.client)
    var random = SeededGenerator(state: 4)
    var posted = 0
    for round in 0..<200 {
      random.dawdle()
      // Now and then more than there is room for.
      for _ in 0..<(round % 20 == 0 ? 100 : random.next() % 5) {
        var value: UInt16 = 0xBEEF
        guard client.post(.portWrite, UInt64(posted), width: 2, data: &value) != nil else { break }
        posted += 1
      }
      var byte: UInt8 = 0
      #expect(client.access(.portRead, 0, width: 1, items: 1, data: &byte))
      #expect(byte == 0x5A)
      #expect(seen.withLock { $0.count } == posted)
    }
    #expect(seen.withLock { $0 } == Array(0..<UInt64(posted)))
    crossing.launcher.mailboxes[0].close()
    server.join()
  }

  @Test func aPostedWriteArrivesWithItsWidthAndIsWaitedForByFlush() throws {
    let crossing = try Crossing()
    let seen = Mutex<[String]>([])
    try withServer(crossing, spin: 0) { request in
      usleepMicroseconds(1000)
      seen.withLock { $0.append("\(request.operation) \(request.address) \(Array(request.data))") }
    } body: { client in
      let bytes: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
      for width in [1, 2, 4, 8] { #expect(client.post(.memoryWrite, UInt64(width), width: width, data: bytes) != nil) }
      client.flush()
      #expect(seen.withLock { $0 } == [1, 2, 4, 8].map { "memoryWrite \($0) \(Array(bytes[..<$0]))" })
      client.flush()
      #expect(seen.withLock { $0.count } == 4)
    }
  }

  @Test func anAccessComesAfterWhatAnotherProcessorHadPosted() throws {
    let crossing = try Crossing(vcpus: 2)
    let register = Atomic<Int>(0)
    let servers = try (0..<2).map { index in
      try HostThread("server\(index)") {
        MailboxServer(crossing.device.mailboxes[index], spin: 1000).serve { request in
          if request.operation == .portWrite {
            usleepMicroseconds(20)
            register.store(Int(request.data[0]), ordering: .sequentiallyConsistent)
          } else {
            request.data[0] = UInt8(register.load(ordering: .sequentiallyConsistent))
          }
        }
      }
    }
    let clients = crossing.launcher.mailboxes.map { MailboxClient($0, spin: 1000) }
    for round in 1...100 {
      var byte = UInt8(round)
      // Turns change; a write of the other processor in between has its place in the order.
      #expect(clients[round & 1].post(.portWrite, 0, width: 1, data: [0]) != nil)
      #expect(clients[round & 1 ^ 1].post(.portWrite, 0, width: 1, data: &byte) != nil)
      byte = 0
      #expect(clients[round & 1].access(.portRead, 0, width: 1, items: 1, data: &byte))
      #expect(Int(byte) == round)
    }
    for mailbox in crossing.launcher.mailboxes { mailbox.close() }
    for server in servers { server.join() }
  }

  private func withServer(
    _ crossing: Crossing, spin: UInt64, _ handle: @escaping @Sendable (MailboxRequest) -> Void,
    body: (MailboxClient) throws -> Void
  ) throws {
    let server = try HostThread("server") {
      MailboxServer(crossing.device.mailboxes[0], spin: spin).serve(handle)
    }
    try body(MailboxClient(crossing.launcher.mailboxes[0], spin: spin))
    crossing.launcher.mailboxes[0].close()
    server.join()
  }
}

@Suite struct CrossingPageTests {
  private func mapping(_ number: UInt64) -> SharedMapping {
    SharedMapping(
      guestAddress: number << 12, size: number << 13, source: number % 2 == 0 ? .ram : .device, offset: number << 14,
      readOnly: number % 2 == 0)
  }

  @Test func aSlotHoldsWhatWasSetAndRaisesAttention() throws {
    let crossing = try Crossing(vcpus: 3)
    #expect(crossing.launcher.mailboxes.count == 3)
    #expect(crossing.launcher.get(0) == nil)
    let before = crossing.launcher.attention
    crossing.device.set(7, mapping(5))
    crossing.device.set(MachinePage.slotCount - 1, mapping(6))
    #expect(crossing.launcher.get(7) == mapping(5))
    #expect(crossing.launcher.get(MachinePage.slotCount - 1) == mapping(6))
    #expect(crossing.launcher.attention == before &+ 2)
    crossing.device.set(7, nil)
    #expect(crossing.launcher.get(7) == nil)
    crossing.device.set(-1, mapping(1))
    crossing.device.set(MachinePage.slotCount, mapping(1))
    #expect(crossing.launcher.attention == before &+ 3)
  }

  @Test func anEventIsCountedAndRaisesAttention() throws {
    let crossing = try Crossing()
    crossing.device.countEvent()
    #expect(crossing.launcher.postedEvents == 1)
    #expect(crossing.launcher.attention == 1)
  }

  @Test func writesArePostedInTheRangesThatDevicesName() throws {
    let crossing = try Crossing()
    func posts(_ address: UInt64, _ width: Int, isPort: Bool) -> Bool {
      crossing.launcher.postedPlace(address, width: width, isPort: isPort) != nil
    }
    #expect(!posts(0, 1, isPort: true))
    crossing.device.setPostedRange(3, ofPorts: true, 0x1F0..<0x1F8)
    crossing.device.setPostedRange(3, ofPorts: false, 0xF000_0000..<0xF000_1000)
    #expect(posts(0x1F0, 1, isPort: true) && posts(0x1F6, 2, isPort: true))
    #expect(!posts(0x1F7, 2, isPort: true) && !posts(0x1EF, 2, isPort: true))
    #expect(!posts(0x1F0, 1, isPort: false))
    #expect(posts(0xF000_0FF8, 8, isPort: false))
    crossing.device.setPostedRange(3, ofPorts: true, nil)
    crossing.device.setPostedRange(-1, ofPorts: true, 0..<1)
    crossing.device.setPostedRange(MachinePage.postedRangeCount, ofPorts: true, 0..<1)
    #expect(!posts(0x1F0, 1, isPort: true) && !posts(0, 1, isPort: true))
  }

  @Test func aReaderSeesNoMixtureOfTwoMappings() throws {
    let crossing = try Crossing()
    let stop = Counter()
    let writer = try HostThread("writer") {
      var number: UInt64 = 1
      while stop.value.load(ordering: .relaxed) == 0 {
        crossing.device.set(3, number % 16 == 0 ? nil : mapping(number))
        number += 1
      }
    }
    var found = 0
    for _ in 0..<200_000 {
      guard let seen = crossing.launcher.get(3) else { continue }
      found += 1
      guard seen == mapping(seen.guestAddress >> 12) else {
        Issue.record("\(seen)")
        break
      }
    }
    stop.value.store(1, ordering: .relaxed)
    writer.join()
    #expect(found > 0)
  }

  /// The first slot stands at byte 64: a sequence number, then the source (MachinePage.Slot).
  @Test func aSlotThatIsNeverFinishedOrHasNoSourceIsEmpty() throws {
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)))
    let page = try MachinePage(memory, vcpus: 1, initialize: true)
    let raw = try Mapping(sharing: memory, count: 4096)
    page.set(0, mapping(1))
    let sequence = raw.bytes.load(fromByteOffset: 64, as: UInt32.self)
    raw.bytes.storeBytes(of: sequence + 1, toByteOffset: 64, as: UInt32.self)
    #expect(page.get(0) == nil)
    raw.bytes.storeBytes(of: sequence + 2, toByteOffset: 64, as: UInt32.self)
    #expect(page.get(0) == mapping(1))
    raw.bytes.storeBytes(of: 99, toByteOffset: 68, as: UInt32.self)
    #expect(page.get(0) == nil)
  }
}
