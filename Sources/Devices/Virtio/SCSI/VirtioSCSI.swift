import Backends
import DeviceKit
import MachineModel
import Synchronization

/// The SCSI host device (virtio 1.2 §5.6): one channel of targets with a logical unit each.
// Safety: units are plugged in while the board is built; the rest that changes belongs to the worker, but for `finished`.
public final class VirtioSCSI: VirtioDevice, @unchecked Sendable {
  private typealias Format = SCSIFormat
  private typealias Field = SCSIFormat.Field

  /// A task management function that waits for the tasks before it.
  private struct Function {
    let token: BufferToken
    let response: [UnsafeMutableRawBufferPointer]
    var tasks: Set<ObjectIdentifier>
  }

  private var units: [Int: SCSIUnit] = [:]
  /// Requests that are with a backend.
  private var tasks: [ObjectIdentifier: SCSIRequest] = [:]
  private var functions: [Function] = []
  /// Targets whose capacity has changed since the driver last heard.
  private var events: [Int] = []
  private let finished = Mutex<[SCSIRequest]>([])
  private var commandSize = SCSIFormat.defaultCommandSize
  private var senseSize = SCSIFormat.defaultSenseSize

  init(id: String, queues: Int, board: Board) throws(DeviceError) {
    let queueSize: UInt16 = 256
    var bytes = [UInt8](repeating: 0, count: Field.size)
    bytes.store(UInt64(queues), at: Field.queues, count: 4)
    // Of a chain of the queue's size the request and the response take two.
    bytes.store(UInt64(queueSize - 2), at: Field.segments, count: 4)
    bytes.store(UInt64(SCSIDisk.maximumBlocks), at: Field.maximumSectors, count: 4)
    bytes.store(128, at: Field.commandsPerLUN, count: 4)
    bytes.store(UInt64(Format.Event.size), at: Field.eventSize, count: 4)
    bytes.store(UInt64(Format.defaultSenseSize), at: Field.senseSize, count: 4)
    bytes.store(UInt64(Format.defaultCommandSize), at: Field.commandSize, count: 4)
    bytes.store(UInt64(Format.targets - 1), at: Field.maximumTarget, count: 2)
    bytes.store(0x3FFF, at: Field.maximumLUN, count: 4)
    try super.init(
      id: id, kind: VirtioKind(id: 8, transitionalID: 0x1004, pciClass: 0x010000), features: [Format.Feature.change],
      queues: Array(repeating: QueueSpec(size: queueSize), count: queues + Format.Queue.firstRequest),
      configuration: bytes, board: board)
  }

  /// Adds a drive; while the board is built. nil: the lowest free target.
  func plug(
    target: Int?, chip: SCSIUnit.Chip, backend: (any BlockBackend)?
  ) throws(DeviceError) {
    guard let place = target ?? (0..<Format.targets).first(where: { units[$0] == nil }), units[place] == nil else {
      throw DeviceError(
        target.map { "target \($0) of \(id) is taken; give another scsi-id=" } ?? "all targets of \(id) are taken")
    }
    let unit = SCSIUnit(target: place, chip: chip, backend: backend)
    units[place] = unit
    guard case .disk = chip else { return }
    backend?.onResize { [weak self] size in
      unit.newSize.store(max(size, 1), ordering: .sequentiallyConsistent)
      self?.wake()
    }
  }

  // MARK: Life

  /// The driver may choose how long commands and sense data are (§5.6.4).
  public override func isWritable(configuration offset: Int) -> Bool {
    Field.senseSize..<Field.maximumChannel ~= offset
  }

  public override func activate() {
    func number(_ offset: Int) -> Int {
      configuration[offset..<offset + 4].reversed().reduce(0) { $0 << 8 | Int($1) }
    }
    commandSize = min(number(Field.commandSize), 260)
    senseSize = min(number(Field.senseSize), 252)
  }

  public override func quiesce() { for unit in units.values { unit.backend?.drain() } }

  public override func released(_ queue: Int?) {
    let ended = takeFinished()
    guard let queue else {
      tasks = [:]
      functions = []
      events = []
      for unit in units.values { unit.reset() }
      changeConfiguration(notify: false) { bytes in
        bytes.store(UInt64(Format.defaultSenseSize), at: Field.senseSize, count: 4)
        bytes.store(UInt64(Format.defaultCommandSize), at: Field.commandSize, count: 4)
      }
      return
    }
    if queue == Format.Queue.control { functions = [] }
    let kept = ended.filter { $0.queue != queue }
    for (key, task) in tasks where task.queue == queue { forget(key) }
    finished.withLock { $0 = kept + $0 }
  }

