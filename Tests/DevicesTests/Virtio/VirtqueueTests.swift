import DeviceKit
import GuestMemory
import TestKit
import Testing

@testable import Devices

/// A ring as its driver and its device see it.
struct RingUnderTest {
  static let data: UInt64 = 0x10_0000
  static let table: UInt64 = 0x18_0000
  let fake = FakeBoard(deviceMemorySize: 4096)
  let driver: VirtqueueDriver
  let queues: VirtqueueSet

  init(isPacked: Bool, size: Int = 8, features: VirtioFeatures = [.indirectDescriptors]) throws {
    driver = VirtqueueDriver(fake.board.memory, at: 0x1_0000, size: size, isPacked: isPacked)
    queues = VirtqueueSet(count: 1, memory: fake.board.memory)
    let layout = VirtqueueLayout(
      size: UInt16(size), descriptors: driver.descriptors, driver: driver.driver, device: driver.device)
    let all = isPacked ? features.union(.packedRing) : features
    guard let queue = Virtqueue(fake.board.memory, layout, all) else { throw VirtqueueFault.ring }
    queues.open(0, queue)
  }

  /// Takes a chain, as sizes of its runs, or the fault.
  func take() -> Result<[[Int]]?, VirtqueueFault> {
    do throws(VirtqueueFault) {
      guard let chain = try queues[0].take() else { return .success(nil) }
      return .success([chain.readable.map(\.count), chain.writable.map(\.count)])
    } catch { return .failure(error) }
  }

  var hasAvailable: Bool { queues[0].hasAvailable }
  var outstanding: Int { queues[0].outstanding }
  func publish() -> Bool { queues[0].publish() }

  /// Takes a chain and gives it back.
  @discardableResult
  func serve(written: UInt32 = 0) throws -> Bool {
    guard let chain = try queues[0].take() else { return false }
    queues[0].put(chain.token, written: written)
    return queues[0].publish()
  }
}

@Suite struct VirtqueueTests {
  typealias Ring = RingUnderTest

  @Test(arguments: [false, true]) func chainsComeInOrderAndGoBackManyLaps(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked, size: 8)
    for round in 0..<100 {
      let id = ring.driver.add([
        .readable(Ring.data, 16), .readable(Ring.data + 64, 100 + round), .writable(Ring.data + 512, 1),
      ])
      #expect(ring.hasAvailable)
      #expect(try ring.take().get() == [[16, 100 + round], [1]])
      #expect(try ring.take().get() == nil)
      ring.queues[0].put(
        BufferToken(id: id, descriptors: isPacked ? 3 : 1), written: UInt32(round))
      #expect(ring.driver.takeUsed().isEmpty || isPacked)
      #expect(ring.publish(), "without suppression every buffer interrupts")
      if !isPacked { #expect(ring.driver.takeUsed() == [.init(id: id, length: UInt32(round))]) }
      #expect(ring.outstanding == 0)
      if isPacked { _ = ring.driver.takeUsed() }
    }
  }

