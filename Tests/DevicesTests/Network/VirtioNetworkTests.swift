import Backends
import Buses
import DeviceKit
import MachineModel
import TestKit
import Testing

@testable import Devices

/// A driver of the device's queues without a transport: split rings, each buffer in one descriptor.
private final class Driver {
  typealias Feature = NetworkFormat.Feature

  static let queueSize = 16
  static let bufferStride: UInt64 = 0x2000

  let fake: FakeBoard
  let network: RecordingNetwork
  let device: VirtioNetwork
  let features: VirtioFeatures
  private var available = [UInt16](repeating: 0, count: 8)
  private var seen = [UInt16](repeating: 0, count: 8)

  var headerSize: Int { device.settings.headerSize }

  init(
    _ features: VirtioFeatures = [.version1, Feature.mergeableBuffers], offloads: NetworkOffloads = [],
    pairs: Int = 1
  ) throws {
    network = RecordingNetwork(offloads: offloads, queuePairs: pairs)
    fake = FakeBoard()
    let address = try #require(MACAddress("52:54:00:12:34:56"))
    device = try VirtioNetwork(
      id: "nic", network, .init(address: EthernetAddress(address), queueSize: UInt16(Self.queueSize)), board: fake.board
    )
    self.features = features
    device.start()
    start()
  }

  func start() {
    available = [UInt16](repeating: 0, count: 8)
    seen = available
    let count = device.specs.count
    device.control.withLock { control in
      control.features = features
      for queue in 0..<count {
        let base = ring(queue)
        control.queues[queue].layout = VirtqueueLayout(
          size: UInt16(Self.queueSize), descriptors: base, driver: base + 0x400, device: base + 0x800)
      }
    }
    for queue in 0..<count {
      for offset in stride(from: UInt64(0), to: 0x1000, by: 8) {
        try? fake.board.memory.store(UInt64(0), at: ring(queue) + offset)
      }
      device.enable(queue: queue)
    }
    let offered = device.features.union(.version1)
    device.setStatus([.acknowledge, .driver], offered: offered, requires: [])
    device.setStatus([.acknowledge, .driver, .featuresOK], offered: offered, requires: [])
    device.setStatus([.acknowledge, .driver, .featuresOK, .driverOK], offered: offered, requires: [])
  }

  func ring(_ queue: Int) -> UInt64 { 0x1_0000 + UInt64(queue) * 0x1000 }
  func buffer(_ queue: Int, _ index: Int) -> UInt64 {
    0x10_0000 + UInt64(queue) * 0x4_0000 + UInt64(index % Self.queueSize) * Self.bufferStride
  }

  /// Describes a chain at descriptor `first`: addresses and lengths, the readable part before the writable.
  func describe(_ queue: Int, _ first: Int, _ parts: [(address: UInt64, count: Int, isWritable: Bool)]) throws {
    for (index, part) in parts.enumerated() {
      let at = ring(queue) + UInt64(first + index) * 16
      let flags: UInt16 = (index + 1 < parts.count ? 1 : 0) | (part.isWritable ? 2 : 0)
      try fake.board.memory.store(part.address, at: at)
      try fake.board.memory.store(UInt32(part.count), at: at + 8)
      try fake.board.memory.store(flags, at: at + 12)
      try fake.board.memory.store(UInt16(first + index + 1), at: at + 14)
    }
  }

  func offer(_ queue: Int, _ head: Int) throws {
    let slot = UInt64(Int(available[queue]) % Self.queueSize)
    try fake.board.memory.store(UInt16(head), at: ring(queue) + 0x404 + slot * 2)
    available[queue] &+= 1
    try fake.board.memory.store(available[queue], at: ring(queue) + 0x402)
    device.notify(queue: queue)
  }