  private func takeFinished() -> [SCSIRequest] {
    finished.withLock { finished in
      defer { finished = [] }
      return finished
    }
  }

  // MARK: Queues

  public override func wantsBuffers(_ queue: Int) -> Bool { queue != Format.Queue.event || !events.isEmpty }

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    var worked = false
    if queue == Format.Queue.event { return try announce() }
    while let chain = try queues[queue].take() {
      if queue == Format.Queue.control { try control(chain) } else { try begin(chain, queue) }
      worked = true
    }
    if worked, queue != Format.Queue.control { for unit in units.values { unit.backend?.kick() } }
    return worked
  }

  public override func service(group: Int) throws(VirtqueueFault) -> Bool {
    var worked = false
    for unit in units.values where unit.newSize.load(ordering: .relaxed) != 0 {
      let size = unit.newSize.exchange(0, ordering: .sequentiallyConsistent)
      guard case .disk(var disk) = unit.chip else { continue }
      disk.resize(blocks: size / UInt64(SCSIDisk.blockSize))
      unit.chip = .disk(disk)
      if accepted.contains(Format.Feature.change), !events.contains(unit.target) { events.append(unit.target) }
      worked = true
    }
    for request in takeFinished() {
      finish(request)
      worked = true
    }
    return worked
  }

  private func announce() throws(VirtqueueFault) -> Bool {
    var worked = false
    while let target = events.first, let chain = try queues[Format.Queue.event].take() {
      events.removeFirst()
      var bytes = [UInt8](repeating: 0, count: Format.Event.size)
      bytes.store(UInt64(Format.Event.parameterChange), at: 0, count: 4)
      bytes.replaceSubrange(4..<12, with: SCSIAddress(target: target).bytes)
      bytes.store(UInt64(Format.Event.capacityChanged), at: 12, count: 4)
      let written = bytes.withUnsafeBytes { chain.write($0) }
      queues[Format.Queue.event].put(chain.token, written: UInt32(truncatingIfNeeded: written))
      worked = true
    }
    return worked
  }

  /// Nothing is under way.
  public override var pollingTime: PollingTime { tasks.isEmpty ? .long : .short }

  // MARK: Requests

  private func begin(_ chain: DescriptorChain, _ queue: Int) throws(VirtqueueFault) {
    let headerSize = Format.requestHeader + commandSize
    let responseSize = Format.responseHeader + senseSize
    guard chain.readableCount >= headerSize, chain.writableCount >= responseSize else { throw .request }
    var header = [UInt8](repeating: 0, count: headerSize)
    _ = header.withUnsafeMutableBytes { chain.read(into: $0) }
    let writable = Array(chain.writable)
    guard let address = SCSIAddress(header[0..<8]), let unit = units[address.target] else {
      SCSIBuffers.store(response(.badTarget), at: 0, in: writable)
      return queues[queue].put(chain.token, written: UInt32(truncatingIfNeeded: responseSize))
    }
    let request = SCSIRequest(
      queue: queue, token: chain.token, unit: unit, identifier: header.littleEndianNumber(8), writable: writable,
      dataOut: chain.readableCount - headerSize, dataIn: chain.writableCount - responseSize)
    // A command that is shorter than any has zeros behind it.
    let command = Array(
      (header[Format.requestHeader...] + [UInt8](repeating: 0, count: 16)).prefix(max(commandSize, 16)))
    if address.unit != 0 || command[0] == TargetCommand.reportLUNs {
      return complete(request, TargetCommand.execute(command, unit: address.unit))
    }
    switch unit.chip {
    case .disk(var disk):
      let outcome = disk.execute(command) { count in
        var bytes = [UInt8](repeating: 0, count: min(count, request.dataOut))
        _ = bytes.withUnsafeMutableBytes { chain.read(at: headerSize, into: $0) }
        return bytes
      }
      unit.chip = .disk(disk)
      perform(outcome, request) { SCSIBuffers.runs(chain.readable, skipping: headerSize, count: $0) }
    case .cdrom(var cdrom):
      let outcome = cdrom.execute(Array(command[..<12]))
      unit.chip = .cdrom(cdrom)
      perform(outcome, request, blockSize: CDROM.blockSize)
    }
  }

  private func perform(
    _ outcome: DiskOutcome, _ request: SCSIRequest, dataOut: (Int) -> [UnsafeMutableRawBufferPointer]
  ) {
    func offset(_ block: UInt64) -> UInt64 { block &* UInt64(SCSIDisk.blockSize) }
    switch outcome {
    case .packet(let outcome): perform(outcome, request, blockSize: SCSIDisk.blockSize)
    case .write(let block, let count, let isDurable):
      let bytes = count * SCSIDisk.blockSize
      guard bytes <= request.dataOut else { return end(request, .overrun) }
      request.moved = bytes
      request.isWrite = true
      request.isDurable = isDurable
      submit(request, [BlockRequest(.write, offset: offset(block), buffers: dataOut(bytes), completion: back(request))])
    case .flush: submit(request, [BlockRequest(.flush, completion: back(request))])
    case .discard(let ranges):
      request.isWrite = true
      submit(
        request,
        ranges.map {
          BlockRequest(.discard, offset: offset($0.block), length: offset($0.count), completion: back(request))
        })
    case .zero(let range, let mayUnmap):
      request.isWrite = true
      submit(
        request,
        [
          BlockRequest(
            .writeZeroes(mayUnmap: mayUnmap), offset: offset(range.block), length: offset(range.count),
            completion: back(request))
        ])
    }
  }

  private func perform(_ outcome: PacketOutcome, _ request: SCSIRequest, blockSize: Int) {
    guard case .read(let block, let count) = outcome else { return complete(request, outcome) }
    let bytes = count.multipliedReportingOverflow(by: blockSize)
    guard !bytes.overflow, bytes.partialValue <= request.dataIn else { return end(request, .overrun) }
    request.moved = bytes.partialValue
    let runs = SCSIBuffers.runs(
      request.writable, skipping: Format.responseHeader + senseSize, count: bytes.partialValue)
    submit(
      request,
      [BlockRequest(.read, offset: block &* UInt64(blockSize), buffers: runs, completion: back(request))])
  }

  private func submit(_ request: SCSIRequest, _ parts: [BlockRequest]) {
    guard let backend = request.unit.backend else { return complete(request, .check(.noMedium)) }
    request.left.store(parts.count, ordering: .relaxed)
    tasks[ObjectIdentifier(request)] = request
    for part in parts { backend.enqueue(part) }
  }

  private func back(_ request: SCSIRequest) -> @Sendable (Result<Void, BlockError>) -> Void {
    { [unowned self] result in
      if case .failure(let error) = result { request.failure.withLock { $0 = error } }
      guard request.left.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
      finished.withLock { $0.append(request) }
      wake()
    }
  }

  private func finish(_ request: SCSIRequest) {
    guard tasks[ObjectIdentifier(request)] === request else { return }
    if let error = request.failure.withLock({ $0 }) {
      request.moved = 0
      complete(request, .check(sense(error, isWrite: request.isWrite)))
    } else if request.isDurable {
      request.isDurable = false
      submit(request, [BlockRequest(.flush, completion: back(request))])
      request.unit.backend?.kick()
    } else {
      end(request, .ok)
    }
  }

  private func sense(_ error: BlockError, isWrite: Bool) -> Sense {
    switch error {
    case .outOfRange: .addressOutOfRange
    case .readOnly: .writeProtected
    case .noSpace: .spaceAllocationFailed
    case .unsupported: .invalidField
    case .host: isWrite ? .writeError : .readError
    }
  }

  // MARK: Responses

  /// Ends a request that moves no blocks.
  private func complete(_ request: SCSIRequest, _ outcome: PacketOutcome) {
    switch outcome {
    case .check(let sense): end(request, .ok, status: Format.Status.checkCondition, sense: sense)
    case .data(let bytes):
      let cut = Array(bytes.prefix(request.dataIn))
      SCSIBuffers.store(cut, at: Format.responseHeader + senseSize, in: request.writable)
      request.moved = cut.count
      end(request, cut.count < bytes.count ? .overrun : .ok)
    case .done, .read: end(request, .ok)
    }
  }

  private func end(
    _ request: SCSIRequest, _ response: SCSIFormat.Response, status: UInt8 = SCSIFormat.Status.good,
    sense: Sense? = nil
  ) {
    // §5.6.6.1: what the driver sent or had room for, and was not moved.
    let residual = max(request.dataIn, request.dataOut) - request.moved
    let bytes = self.response(response, status: status, sense: sense, residual: residual)
    SCSIBuffers.store(bytes, at: 0, in: request.writable)
    let data = request.isWrite ? 0 : request.moved
    queues[request.queue].put(request.token, written: UInt32(truncatingIfNeeded: bytes.count + data))
    forget(ObjectIdentifier(request))
  }

  /// The response without data.
  private func response(
    _ response: SCSIFormat.Response, status: UInt8 = SCSIFormat.Status.good, sense: Sense? = nil, residual: Int = 0
  ) -> [UInt8] {
    let fixed = (sense?.fixed ?? []).prefix(senseSize)
    var bytes = [UInt8](repeating: 0, count: Format.responseHeader + senseSize)
    bytes.store(UInt64(fixed.count), at: 0, count: 4)
    bytes.store(UInt64(clamping: residual), at: 4, count: 4)
    bytes[10] = status
    bytes[11] = response.rawValue
    bytes.replaceSubrange(Format.responseHeader..<Format.responseHeader + fixed.count, with: fixed)
    return bytes
  }

  /// The task has ended; functions that waited for it alone are answered.
  private func forget(_ key: ObjectIdentifier) {
    guard tasks.removeValue(forKey: key) != nil, !functions.isEmpty else { return }
    for index in functions.indices.reversed() {
      functions[index].tasks.remove(key)
      guard functions[index].tasks.isEmpty else { continue }
      let function = functions.remove(at: index)
      answer(function.token, function.response, .ok)
    }
  }

  // MARK: Control (§5.6.6.2)

  private func control(_ chain: DescriptorChain) throws(VirtqueueFault) {
    var bytes = [UInt8](repeating: 0, count: Format.Control.taskManagementSize)
    let count = bytes.withUnsafeMutableBytes { chain.read(into: $0) }
    guard count >= 4 else { throw .request }
    switch UInt32(truncatingIfNeeded: bytes.littleEndianNumber(0)) {
    case Format.Control.taskManagement:
      guard count == Format.Control.taskManagementSize, chain.writableCount >= 1 else { throw .request }
      manage(bytes, chain)
    case Format.Control.asynchronousQuery, Format.Control.asynchronousSubscribe:
      // No events of these kinds are reported.
      guard count >= Format.Control.asynchronousSize, chain.writableCount >= 5 else { throw .request }
      SCSIBuffers.store([0, 0, 0, 0, Format.Response.ok.rawValue], at: 0, in: Array(chain.writable))
      queues[Format.Queue.control].put(chain.token, written: 5)
    default: throw .request
    }
  }

  private func manage(_ bytes: [UInt8], _ chain: DescriptorChain) {
    typealias Kind = SCSIFormat.TaskManagement
    let response = Array(chain.writable)
    guard let address = SCSIAddress(bytes[8..<16]), let unit = units[address.target] else {
      return answer(chain.token, response, .badTarget)
    }
    let kind = UInt32(truncatingIfNeeded: bytes.littleEndianNumber(0) >> 32)
    guard address.unit == 0 || kind == Kind.nexusReset else { return answer(chain.token, response, .incorrectLUN) }
    let identifier = bytes.littleEndianNumber(16)
    var affected = tasks.filter { $0.value.unit === unit }
    switch kind {
    case Kind.abortTask: affected = affected.filter { $0.value.identifier == identifier }
    case Kind.abortTaskSet, Kind.clearTaskSet: break
    case Kind.unitReset, Kind.nexusReset: unit.reset()
    // A task that is there is at work: "succeeded" would say so, but it may end before the driver hears of it.
    case Kind.queryTask, Kind.queryTaskSet, Kind.clearACA: affected = [:]
    default: return answer(chain.token, response, .functionRejected)
    }
    // What is with the host cannot be called back: the function is complete when it has ended.
    guard !affected.isEmpty else { return answer(chain.token, response, .ok) }
    functions.append(Function(token: chain.token, response: response, tasks: Set(affected.keys)))
  }

  private func answer(
    _ token: BufferToken, _ target: [UnsafeMutableRawBufferPointer], _ response: SCSIFormat.Response
  ) {
    SCSIBuffers.store([response.rawValue], at: 0, in: target)
    queues[Format.Queue.control].put(token, written: 1)
  }
}

extension [UInt8] {
  /// A little-endian number of 8 bytes, fewer at the end.
  func littleEndianNumber(_ start: Int) -> UInt64 {
    self[start..<Swift.min(start + 8, count)].reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }
}
