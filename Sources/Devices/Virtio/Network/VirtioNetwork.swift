import Backends
import DeviceKit
import MachineModel
import Synchronization

/// The network device (virtio 1.2 §5.1): pairs of queues, each with its own threads, and the control queue behind them.
// Safety: `filter` is guarded by its lock; `settings` changes only while no group runs; the pairs guard themselves.
final class VirtioNetwork: VirtioDevice, @unchecked Sendable {
  typealias Feature = NetworkFormat.Feature
  private typealias Field = NetworkFormat.Configuration

  /// What was agreed on with the driver.
  struct Settings: Sendable {
    var headerSize = NetworkFormat.Header.legacySize
    var isMergeable = false
    /// What the driver may leave to the backend.
    var transmitOffloads: NetworkOffloads = []
  }

  struct Options {
    var address: EthernetAddress
    var queueSize: UInt16 = 256
    /// 0: none is told.
    var mtu: UInt16 = 0
  }

  /// Most bytes of a control command that are looked at: two full MAC tables and then some.
  private static let commandLimit = 8192

  private(set) var settings = Settings()
  private var pairs: [NetworkQueuePair] = []
  private let filter: Mutex<NetworkFilter>
  /// The driver takes VIRTIO_NET_F_GUEST_CSUM at present.
  private let takesChecksums = Atomic<Bool>(false)
  private let address: EthernetAddress
  private let backend: any NetworkBackend

  init(id: String, _ backend: any NetworkBackend, _ options: Options, board: Board) throws(DeviceError) {
    self.backend = backend
    address = options.address
    filter = Mutex(NetworkFilter(options.address))
    let backends = backend.queuePairs
    var features: VirtioFeatures = [
      Feature.mac, Feature.status, Feature.mergeableBuffers, Feature.controlQueue, Feature.controlReceive,
      Feature.controlReceiveExtra, Feature.controlVLAN, Feature.controlMAC, Feature.guestOffloads,
      // What a frame from the host leaves undone the backend finishes where the driver does not take it so.
      Feature.guestChecksum, Feature.guestTSO4, Feature.guestTSO6, Feature.guestECN,
    ]
    features.formUnion(NetworkFormat.hostFeatures(backend.offloads))
    if backends.count > 1 { features.insert(Feature.multiqueue) }
    if options.mtu > 0 { features.insert(Feature.mtu) }
    var configuration = [UInt8](repeating: 0, count: Field.size)
    configuration.store(options.address.bits, at: Field.mac.lowerBound, count: 6)
    configuration.store(backend.isLinkUp ? Field.linkUp : 0, at: Field.status, count: 2)
    configuration.store(UInt64(backends.count), at: Field.queuePairs, count: 2)
    configuration.store(UInt64(options.mtu), at: Field.mtu, count: 2)
    // The control queue comes last, and is served with the first receive queue.
    var specs = (0..<backends.count * 2).map { QueueSpec(size: options.queueSize, group: $0) }
    specs.append(QueueSpec(size: 64, group: 0))
    try super.init(
      id: id, kind: VirtioKind(id: 1, transitionalID: 0x1000, pciClass: 0x020000), features: features, queues: specs,
      configuration: configuration, board: board)
    pairs = backends.enumerated().map { NetworkQueuePair($0.offset, $0.element, self) }
  }

  // MARK: Life

  override func start() { for pair in pairs { pair.backend.start(pair) } }

  override func activate() {
    var settings = Settings()
    settings.isMergeable = accepted.contains(Feature.mergeableBuffers)
    // §5.1.6.1: legacy drivers have the number of buffers only where it can be more than one.
    let isLong = settings.isMergeable || accepted.contains(.version1)
    settings.headerSize = isLong ? NetworkFormat.Header.size : NetworkFormat.Header.legacySize
    settings.transmitOffloads = NetworkFormat.offloads(
      accepted, checksum: Feature.checksum, tso4: Feature.hostTSO4, tso6: Feature.hostTSO6, ecn: Feature.hostECN)
    self.settings = settings
    let hasVLANs = accepted.contains(Feature.controlVLAN)
    filter.withLock { filter in
      filter = NetworkFilter(filter.address)
      if hasVLANs { filter.filterVLANs() }
    }
    setReceiveOffloads(accepted)
    setPairs(1)
    for pair in pairs { pair.backend.resume() }
  }

