import Backends
import DeviceKit
import MachineModel
import Synchronization

/// The block device (virtio 1.2 §5.2).
// Safety: what changes is touched by the worker alone, under its group's lock, but for `completions` and `isWriteThrough`.
public final class VirtioBlock: VirtioDevice, @unchecked Sendable {
  private typealias Format = BlockFormat

  private let backend: any BlockBackend
  private let serial: [UInt8]
  private let completions = BlockCompletions()
  /// Every request there is, so that they live as long as the device; those not in use are in `free`.
  private var requests: [VirtioBlockRequest] = []
  private var free: [VirtioBlockRequest] = []
  /// A write is durable when the driver hears of it (§5.2.6.2).
  private let isWriteThrough = Atomic<Bool>(true)

  struct Options {
    var queues = 1
    var queueSize: UInt16 = 256
    /// Bytes; a power of two from 512 on.
    var blockSize: UInt32 = 512
    /// At most 20 bytes.
    var serial: [UInt8] = []
  }

  init(id: String, _ backend: any BlockBackend, _ options: Options, board: Board) throws(DeviceError) {
    self.backend = backend
    serial = Array(options.serial.prefix(Format.serialSize))
    var features: VirtioFeatures = [
      Format.Feature.segmentMaximum, Format.Feature.blockSize, Format.Feature.flush, Format.Feature.topology,
      Format.Feature.configurableCache, Format.Feature.multiqueue,
    ]
    if backend.isReadOnly { features.insert(Format.Feature.readOnly) }
    if !backend.isReadOnly, backend.features.contains(.discard) { features.insert(Format.Feature.discard) }
    if !backend.isReadOnly, backend.features.contains(.writeZeroes) { features.insert(Format.Feature.writeZeroes) }
    try super.init(
      id: id, kind: VirtioKind(id: 2, transitionalID: 0x1001, pciClass: 0x010000), features: features,
      queues: Array(repeating: QueueSpec(size: options.queueSize), count: options.queues),
      configuration: Self.configuration(backend, options), board: board)
    backend.onResize { [weak self] size in
      self?.changeConfiguration { $0.store(size / UInt64(Format.sector), at: Format.Configuration.capacity, count: 8) }
    }
  }

  private static func configuration(_ backend: any BlockBackend, _ options: Options) -> [UInt8] {
    typealias Field = BlockFormat.Configuration
    var bytes = [UInt8](repeating: 0, count: Field.size)
    let limits = backend.limits
    let block = Int(options.blockSize)
    bytes.store(backend.size / UInt64(Format.sector), at: Field.capacity, count: 8)
    // Of a chain of the queue's size the header and the status take two.
    bytes.store(UInt64(options.queueSize - 2), at: Field.segmentMaximum, count: 4)
    bytes.store(UInt64(options.blockSize), at: Field.blockSize, count: 4)
    let physical = max(limits.physicalBlock, block) / block
    bytes[Field.physicalBlockExponent] = UInt8(truncatingIfNeeded: physical.trailingZeroBitCount)
    bytes.store(UInt64(physical), at: Field.minimumTransfer, count: 2)
    bytes.store(UInt64(limits.optimalTransfer / block), at: Field.optimalTransfer, count: 4)
    bytes[Field.writeback] = 1
    bytes.store(UInt64(options.queues), at: Field.queueCount, count: 2)
    bytes.store(UInt64(Format.maximumRangeSectors), at: Field.maximumDiscardSectors, count: 4)
    bytes.store(UInt64(Format.maximumRanges), at: Field.maximumDiscardRanges, count: 4)
    let discardBlock = max(limits.discardBlock, block) / Format.sector
    bytes.store(UInt64(discardBlock), at: Field.discardAlignment, count: 4)
    bytes.store(UInt64(Format.maximumRangeSectors), at: Field.maximumZeroesSectors, count: 4)
    bytes.store(UInt64(Format.maximumRanges), at: Field.maximumZeroesRanges, count: 4)
    bytes[Field.zeroesMayUnmap] = backend.features.contains(.unmap) ? 1 : 0
    return bytes
  }

  // MARK: Life

  public override func activate() { followCache() }

  /// The driver may turn the write cache off (§5.2.5.1).
  public override func isWritable(configuration offset: Int) -> Bool {
    offset == Format.Configuration.writeback
  }

  public override func configurationWritten(_ range: Range<Int>) { followCache() }

  private func followCache() {
    let isOff =
      accepted.contains(Format.Feature.configurableCache) && configuration[Format.Configuration.writeback] == 0
    isWriteThrough.store(!accepted.contains(Format.Feature.flush) || isOff, ordering: .relaxed)
  }

  public override func quiesce() { backend.drain() }

  public override func released(_ queue: Int?) {
    var next = completions.takeAll()
    while let current = next {
      let request = current.takeUnretainedValue()
      next = request.next
      if let queue, request.queue != queue { completions.push(request) } else { recycle(request) }
    }
  }