  /// Buffers given back since the last call: head and bytes written.
  func takeUsed(_ queue: Int) throws -> [(head: Int, written: Int)] {
    var result: [(Int, Int)] = []
    let index = try fake.board.memory.load(ring(queue) + 0x802, as: UInt16.self)
    while seen[queue] != index {
      let at = ring(queue) + 0x804 + UInt64(Int(seen[queue]) % Self.queueSize) * 8
      result.append(
        (
          Int(try fake.board.memory.load(at, as: UInt32.self)), Int(try fake.board.memory.load(at + 4, as: UInt32.self))
        ))
      seen[queue] &+= 1
    }
    return result
  }

  /// Offers receive buffers of `size` bytes each.
  func fill(_ count: Int, size: Int = 2048, queue: Int = 0, from first: Int = 0) throws {
    for index in first..<first + count {
      try describe(queue, index, [(buffer(queue, index), size, true)])
      try offer(queue, index)
    }
  }

  /// The bytes of the buffers given back, header and all.
  func received(_ queue: Int = 0) throws -> [UInt8] {
    try takeUsed(queue).flatMap { try fake.board.memory.bytes(buffer(queue, $0.head), $0.written) }
  }

  func header(_ header: FrameHeader = FrameHeader(), buffers: Int = 0) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 12)
    bytes.withUnsafeMutableBytes { bytes in
      header.encode(to: bytes)
      bytes[FrameHeader.size] = UInt8(truncatingIfNeeded: buffers)
    }
    return Array(bytes[..<headerSize])
  }

  /// Sends a frame in one descriptor.
  func send(_ frame: [UInt8], _ header: FrameHeader = FrameHeader(), queue: Int = 1, at index: Int = 0) throws {
    let bytes = self.header(header) + frame
    try fake.board.memory.write(buffer(queue, index), bytes)
    try describe(queue, index, [(buffer(queue, index), bytes.count, false)])
    try offer(queue, index)
  }

  /// Sends a control command and returns its answer.
  func control(_ kind: UInt8, _ command: UInt8, _ data: [UInt8], queue: Int = 2) throws -> UInt8 {
    let bytes = [kind, command] + data
    try fake.board.memory.write(buffer(queue, 0), bytes)
    try fake.board.memory.store(UInt8(0xEE), at: buffer(queue, 1))
    try describe(queue, 0, [(buffer(queue, 0), bytes.count, false), (buffer(queue, 1), 1, true)])
    try offer(queue, 0)
    #expect(try takeUsed(queue).map(\.written) == [1])
    return try fake.board.memory.load(buffer(queue, 1), as: UInt8.self)
  }
}

@Suite struct VirtioNetworkTests {
  private typealias Feature = NetworkFormat.Feature
  private static let controls: VirtioFeatures = [
    .version1, Feature.mergeableBuffers, Feature.controlQueue, Feature.controlReceive, Feature.controlReceiveExtra,
    Feature.controlVLAN, Feature.controlMAC,
  ]

