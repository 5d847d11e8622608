import Backends
import Buses
import DeviceKit
import GuestMemory
import Synchronization

/// One channel of the controller on the board: its ports, its interrupt, its drives' media and its way to memory.
///
/// `submit` is never called with the lock held, so a backend may complete at once. The interrupt line is driven under
/// the lock, so its edges have the order of their causes.
// Safety: everything that changes is in `state`; `bounce` belongs to the one request that is under way.
public final class IDEChannel: BusTarget, @unchecked Sendable {
  /// Regions of the port claims.
  enum Region {
    static let command = 0
    static let control = 1
  }

  struct State: Sendable {
    var cable = IDECable()
    var busMaster = BusMasterIDE()
    var backends: [(any BlockBackend)?] = [nil, nil]
    /// The function may reach memory (PCI command register, bit 2).
    var mayMaster = false
    /// What the table gave to the DMA command under way.
    var dma: DMAMemory?
    var lineLevel = false
    var isDraining = false
  }

  /// Host memory behind a DMA command's data.
  // Safety: runs of guest RAM, which is mapped as long as the machine lives.
  struct DMAMemory: @unchecked Sendable {
    let runs: [UnsafeMutableRawBufferPointer]
    /// Bytes in all of them.
    let count: Int
  }

  /// A request that is ready for its backend.
  struct Work: Sendable {
    let unit: Int
    let generation: UInt64
    let backend: any BlockBackend
    let operation: BlockRequest.Operation
    let offset: UInt64
    // Safety: guest RAM, or the bounce buffer, both of which outlive the request.
    nonisolated(unsafe) let buffers: [UnsafeMutableRawBufferPointer]
    /// The drive's buffer takes what is read.
    var target: Range<Int>?
    var isDMA = false
    /// The table has no memory for the data after this.
    var endsShort = false
  }

  /// Primary (0) or secondary (1).
  let number: Int
  private let memory: GuestMemory
  private let line: InterruptLine
  private let state = Mutex(State())
  private nonisolated(unsafe) let bounce: UnsafeMutableRawBufferPointer

  init(number: Int, memory: GuestMemory, line: InterruptLine) {
    self.number = number
    self.memory = memory
    self.line = line
    bounce = .allocate(byteCount: ATAInterface.bufferSize, alignment: 4096)
    bounce.initializeMemory(as: UInt8.self, repeating: 0)
    super.init()
  }

  deinit { bounce.deallocate() }

  /// Plugs a drive in; false where the unit is taken.
  func attach(_ commands: IDEDrive.CommandSet, unit: Int, backend: (any BlockBackend)?) -> Bool {
    state.withLock { state in
      guard state.cable.attach(commands, unit: unit) else { return false }
      state.backends[unit] = backend
      return true
    }
  }