  // MARK: Requests

  /// Requests submitted at a time, so that the driver gets the first of many back while the others are read.
  private static let burst = 8

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    var count = 0
    while count < Self.burst, let chain = try queues[queue].take() {
      try begin(chain, queue)
      count += 1
    }
    if count > 0 { backend.kick() }
    return count > 0
  }

  private func begin(_ chain: DescriptorChain, _ queue: Int) throws(VirtqueueFault) {
    // The status is the last byte that the device may write, wherever the driver put it (§5.2.6).
    guard chain.readableCount >= Format.headerSize, let last = chain.writable.last,
      let end = last.baseAddress.map({ $0 + (last.count - 1) })
    else { throw .request }
    var header: (UInt64, UInt64) = (0, 0)
    _ = withUnsafeMutableBytes(of: &header) { chain.read(into: $0) }
    let request = free.popLast() ?? make()
    request.queue = queue
    request.token = chain.token
    request.step = .data
    request.status = end.assumingMemoryBound(to: UInt8.self)
    request.dataIn = chain.writableCount - 1
    request.isWrite = false
    let offset = header.1.multipliedReportingOverflow(by: UInt64(Format.sector))
    switch UInt32(truncatingIfNeeded: header.0) & ~Format.RequestType.barrier {
    case Format.RequestType.read:
      gather(chain.writable, skipping: 0, count: request.dataIn, request)
      transfer(request, .read, request.dataIn, offset)
    case Format.RequestType.write:
      let count = chain.readableCount - Format.headerSize
      request.isWrite = true
      gather(chain.readable, skipping: Format.headerSize, count: count, request)
      transfer(request, .write, count, offset)
    case Format.RequestType.flush: submit(request, BlockRequest(.flush, completion: request.completion))
    case Format.RequestType.getID: answerID(chain, request)
    case Format.RequestType.discard where accepted.contains(Format.Feature.discard):
      ranges(chain, request, isDiscard: true)
    case Format.RequestType.writeZeroes where accepted.contains(Format.Feature.writeZeroes):
      ranges(chain, request, isDiscard: false)
    default: finish(request, .unsupported, written: 0)
    }
  }

  private func transfer(
    _ request: VirtioBlockRequest, _ operation: BlockRequest.Operation, _ count: Int,
    _ offset: (partialValue: UInt64, overflow: Bool)
  ) {
    // §5.2.6.1: whole sectors. Where they lie is the backend's to judge.
    guard !offset.overflow, count % Format.sector == 0, operation == .read || !backend.isReadOnly else {
      return finish(request, .error, written: 0)
    }
    guard count > 0 else { return finish(request, .ok, written: 0) }
    submit(
      request,
      BlockRequest(operation, offset: offset.partialValue, buffers: request.runs, completion: request.completion))
  }

  /// Collects the runs of guest memory from byte `skipping` on.
  private func gather(
    _ source: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>, skipping: Int, count: Int,
    _ request: VirtioBlockRequest
  ) {
    request.runs.removeAll(keepingCapacity: true)
    var skip = skipping
    var left = count
    for run in source where left > 0 {
      if skip >= run.count {
        skip -= run.count
        continue
      }
      let part = min(run.count - skip, left)
      request.runs.append(UnsafeMutableRawBufferPointer(rebasing: run[skip..<skip + part]))
      left -= part
      skip = 0
    }
  }

  /// The serial number, padded with zeros (§5.2.6.1).
  private func answerID(_ chain: DescriptorChain, _ request: VirtioBlockRequest) {
    let count = min(request.dataIn, Format.serialSize)
    let bytes = serial + [UInt8](repeating: 0, count: Format.serialSize - serial.count)
    bytes[..<count].withUnsafeBytes { _ = chain.write($0) }
    finish(request, .ok, written: count)
  }

  /// Discards or zeroes the ranges of the request's data.
  private func ranges(_ chain: DescriptorChain, _ request: VirtioBlockRequest, isDiscard: Bool) {
    let count = chain.readableCount - Format.headerSize
    guard count % Format.rangeSize == 0, 1...Format.maximumRanges ~= count / Format.rangeSize, !backend.isReadOnly
    else { return finish(request, .error, written: 0) }
    var bytes = [UInt64](repeating: 0, count: count / 8)
    _ = bytes.withUnsafeMutableBytes { chain.read(at: Format.headerSize, into: $0) }
    let size = backend.size
    var operations: [(BlockRequest.Operation, UInt64, UInt64)] = []
    for index in stride(from: 0, to: bytes.count, by: 2) {
      let sectors = UInt64(UInt32(truncatingIfNeeded: bytes[index + 1]))
      let flags = UInt32(truncatingIfNeeded: bytes[index + 1] >> 32)
      // §5.2.6.2: bit 0 is unmap, which only write zeroes takes; others are reserved.
      guard flags & ~(isDiscard ? 0 : 1) == 0 else { return finish(request, .unsupported, written: 0) }
      let offset = bytes[index].multipliedReportingOverflow(by: UInt64(Format.sector))
      let length = sectors * UInt64(Format.sector)
      guard !offset.overflow, sectors <= UInt64(Format.maximumRangeSectors), offset.partialValue <= size,
        length <= size - offset.partialValue
      else { return finish(request, .error, written: 0) }
      operations.append((isDiscard ? .discard : .writeZeroes(mayUnmap: flags & 1 != 0), offset.partialValue, length))
    }
    request.isWrite = true
    request.left.store(operations.count, ordering: .relaxed)
    request.hasFailed.store(0, ordering: .relaxed)
    for (operation, offset, length) in operations {
      backend.enqueue(BlockRequest(operation, offset: offset, length: length, completion: request.completion))
    }
  }

  private func submit(_ request: VirtioBlockRequest, _ block: BlockRequest) {
    request.left.store(1, ordering: .relaxed)
    request.hasFailed.store(0, ordering: .relaxed)
    backend.enqueue(block)
  }

  /// Nothing is under way.
  public override var pollingTime: PollingTime { free.count == requests.count ? .long : .short }

  // MARK: Completions

  public override func service(group: Int) throws(VirtqueueFault) -> Bool {
    guard var next = completions.takeAll() else { return false }
    var needsKick = false
    while true {
      let request = next.takeUnretainedValue()
      let following = request.next
      let failure = request.hasFailed.load(ordering: .relaxed)
      if failure != 0 {
        finish(request, failure == 2 ? .unsupported : .error, written: 0)
      } else if request.isWrite, request.step == .data, isWriteThrough.load(ordering: .relaxed) {
        request.step = .flushAfterWrite
        submit(request, BlockRequest(.flush, completion: request.completion))
        needsKick = true
      } else {
        finish(request, .ok, written: request.isWrite ? 0 : request.dataIn)
      }
      guard let following else { break }
      next = following
    }
    if needsKick { backend.kick() }
    return true
  }

  /// Tells the driver. `written` bytes of data were put before the status.
  private func finish(_ request: VirtioBlockRequest, _ status: BlockFormat.Status, written: Int) {
    request.status?.pointee = status.rawValue
    // Only what was written from the start counts (§2.7.8.2); the status stands behind all of the data.
    let count = written == request.dataIn ? written + 1 : written
    queues[request.queue].put(request.token, written: UInt32(truncatingIfNeeded: count))
    recycle(request)
  }

  private func make() -> VirtioBlockRequest {
    let request = VirtioBlockRequest()
    request.completion = { [unowned self, unowned request] result in
      if case .failure(let error) = result {
        request.hasFailed.store(error == .unsupported ? 2 : 1, ordering: .relaxed)
      }
      guard request.left.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
      completions.push(request)
      wake()
    }
    requests.append(request)
    return request
  }

  private func recycle(_ request: VirtioBlockRequest) {
    request.status = nil
    request.runs.removeAll(keepingCapacity: true)
    free.append(request)
  }
}