  override func released(_ queue: Int?) {
    for pair in pairs {
      if queue == nil || queue == pair.receiveQueue { pair.forgetReceived() }
      if queue == nil || queue == pair.transmitQueue { pair.forgetTransmitted() }
    }
    guard queue == nil else { return }
    filter.withLock { $0 = NetworkFilter(address) }
    setPairs(1)
  }

  private func setPairs(_ count: Int) { for pair in pairs { pair.backend.setActive(pair.index < count) } }

  private func setReceiveOffloads(_ features: VirtioFeatures) {
    let offloads = NetworkFormat.offloads(
      features, checksum: Feature.guestChecksum, tso4: Feature.guestTSO4, tso6: Feature.guestTSO6,
      ecn: Feature.guestECN)
    takesChecksums.store(offloads.contains(.checksum), ordering: .relaxed)
    for pair in pairs { pair.backend.setReceiveOffloads(offloads) }
  }

  /// Drivers from before virtio 1.0 set their address here (§5.1.4.2).
  override func isWritable(configuration offset: Int) -> Bool {
    Field.mac.contains(offset) && !accepted.contains(.version1)
  }

  override func configurationWritten(_ range: Range<Int>) {
    let bytes = configuration
    let address = bytes.withUnsafeBytes { EthernetAddress($0, at: Field.mac.lowerBound) }
    filter.withLock { $0.address = address }
  }

  func linkChanged() {
    let status = backend.isLinkUp ? Field.linkUp : 0
    changeConfiguration { $0.store(status, at: Field.status, count: 2) }
  }

  // MARK: Queues

  /// Whether the driver may be told that a checksum is right.
  var mayValidate: Bool { takesChecksums.load(ordering: .relaxed) }

  func accepts(_ frame: UnsafeRawBufferPointer) -> Bool { filter.withLock { $0.accepts(frame) } }

  /// Behind the queues that the driver uses: all pairs with VIRTIO_NET_F_MQ, or else the first (§5.1.2).
  private var controlQueue: Int { accepted.contains(Feature.multiqueue) ? pairs.count * 2 : 2 }

  /// The pair that a queue belongs to; nil for what lies behind the pairs.
  private func pair(of queue: Int) -> NetworkQueuePair? { queue / 2 < pairs.count ? pairs[queue / 2] : nil }

  override func wantsBuffers(_ queue: Int) -> Bool {
    if queue == controlQueue { return accepted.contains(Feature.controlQueue) }
    return pair(of: queue)?.wants(queue) ?? false
  }

  override func service(group: Int) throws(VirtqueueFault) -> Bool {
    guard let pair = pair(of: group), group == pair.transmitGroup else { return false }
    return pair.retry()
  }