  @Test func aFrameGoesOutInAsManyDescriptorsAsTheDriverLikes() throws {
    let driver = try Driver()
    let frame = TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(300))
    let bytes = driver.header() + frame
    let base = driver.buffer(1, 0)
    try driver.fake.board.memory.write(base, bytes)
    let cuts = [0, 5, 12, 26, 100, bytes.count]
    try driver.describe(
      1, 0, zip(cuts, cuts.dropFirst()).map { (address: base + UInt64($0), count: $1 - $0, isWritable: false) })
    try driver.offer(1, 0)
    #expect(driver.network.takeSent() == [.init(frame)])
    #expect(try driver.takeUsed(1).map(\.head) == [0])
  }

  @Test func legacyDriversHaveAShorterHeader() throws {
    let driver = try Driver([])
    #expect(driver.headerSize == 10)
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try driver.send(frame)
    #expect(driver.network.takeSent() == [.init(frame)])
    try driver.fill(2)
    driver.network.inject(frame)
    #expect(try driver.received() == driver.header() + frame)
  }

  @Test func offloadsGoToTheBackendWhereAgreed() throws {
    let header = FrameHeader(
      flags: .needsChecksum, segmentation: .tcp4, headerLength: 54, segmentSize: 1448, checksumStart: 34,
      checksumOffset: 16)
    let frame = TestFrame.tcpForOffload(TestFrame.pattern(4000), withLength: true)
    let features: VirtioFeatures = [.version1, Feature.checksum, Feature.hostTSO4]
    let driver = try Driver(features, offloads: [.checksum, .tso4, .tso6])
    try driver.send(frame, header)
    #expect(driver.network.takeSent() == [.init(frame, header)])
    // Not agreed on: lost, and the buffer comes back.
    var other = header
    other.segmentation = .tcp6
    try driver.send(frame, other, at: 1)
    #expect(driver.network.takeSent().isEmpty)
    #expect(try driver.takeUsed(1).count == 2)
    #expect(driver.device.lastFault == nil)
  }

  @Test func onlyOffloadsOfTheBackendAreOffered() throws {
    #expect(try !Driver().device.features.contains(Feature.checksum))
    let device = try Driver(offloads: [.checksum, .tso4]).device
    #expect(device.features.contains([Feature.checksum, Feature.hostTSO4]))
    #expect(!device.features.contains(Feature.hostTSO6))
  }

  @Test func theBackendLearnsWhatTheDriverTakes() throws {
    let features: VirtioFeatures = [
      .version1, Feature.guestChecksum, Feature.guestTSO4, Feature.controlQueue, Feature.guestOffloads,
    ]
    let driver = try Driver(features)
    #expect(driver.network.receiveOffloads == [.checksum, .tso4])
    #expect(try driver.control(5, 0, [0x02, 0, 0, 0, 0, 0, 0, 0]) == 0)
    #expect(driver.network.receiveOffloads == [.checksum])
    // Never agreed on.
    #expect(try driver.control(5, 0, [0x02, 0x01, 0, 0, 0, 0, 0, 0]) == 1)
    driver.device.reset()
    driver.start()
    #expect(driver.network.receiveOffloads == [.checksum, .tso4])
  }

  @Test func rightChecksumsAreVouchedForWhereTheDriverTakesIt() throws {
    let good = TestFrame.tcp(TestFrame.pattern(100))
    var bad = good
    bad[100] ^= 1
    for (feature, frame, flags) in [(Feature.guestChecksum, good, 2), (Feature.guestChecksum, bad, 0), ([], good, 0)]
      as [(VirtioFeatures, [UInt8], UInt8)]
    {
      let driver = try Driver([.version1, feature])
      try driver.fill(1)
      driver.network.inject(frame)
      #expect(try driver.received().first == flags)
    }
  }

  @Test func mergeableBuffersShareALongFrame() throws {
    let driver = try Driver()
    try driver.fill(5, size: 1000)
    let frame = TestFrame.ethernet(TestFrame.pattern(2500))
    let header = FrameHeader(flags: .dataValid)
    driver.network.inject(frame, header)
    let used = try driver.takeUsed(0)
    #expect(used.map(\.written) == [1000, 1000, 12 + frame.count - 2000])
    let bytes = try used.flatMap { try driver.fake.board.memory.bytes(driver.buffer(0, $0.head), $0.written) }
    #expect(bytes == driver.header(header, buffers: 3) + frame)
  }

  @Test func aFrameWaitsForEnoughBuffers() throws {
    let driver = try Driver()
    try driver.fill(2, size: 1000)
    let frame = TestFrame.ethernet(TestFrame.pattern(2500))
    driver.network.inject(frame)
    let resumes = driver.network.resumes
    #expect(driver.network.waiting == 1)
    #expect(try driver.takeUsed(0).isEmpty)
    try driver.fill(1, size: 1000, from: 2)
    #expect(driver.network.resumes == resumes + 1)
    driver.network.deliver()
    #expect(driver.network.waiting == 0)
    #expect(try driver.received() == driver.header(buffers: 3) + frame)
  }

  @Test func withoutMergingAFrameTakesOneChain() throws {
    let driver = try Driver([.version1])
    let base = driver.buffer(0, 0)
    try driver.describe(0, 0, [(base, 12, true), (base + 12, 100, true), (base + 112, 1500, true)])
    try driver.offer(0, 0)
    let frame = TestFrame.ethernet(TestFrame.pattern(1000))
    // Too long for the buffer: lost. The next one has it.
    driver.network.inject(TestFrame.ethernet(TestFrame.pattern(3000)))
    driver.network.inject(frame)
    #expect(try driver.takeUsed(0).map(\.written) == [12 + frame.count])
    #expect(try driver.fake.board.memory.bytes(base, 12 + frame.count) == driver.header(buffers: 1) + frame)
  }

  @Test func aRefusedFrameIsSentOnceThereIsRoom() throws {
    let driver = try Driver()
    driver.network.setRoom(1)
    let frames = (0..<3).map { TestFrame.ethernet(to: TestFrame.source, TestFrame.pattern(100 + $0)) }
    for (index, frame) in frames.enumerated() { try driver.send(frame, at: index) }
    #expect(driver.network.takeSent().map(\.bytes) == [frames[0]])
    #expect(try driver.takeUsed(1).map(\.head) == [0])
    driver.network.setRoom(.max)
    #expect(driver.network.takeSent().map(\.bytes) == Array(frames[1...]))
    #expect(try driver.takeUsed(1).map(\.head) == [1, 2])
  }

  @Test func theFilterFollowsTheControlQueue() throws {
    let driver = try Driver(Self.controls)
    try driver.fill(16)
    func passes(_ destination: [UInt8]) throws -> Bool {
      driver.network.inject(TestFrame.ethernet(to: destination, TestFrame.pattern(100)))
      let used = try driver.takeUsed(0)
      for buffer in used { try driver.offer(0, buffer.head) }
      return !used.isEmpty
    }
    let other: [UInt8] = [0x52, 0x54, 0, 9, 9, 9]
    let group: [UInt8] = [1, 0, 0x5E, 0, 0, 1]
    let broadcast = [UInt8](repeating: 0xFF, count: 6)
    #expect(try passes(other))
    #expect(try driver.control(0, 0, [0]) == 0)
    #expect(try [E1000Card.address, other, group, broadcast].map(passes) == [true, false, false, true])
    #expect(try driver.control(1, 0, [1, 0, 0, 0] + other + [1, 0, 0, 0] + group) == 0)
    #expect(try [E1000Card.address, other, group, broadcast].map(passes) == [true, true, true, true])
    #expect(try driver.control(1, 0, [0, 0, 0, 0, 0, 0, 0, 0]) == 0)
    #expect(try driver.control(0, 1, [1]) == 0)
    #expect(try driver.control(0, 5, [1]) == 0)
    #expect(try [E1000Card.address, other, group, broadcast].map(passes) == [true, false, true, false])
    #expect(try driver.control(1, 1, other) == 0)
    #expect(try [E1000Card.address, other].map(passes) == [false, true])
    #expect(Array(driver.device.configuration[..<6]) == other)
  }

  @Test func vlansPassOnceTheDriverNamesThem() throws {
    let driver = try Driver(Self.controls)
    try driver.fill(4)
    let frame = TestFrame.tagged(TestFrame.ethernet(TestFrame.pattern(100)), 5)
    driver.network.inject(frame)
    #expect(try driver.takeUsed(0).isEmpty)
    #expect(try driver.control(2, 0, [5, 0]) == 0)
    driver.network.inject(frame)
    #expect(try driver.takeUsed(0).count == 1)
    #expect(try driver.control(2, 1, [5, 0]) == 0)
    driver.network.inject(frame)
    #expect(try driver.takeUsed(0).isEmpty)
    #expect(try driver.control(2, 0, [0, 0x10]) == 1)
  }

  @Test func queuePairsAreSwitchedOnAndTheControlQueueIsLast() throws {
    let features = Self.controls.union(Feature.multiqueue)
    let driver = try Driver(features, pairs: 2)
    let second = try #require(driver.network.queuePairs.last as? RecordingNetwork)
    #expect(driver.network.isActive && !second.isActive)
    #expect(try driver.control(4, 0, [2, 0], queue: 4) == 0)
    #expect(second.isActive)
    let frame = TestFrame.ethernet(TestFrame.pattern(100))
    try driver.send(frame, queue: 3)
    #expect(second.takeSent() == [.init(frame)])
    try driver.fill(1, queue: 2)
    second.inject(frame)
    #expect(try driver.received(2) == driver.header(buffers: 1) + frame)
    #expect(try driver.control(4, 0, [3, 0], queue: 4) == 1)
    driver.device.reset()
    #expect(!second.isActive)
  }

  @Test func theLinkIsInTheConfigurationSpace() throws {
    let driver = try Driver()
    #expect(driver.device.configuration[6] == 1)
    driver.network.setLink(false)
    #expect(driver.device.configuration[6] == 0)
  }

  @Test func framesAreLostBeforeTheDriverIsReadyAndAfterAReset() throws {
    let driver = try Driver()
    try driver.fill(4)
    driver.device.reset()
    driver.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    #expect(driver.network.waiting == 0)
    #expect(try driver.takeUsed(0).isEmpty)
  }

  // MARK: Hostile drivers

  @Test func aChainWithoutAHeaderNeedsAReset() throws {
    for queue in [0, 1] {
      let driver = try Driver()
      try driver.describe(queue, 0, [(driver.buffer(queue, 0), 11, queue == 0)])
      try driver.offer(queue, 0)
      driver.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
      #expect(driver.device.lastFault == .request)
      #expect(driver.device.status.contains(.needsReset))
      driver.device.reset()
      driver.start()
      try driver.fill(1)
      driver.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
      #expect(try driver.takeUsed(0).count == 1)
    }
  }

  @Test func aFrameThatNoBufferCanHoldIsLost() throws {
    let driver = try Driver()
    try driver.fill(16, size: 20)
    driver.network.inject(TestFrame.ethernet(TestFrame.pattern(1000)))
    #expect(driver.network.waiting == 0)
    driver.network.inject(TestFrame.ethernet(TestFrame.pattern(100)))
    #expect(try driver.takeUsed(0).count == 7)
  }

  @Test func tooLongAFrameIsLost() throws {
    let driver = try Driver()
    try driver.describe(1, 0, (0..<10).map { _ in (address: 0, count: 8192, isWritable: false) })
    try driver.offer(1, 0)
    #expect(driver.network.takeSent().isEmpty)
    #expect(try driver.takeUsed(1).count == 1)
  }

  @Test func commandsThatMakeNoSenseAreRefused() throws {
    let driver = try Driver(Self.controls)
    #expect(try driver.control(0, 0, []) == 1)
    #expect(try driver.control(0, 6, [1]) == 1)
    #expect(try driver.control(1, 0, [0xFF, 0xFF, 0xFF, 0xFF]) == 1)
    #expect(try driver.control(1, 0, [1, 0, 0, 0, 1, 2, 3]) == 1)
    #expect(try driver.control(1, 1, [1, 0, 0, 0, 0, 0]) == 1)
    #expect(try driver.control(3, 0, []) == 1)
    #expect(try driver.control(4, 0, [1, 0]) == 1)
    #expect(try driver.control(5, 0, [0, 0, 0, 0, 0, 0, 0, 0]) == 1)
    #expect(try driver.control(99, 0, [UInt8](repeating: 0xFF, count: 4000)) == 1)
    #expect(driver.device.lastFault == nil)
  }
}