  @Test(arguments: [false, true]) func aTableOfDescriptorsIsOneOfTheRing(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked, size: 2)
    let entries = (0..<100).map { TestDescriptor.readable(Ring.data + UInt64($0), 8) } + [.writable(Ring.data, 4)]
    ring.driver.write(table: entries, at: Ring.table)
    ring.driver.add([.table(Ring.table, entries.count * 16)])
    #expect(try ring.take().get() == [[Int](repeating: 8, count: 100), [4]])
  }

  @Test(arguments: [false, true]) func anEmptyBufferIsNothing(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked)
    ring.driver.add([.readable(Ring.data, 4), .readable(.max, 0), .writable(Ring.data, 1), .writable(5, 0)])
    #expect(try ring.take().get() == [[4], [1]])
  }

  struct Malformed: Sendable {
    let fault: VirtqueueFault
    var features: VirtioFeatures = [.indirectDescriptors]
    var isPacked: Bool?
    let make: @Sendable (VirtqueueDriver) -> Void
  }

  static let malformed: [Malformed] = [
    Malformed(fault: .address) { $0.add([.readable(0xFFFF_FFFF_FFFF_FFF0, 0x20)]) },
    Malformed(fault: .address) { $0.add([.readable(4 << 20, 1)]) },
    Malformed(fault: .address) { $0.add([.writable((4 << 20) - 8, 9)]) },
    Malformed(fault: .address) { $0.add([.readable(Ring.data, -1)]) },
    Malformed(fault: .order) { $0.add([.writable(Ring.data, 1), .readable(Ring.data, 1)]) },
    Malformed(fault: .loop, isPacked: false) { driver in
      var back = TestDescriptor.readable(Ring.data, 1)
      back.next = 0
      back.hasNext = true
      driver.add([.readable(Ring.data, 1), back])
    },
    Malformed(fault: .loop, isPacked: true) { driver in
      var more = TestDescriptor.readable(Ring.data, 1)
      more.hasNext = true
      driver.add(Array(repeating: more, count: 8))
    },
    Malformed(fault: .descriptor, isPacked: false) { $0.offer(head: 8) },
    Malformed(fault: .descriptor, isPacked: false) { driver in
      var out = TestDescriptor.readable(Ring.data, 1)
      out.next = 0xFFFF
      out.hasNext = true
      driver.add([out])
    },
    Malformed(fault: .index, isPacked: false) { $0.setAvailableIndex(9) },
    Malformed(fault: .index, isPacked: false) { $0.setAvailableIndex(0x8000) },
    Malformed(fault: .indirect, features: []) { $0.add([.table(Ring.table, 16)]) },
    Malformed(fault: .indirect) { driver in
      driver.write(table: [.table(Ring.table, 16)], at: Ring.table)
      driver.add([.table(Ring.table, 16)])
    },
    Malformed(fault: .indirect) { driver in
      driver.write(table: [.readable(Ring.data, 1)], at: Ring.table)
      var table = TestDescriptor.table(Ring.table, 16)
      table.hasNext = true
      driver.add([table, .readable(Ring.data, 1)])
    },
    Malformed(fault: .length) { $0.add([.table(Ring.table, 0)]) },
    Malformed(fault: .length) { $0.add([.table(Ring.table, 15)]) },
    Malformed(fault: .length) { $0.add([.table(Ring.table, 1 << 30)]) },
    Malformed(fault: .address) { $0.add([.table(.max - 14, 16)]) },
    Malformed(fault: .address) { $0.add([.table((4 << 20) - 16, 32)]) },
    Malformed(fault: .descriptor, isPacked: false) { driver in
      var out = TestDescriptor.readable(Ring.data, 1)
      out.next = 2
      out.hasNext = true
      driver.write(table: [out, .readable(Ring.data, 1)], at: Ring.table)
      driver.add([.table(Ring.table, 32)])
    },
    Malformed(fault: .order) { driver in
      driver.write(table: [.writable(Ring.data, 1), .readable(Ring.data, 1)], at: Ring.table)
      driver.add([.table(Ring.table, 32)])
    },
  ]

  @Test(arguments: malformed.indices, [false, true])
  func whatBreaksTheRulesIsAFault(index: Int, isPacked: Bool) throws {
    let malformed = Self.malformed[index]
    guard malformed.isPacked.map({ $0 == isPacked }) ?? true else { return }
    let ring = try Ring(isPacked: isPacked, features: malformed.features)
    malformed.make(ring.driver)
    #expect(ring.take() == .failure(malformed.fault))
  }

  @Test func aChainOfMoreThanFourGigabytesIsAFault() throws {
    let ring = try Ring(isPacked: false)
    // 1025 times the same 4 MiB.
    let entries = Array(repeating: TestDescriptor.readable(0, 4 << 20), count: 1024)
    ring.driver.write(table: entries, at: Ring.table)
    ring.driver.add([.readable(0, 1), .table(Ring.table, entries.count * 16)])
    #expect(ring.take() == .failure(.length))
  }

  @Test(arguments: [false, true]) func buffersThatAreNotGivenBackCannotBeOfferedAgain(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked, size: 4)
    for _ in 0..<4 {
      ring.driver.add([.readable(Ring.data, 1)])
      #expect(try ring.take().get() != nil)
    }
    ring.driver.add([.readable(Ring.data, 1)])
    #expect(ring.take() == .failure(.index))
  }

  @Test(
    arguments: [
      (UInt16(7), UInt64(0x1_0000), UInt64(0x2_0000), UInt64(0x3_0000)), (0, 0x1_0000, 0x2_0000, 0x3_0000),
      (8, 0x1_0008, 0x2_0000, 0x3_0000), (8, 0x1_0000, 0x2_0001, 0x3_0000), (8, 0x1_0000, 0x2_0000, 0x3_0002),
      (8, 4 << 20, 0x2_0000, 0x3_0000), (8, 0x1_0000, .max - 1, 0x3_0000), (8, 0x1_0000, 0x2_0000, (4 << 20) - 4),
      (0xFFFF, 0x1_0000, 0x2_0000, 0x3_0000),
    ] as [(UInt16, UInt64, UInt64, UInt64)])
  func aRingThatIsNotWholeAlignedRAMIsNone(size: UInt16, table: UInt64, driver: UInt64, device: UInt64) {
    let fake = FakeBoard(deviceMemorySize: 4096)
    let layout = VirtqueueLayout(size: size, descriptors: table, driver: driver, device: device)
    let isNone = Virtqueue(fake.board.memory, layout, []) == nil
    #expect(isNone)
  }

  @Test(arguments: [false, true]) func interruptsAreSentWhereTheDriverWantsThem(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked)
    ring.driver.setInterrupts(false)
    ring.driver.add([.readable(Ring.data, 1)])
    #expect(try !ring.serve())
    ring.driver.setInterrupts(true)
    ring.driver.add([.readable(Ring.data, 1)])
    #expect(try ring.serve())
    #expect(!ring.publish(), "nothing new")
  }

  @Test(arguments: [false, true]) func theEventIndexPicksOneBuffer(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked, size: 4, features: [.eventIndex])
    // The sixth buffer: in a packed ring of four, index 1 of the second lap, whose wrap counter is 0.
    ring.driver.setEvent(isPacked ? 1 : 5)
    for number in 0..<10 {
      ring.driver.add([.readable(Ring.data, 1)])
      #expect(try ring.serve() == (number == 5), "buffer \(number)")
    }
  }

  @Test(arguments: [false, true]) func notificationsAreAskedForAndNot(isPacked: Bool) throws {
    let ring = try Ring(isPacked: isPacked)
    #expect(ring.driver.wantsNotification)
    ring.queues[0].setNotifications(false)
    #expect(!ring.driver.wantsNotification)
    ring.queues[0].setNotifications(true)
    #expect(ring.driver.wantsNotification)
    _ = ring.driver.takeUsed()
  }

  @Test(arguments: [false, true]) func anythingInTheRingIsTakenOrRefused(isPacked: Bool) throws {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<50 {
      let ring = try Ring(isPacked: isPacked, size: 8, features: [.indirectDescriptors, .eventIndex])
      let memory = ring.fake.board.memory
      for offset in stride(from: UInt64(0), to: 0x2000, by: 2) {
        // Small numbers now and then, so that chains get somewhere.
        let value = UInt16.random(in: 0...UInt16.max, using: &random)
        try memory.store(Bool.random() ? value & 7 : value, at: 0x1_0000 + offset)
      }
      try memory.store(UInt16.random(in: 0...8), at: ring.driver.driver + 2)
      for _ in 0..<9 {
        guard case .success(let chain) = ring.take() else { break }
        guard chain != nil else { break }
        ring.queues[0].put(BufferToken(id: .max, descriptors: .max), written: .max)
        _ = ring.queues[0].publish()
        ring.queues[0].setNotifications(true)
      }
    }
  }
}