  // MARK: Ports

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if region == Region.control { return UInt64(access { $0.cable.alternateStatus }) | ~0xFF }
    if offset == 0 {
      var value: UInt64 = 0
      withUnsafeMutableBytes(of: &value) { bytes in
        access { $0.cable.readData(into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<max(width.bytes, 2)])) }
      }
      return value
    }
    return access { state in
      var value = UInt64.max
      for index in 0..<width.bytes {
        guard let register = Self.register(offset, index) else { continue }
        let shift = UInt64(index * 8)
        value = value & ~(0xFF << shift) | UInt64(state.cable.read(register)) << shift
      }
      return value
    }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if region == Region.control { return access { $0.cable.writeControl(UInt8(truncatingIfNeeded: value)) } }
    if offset == 0 {
      return withUnsafeBytes(of: value) { bytes in
        access { $0.cable.writeData(from: UnsafeRawBufferPointer(rebasing: bytes[..<max(width.bytes, 2)])) }
      }
    }
    access { state in
      for index in 0..<width.bytes {
        guard let register = Self.register(offset, index) else { continue }
        state.cable.write(register, UInt8(truncatingIfNeeded: value >> UInt64(index * 8)))
      }
    }
  }

  private static func register(_ offset: UInt64, _ index: Int) -> ATARegister? {
    UInt8(exactly: offset).flatMap { UInt8(exactly: Int($0) + index) }.flatMap { ATARegister(rawValue: $0) }
  }

  public override func readString(
    region: Int, offset: UInt64, width: AccessWidth, into buffer: UnsafeMutableRawBufferPointer
  ) {
    guard region == Region.command, offset == 0, width != .byte else {
      return super.readString(region: region, offset: offset, width: width, into: buffer)
    }
    access { $0.cable.readData(into: buffer) }
  }

  public override func writeString(
    region: Int, offset: UInt64, width: AccessWidth, from buffer: UnsafeRawBufferPointer
  ) {
    guard region == Region.command, offset == 0, width != .byte else {
      return super.writeString(region: region, offset: offset, width: width, from: buffer)
    }
    access { $0.cable.writeData(from: buffer) }
  }

  /// Reads one of the channel's eight bus master ports.
  func readBusMaster(_ register: Int) -> UInt8 { state.withLock { $0.busMaster.read(register) } }

  func writeBusMaster(_ register: Int, _ value: UInt8) { access { $0.busMaster.write(register, value) } }

  func setBusMaster(_ enabled: Bool) { access { $0.mayMaster = enabled } }

  // MARK: Lifecycle

  /// Power-on or machine reset. Returns when no request of before can touch memory any more.
  func reset() {
    state.withLock { state in
      state.cable.reset()
      state.busMaster = BusMasterIDE()
      state.dma = nil
      driveLine(&state)
    }
    settle()
  }

  /// Ends what is under way; no request is made after it.
  func drain() {
    state.withLock { $0.isDraining = true }
    settle()
  }

  private func settle() {
    let backends = state.withLock { $0.backends }
    repeat {
      for backend in backends { backend?.drain() }
      // A request may be on its way from a completion to its backend.
    } while state.withLock { $0.cable.isRequesting }
  }

  // MARK: Requests

  /// Changes the state and does what follows from it.
  private func access<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
    let (result, work) = state.withLock { state in
      let result = body(&state)
      return (result, advance(&state))
    }
    if let work { run(work) }
    return result
  }

  /// Carries out a drive's request as far as that takes no medium; drives the interrupt line.
  private func advance(_ state: inout State) -> Work? {
    defer { driveLine(&state) }
    while !state.isDraining, let (unit, request) = state.cable.request {
      if request.isDMA, state.dma == nil {
        guard state.busMaster.isActive, state.mayMaster else { return nil }
        guard gather(request, unit, &state) else { continue }
      }
      if case .dmaData(let count) = request {
        copyToMemory(count, unit, &state)
        continue
      }
      guard let work = prepare(request, unit, &state) else { continue }
      state.cable.requestBegan(unit: unit)
      return work
    }
    return nil
  }

  /// Finds the memory of a whole DMA command; false: there is none, and the drive was told.
  private func gather(_ request: DriveRequest, _ unit: Int, _ state: inout State) -> Bool {
    let total: Int
    switch request {
    case .dmaRead(let transfer), .dmaWrite(let transfer): total = transfer.total
    case .dmaData(let count): total = count
    default: return true
    }
    switch state.busMaster.gather(total, memory) {
    case .memory(let list, let count):
      state.dma = DMAMemory(runs: list, count: count)
      return true
    case .fault:
      state.busMaster.faulted()
      endDrive(unit, &state) { $0.dmaFailed() }
      return false
    }
  }

  private func endDrive(_ unit: Int, _ state: inout State, _ body: (inout IDEDrive) -> Void) {
    state.dma = nil
    state.cable.update(unit) { drive in
      drive.interface.request = nil
      body(&drive)
    }
  }

  /// Moves the start of a drive's buffer to memory.
  private func copyToMemory(_ count: Int, _ unit: Int, _ state: inout State) {
    guard let dma = state.dma else { return }
    state.cable.drives[unit]?.interface.withBuffer(0..<min(count, dma.count)) { bytes in
      var done = 0
      for segment in dma.runs {
        let run = min(segment.count, bytes.count - done)
        segment.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[done..<done + run]))
        done += run
      }
    }
    if dma.count < count {
      state.busMaster.ranShort()
      endDrive(unit, &state) { $0.dmaRanShort() }
    } else {
      state.busMaster.transferEnded()
      endDrive(unit, &state) { $0.requestDone(.success(())) }
    }
  }

  /// What a request asks of the medium; nil: nothing, and the drive was told.
  private func prepare(_ request: DriveRequest, _ unit: Int, _ state: inout State) -> Work? {
    guard let backend = state.backends[unit] else {
      endDrive(unit, &state) { $0.requestDone(.failure(.outOfRange)) }
      return nil
    }
    func work(_ operation: BlockRequest.Operation, _ offset: UInt64, _ buffers: [UnsafeMutableRawBufferPointer]) -> Work
    {
      Work(
        unit: unit, generation: state.cable.generation, backend: backend, operation: operation, offset: offset,
        buffers: buffers)
    }
    switch request {
    case .flush: return work(.flush, 0, [])
    case .read(let offset, let range):
      var result = work(.read, offset, [UnsafeMutableRawBufferPointer(rebasing: bounce[range])])
      result.target = range
      return result
    case .write(let offset, let range):
      let part = UnsafeMutableRawBufferPointer(rebasing: bounce[range])
      state.cable.drives[unit]?.interface.withBuffer(range) { part.copyMemory(from: $0) }
      return work(.write, offset, [part])
    case .dmaRead(let transfer), .dmaWrite(let transfer):
      guard let dma = state.dma else { return nil }
      let room = dma.count - transfer.start
      // Whole sectors only.
      let count = min(transfer.count, room & ~(ATADisk.sectorSize - 1))
      guard count > 0 else {
        state.busMaster.ranShort()
        endDrive(unit, &state) { $0.dmaRanShort() }
        return nil
      }
      let isRead = if case .dmaRead = request { true } else { false }
      var result = work(isRead ? .read : .write, transfer.offset, part(dma.runs, transfer.start, count))
      result.isDMA = true
      result.endsShort = count < transfer.count
      return result
    case .dmaData: return nil
    }
  }

  /// The memory of `count` bytes from byte `start` of the command's data.
  private func part(_ memory: [UnsafeMutableRawBufferPointer], _ start: Int, _ count: Int)
    -> [UnsafeMutableRawBufferPointer]
  {
    var result: [UnsafeMutableRawBufferPointer] = []
    var skip = start
    var left = count
    for segment in memory where left > 0 {
      guard skip < segment.count else {
        skip -= segment.count
        continue
      }
      let run = min(left, segment.count - skip)
      result.append(UnsafeMutableRawBufferPointer(rebasing: segment[skip..<skip + run]))
      skip = 0
      left -= run
    }
    return result
  }

  private func driveLine(_ state: inout State) {
    let level = state.cable.interrupt
    if level, !state.lineLevel { state.busMaster.interruptRaised() }
    state.lineLevel = level
    line.set(level)
  }

  /// How a backend and its submitter meet: the later of the two goes on, so a backend that completes at once does
  /// not pile up stack.
  private final class Meeting: Sendable {
    enum Progress {
      case submitting, submitted
      case completed(Result<Void, BlockError>)
    }
    private let progress = Mutex(Progress.submitting)

    /// True: the submitter goes on with the result.
    func complete(_ result: Result<Void, BlockError>) -> Bool {
      progress.withLock { progress in
        guard case .submitting = progress else { return false }
        progress = .completed(result)
        return true
      }
    }

    /// The result that came while submitting.
    func returned() -> Result<Void, BlockError>? {
      progress.withLock { progress in
        if case .completed(let result) = progress { return result }
        progress = .submitted
        return nil
      }
    }
  }

  private func run(_ first: Work) {
    var next: Work? = first
    while let work = next {
      let meeting = Meeting()
      work.backend.submit(
        BlockRequest(work.operation, offset: work.offset, buffers: work.buffers) { [self] result in
          if meeting.complete(result) { return }
          if let work = finish(work, result) { run(work) }
        })
      next = meeting.returned().flatMap { finish(work, $0) }
    }
  }

  /// Hands a result to the drive; returns what it wants next.
  private func finish(_ work: Work, _ result: Result<Void, BlockError>) -> Work? {
    state.withLock { state in
      guard state.cable.requestEnded(generation: work.generation) else {
        state.dma = nil
        return advance(&state)
      }
      let succeeded = if case .success = result { true } else { false }
      if work.endsShort, succeeded {
        state.busMaster.ranShort()
        endDrive(work.unit, &state) { $0.dmaRanShort() }
      } else {
        state.cable.update(work.unit) { drive in
          if let range = work.target, succeeded {
            drive.interface.fill(range, from: UnsafeRawBufferPointer(rebasing: bounce[range]))
          }
          drive.requestDone(result)
        }
        let goesOn = state.cable.drives[work.unit]?.interface.request?.isDMA == true
        if work.isDMA, !goesOn {
          if succeeded { state.busMaster.transferEnded() }
          state.dma = nil
        }
      }
      return advance(&state)
    }
  }
}