extension VirtioBlock {
  public static let model = VirtioModel(
    name: "virtio-blk", summary: "virtio disk with several queues, discard and write zeroes",
    options: [
      OptionSpec("drive", .block, "the disk image that holds its sectors"),
      OptionSpec("serial", .string(maximumLength: BlockFormat.serialSize), "serial number"),
      OptionSpec("queues", .integer(1...64), default: .integer(1), "request queues; one for each CPU is best"),
      OptionSpec(
        "queue-size", .integer(4...1024), default: .integer(256), "descriptors of each queue, a power of two"),
      OptionSpec(
        "block-size", .integer(512...4096), default: .integer(512), "logical block size in bytes, a power of two"),
    ],
    pciOptions: [OptionSpec("bootindex", .integer(0...255), "place in the boot order, lowest first")]
      + VirtioPCIDevice.options
  ) { (id, properties, board) throws(DeviceError) in
    guard let name = properties.string("drive"), let backend = board.resources.block(name) else {
      throw DeviceError("\(id): virtio-blk needs drive=NAME of a disk, such as drive=disk0")
    }
    var options = Options()
    options.queues = Int(clamping: properties.integer("queues") ?? 1)
    options.queueSize = UInt16(clamping: properties.integer("queue-size") ?? 256)
    options.blockSize = UInt32(clamping: properties.integer("block-size") ?? 512)
    options.serial = Array((properties.string("serial") ?? "").utf8)
    guard options.queueSize.nonzeroBitCount == 1, options.blockSize.nonzeroBitCount == 1 else {
      throw DeviceError("\(id): queue-size and block-size are powers of two")
    }
    return try VirtioBlock(id: id, backend, options, board: board)
  }
}