  override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    if queue == controlQueue { return try control(queue) }
    guard let pair = pair(of: queue) else { return false }
    return queue == pair.receiveQueue ? pair.feed() : try pair.transmit()
  }

  // MARK: Control

  private func control(_ queue: Int) throws(VirtqueueFault) -> Bool {
    var worked = false
    for _ in 0..<Int(specs[queue].size) {
      guard let chain = try queues[queue].take() else { return worked }
      worked = true
      guard chain.readableCount >= 2, chain.writableCount >= 1 else { throw .request }
      let count = min(chain.readableCount, Self.commandLimit)
      var answer = NetworkFormat.Control.error
      withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
        chain.read(into: bytes)
        let data = UnsafeRawBufferPointer(rebasing: bytes[2..<count])
        if perform(bytes[0], bytes[1], data) { answer = NetworkFormat.Control.ok }
      }
      withUnsafeBytes(of: answer) { _ = chain.write($0) }
      queues[queue].put(chain.token, written: 1)
    }
    return worked
  }

  /// Carries a command out. False: it is unknown, was not agreed on, or its data is wrong.
  private func perform(_ kind: UInt8, _ command: UInt8, _ data: UnsafeRawBufferPointer) -> Bool {
    typealias Control = NetworkFormat.Control
    switch kind {
    case Control.receive where accepted.contains(Feature.controlReceive):
      guard let value = data.first, command < 2 || accepted.contains(Feature.controlReceiveExtra) else { return false }
      return filter.withLock { $0.setMode(command, value != 0) }
    case Control.mac where command == 0 && accepted.contains(Feature.controlReceive):
      return filter.withLock { $0.setTables(data) }
    case Control.mac where command == 1 && accepted.contains(Feature.controlMAC):
      guard data.count >= 6 else { return false }
      return setAddress(EthernetAddress(data))
    case Control.vlan where command < 2 && accepted.contains(Feature.controlVLAN):
      guard data.count >= 2 else { return false }
      let identifier = UInt16(littleEndian: data.loadUnaligned(as: UInt16.self))
      return filter.withLock { $0.setVLAN(identifier, command == 0) }
    case Control.multiqueue where command == 0 && accepted.contains(Feature.multiqueue):
      guard data.count >= 2 else { return false }
      let count = Int(UInt16(littleEndian: data.loadUnaligned(as: UInt16.self)))
      guard 1...pairs.count ~= count else { return false }
      setPairs(count)
      return true
    case Control.offloads where command == 0 && accepted.contains(Feature.guestOffloads):
      guard data.count >= 8 else { return false }
      return setGuestOffloads(VirtioFeatures(rawValue: UInt64(littleEndian: data.loadUnaligned(as: UInt64.self))))
    default: return false
    }
  }

  private func setAddress(_ address: EthernetAddress) -> Bool {
    guard !address.isGroup else { return false }
    filter.withLock { $0.address = address }
    changeConfiguration(notify: false) { $0.store(address.bits, at: Field.mac.lowerBound, count: 6) }
    return true
  }

  /// §5.1.6.5.6: only what was agreed on before, in the numbers of the feature bits.
  private func setGuestOffloads(_ wanted: VirtioFeatures) -> Bool {
    let known: VirtioFeatures = [Feature.guestChecksum, Feature.guestTSO4, Feature.guestTSO6, Feature.guestECN]
    guard wanted.isSubset(of: accepted.intersection(known)) else { return false }
    setReceiveOffloads(wanted)
    return true
  }
}

extension VirtioNetwork {
  static let model = VirtioModel(
    name: "virtio-net", summary: "virtio network card with offloads and several queues",
    options: [
      OptionSpec("netdev", .network, "the network behind the card; none: the cable is out"),
      OptionSpec("mac", .macAddress, "the card's address; the default is that of the network"),
      OptionSpec(
        "queue-size", .integer(16...1024), default: .integer(256), "descriptors of each queue, a power of two"),
      OptionSpec("mtu", .integer(68...65535), "the largest packet that the guest is told to send"),
    ]
  ) { (id, properties, board) throws(DeviceError) in
    var options = Options(address: properties.cardAddress)
    options.queueSize = UInt16(clamping: properties.integer("queue-size") ?? 256)
    options.mtu = UInt16(clamping: properties.integer("mtu") ?? 0)
    guard options.queueSize.nonzeroBitCount == 1 else {
      throw DeviceError("\(id): queue-size is a power of two, such as 256")
    }
    let backend = try board.network("netdev", properties) ?? DisconnectedNetwork()
    return try VirtioNetwork(id: id, backend, options, board: board)
  }
}
