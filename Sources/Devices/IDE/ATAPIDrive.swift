import Backends

/// The ATA side of a packet device: PACKET and the few ATA commands it has (ATA/ATAPI-4 §9.7–9.8, SFF-8020i §5).
struct ATAPIDrive: Sendable {
  /// What the Sector Count register shows during a PACKET command (ATA/ATAPI-4 §8.21.5).
  enum Reason {
    /// C/D: the command packet is transferred, not data.
    static let command: UInt8 = 1 << 0
    /// I/O: to the host.
    static let toHost: UInt8 = 1 << 1
  }

  enum Phase: Sendable, Equatable {
    case idle
    /// IDENTIFY PACKET DEVICE.
    case identify
    /// The host writes the command packet.
    case packet
    /// Bytes of the buffer go to the host, block by block.
    case data
    /// The disc is read into the buffer or by DMA.
    case reading
    case dmaData
  }

  static let packetSize = 12
  private static let bufferBlocks = ATAInterface.bufferSize / CDROM.blockSize

  private(set) var cdrom: CDROM
  private(set) var phase = Phase.idle
  private(set) var modes = TransferModes()
  private var isStandby = false
  /// DMA bit of the Features register.
  private var usesDMA = false
  /// The byte count limit of this command.
  private var byteLimit = 0
  private var run: MediumRun?
  /// Blocks of the disc after those of `run`.
  private var remaining = 0
  /// Bytes of the buffer that are for the host.
  private var filled = 0
  /// The run ended at a bad block that the host has not come to yet.
  private var error: BlockError?

  init(cdrom: CDROM) { self.cdrom = cdrom }

  mutating func reset(powerOn: Bool) {
    endCommand()
    isStandby = false
    if powerOn { modes = TransferModes() }
    cdrom.reset(attention: true)
  }

  /// DEVICE RESET (ATA/ATAPI-4 §8.7) ends the command and keeps everything else.
  mutating func deviceReset() { endCommand() }

  private mutating func endCommand() {
    phase = .idle
    run = nil
    remaining = 0
    error = nil
  }

  mutating func execute(_ code: UInt8, _ io: inout ATAInterface) {
    io.error = 0
    guard let command = ATACommand(code: code) else { return io.fail(.aborted) }
    switch command {
    case .packet: beginPacket(&io)
    case .identifyPacketDevice:
      io.fill(identify(unit: io.unit))
      phase = .identify
      io.offer(0..<512)
    case .setFeatures:
      guard io.features.current == 0x03, modes.select(io.sectorCount.current) else { return io.fail(.aborted) }
      io.complete()
    case .standbyImmediate, .standby, .sleep:
      isStandby = true
      io.complete()
    case .idleImmediate, .idle:
      isStandby = false
      io.complete()
    case .checkPowerMode:
      io.sectorCount.current = isStandby ? 0x00 : 0xFF
      io.complete()
    case .identifyDevice, .readSectors:
      // The signature tells the host what it talks to (ATA/ATAPI-4 §8.12.5.2).
      io.setSignature(packet: true)
      io.fail(.aborted)
    default: io.fail(.aborted)
    }
  }

  private mutating func beginPacket(_ io: inout ATAInterface) {
    // No overlapped commands.
    guard io.features.current & 0x02 == 0 else { return io.fail(.aborted) }
    usesDMA = io.features.current & 0x01 != 0
    byteLimit = Int(io.lbaMid.current) | Int(io.lbaHigh.current) << 8
    isStandby = false
    phase = .packet
    io.sectorCount.current = Reason.command
    io.accept(0..<Self.packetSize, interrupt: false)
  }

  /// The host took or filled a whole DRQ block.
  mutating func blockDone(_ io: inout ATAInterface) {
    switch phase {
    case .packet: executePacket(&io)
    case .data: offerNext(&io)
    default:
      phase = .idle
      io.complete(interrupt: false)
    }
  }

  private mutating func executePacket(_ io: inout ATAInterface) {
    let outcome = cdrom.execute(io.withBuffer(0..<Self.packetSize) { Array($0) })
    switch outcome {
    case .done: succeed(&io)
    case .check(let sense): fail(sense, &io)
    case .data(let bytes):
      guard canSendData(&io) else { return }
      io.fill(bytes)
      filled = bytes.count
      if usesDMA {
        phase = .dmaData
        // Words are moved, so an odd count has a byte of padding.
        io.ask(.dmaData(count: (bytes.count + 1) & ~1))
      } else {
        offer(from: 0, &io)
      }
    case .read(let block, let count):
      guard canSendData(&io) else { return }
      phase = .reading
      let first = usesDMA ? count : min(count, Self.bufferBlocks)
      run = MediumRun(block: block, count: first)
      remaining = count - first
      askNext(&io)
    }
  }

  /// A command with data and a byte count limit of zero cannot be carried out by PIO (ATA/ATAPI-4 §8.21.4).
  private mutating func canSendData(_ io: inout ATAInterface) -> Bool {
    guard !usesDMA, byteLimit == 0 else { return true }
    endCommand()
    io.fail(.aborted)
    return false
  }

  /// The request that `io.ask` named is done.
  mutating func requestDone(_ result: Result<Void, BlockError>, _ io: inout ATAInterface) {
    if phase == .dmaData { return succeed(&io) }
    guard phase == .reading, var current = run else { return succeed(&io) }
    let step = current.finish(result)
    run = current
    switch step {
    case .more: askNext(&io)
    case .finished where usesDMA: succeed(&io)
    case .finished:
      filled = current.done * CDROM.blockSize
      offer(from: 0, &io)
    case .failed(let reason):
      guard !usesDMA, current.done > 0 else { return fail(cdrom.readFailed(outOfRange: reason == .outOfRange), &io) }
      error = reason
      filled = current.done * CDROM.blockSize
      offer(from: 0, &io)
    }
  }

  mutating func dmaRanShort(_ io: inout ATAInterface) {
    endCommand()
    io.complete(interrupt: false)
  }

  mutating func dmaFailed(_ io: inout ATAInterface) { fail(cdrom.transferFailed(), &io) }

  private mutating func askNext(_ io: inout ATAInterface) {
    guard let run else { return succeed(&io) }
    let offset = run.block &* UInt64(CDROM.blockSize)
    let start = run.done * CDROM.blockSize
    let count = run.nextPart * CDROM.blockSize
    if usesDMA {
      let total = (run.done + run.left) * CDROM.blockSize
      io.ask(.dmaRead(DMATransfer(offset: offset, start: start, count: count, total: total)))
    } else {
      io.ask(.read(offset: offset, buffer: start..<start + count))
    }
  }

  /// Offers the next DRQ block of at most the byte count limit, whole disc blocks where the limit allows.
  private mutating func offer(from start: Int, _ io: inout ATAInterface) {
    phase = .data
    let left = filled - start
    var size = left
    if left > byteLimit {
      size = byteLimit >= CDROM.blockSize ? byteLimit / CDROM.blockSize * CDROM.blockSize : max(byteLimit & ~1, 2)
    }
    size = min(size, left)
    io.sectorCount.current = Reason.toHost
    io.lbaMid.current = UInt8(truncatingIfNeeded: size)
    io.lbaHigh.current = UInt8(truncatingIfNeeded: size >> 8)
    io.offer(start..<start + size)
  }

  private mutating func offerNext(_ io: inout ATAInterface) {
    if io.blockEnd < filled { return offer(from: io.blockEnd, &io) }
    if let error { return fail(cdrom.readFailed(outOfRange: error == .outOfRange), &io) }
    guard remaining > 0, let current = run else { return succeed(&io) }
    let count = min(remaining, Self.bufferBlocks)
    run = MediumRun(block: current.block, count: count)
    remaining -= count
    phase = .reading
    askNext(&io)
  }

  private mutating func succeed(_ io: inout ATAInterface) {
    endCommand()
    io.sectorCount.current = Reason.command | Reason.toHost
    io.complete()
  }

  /// CHECK CONDITION: CHK is set and the sense key stands in the Error register.
  private mutating func fail(_ sense: Sense, _ io: inout ATAInterface) {
    endCommand()
    io.sectorCount.current = Reason.command | Reason.toHost
    io.fail(code: sense.key << 4 | (sense.key == 0x5 ? ATAError.aborted.rawValue : 0))
  }

  /// The 512 bytes of IDENTIFY PACKET DEVICE (ATA/ATAPI-6 §8.16).
  func identify(unit: Int) -> [UInt8] {
    var data = IdentifyData()
    // ATAPI, CD device, removable, DRQ within 50 µs of PACKET, packets of 12 bytes.
    data[0] = 0x85C0
    data.set(10..<20, cdrom.identity.serial)
    data.set(23..<27, DriveIdentity.revision)
    data.set(27..<47, cdrom.identity.model)
    // IORDY, LBA, DMA.
    data[49] = 0x0B00
    data[53] = 0x0006
    data[63] = modes.multiwordWord
    data[64] = 0x0003
    for word in 65...68 { data[word] = 120 }
    data[71] = 30
    data[72] = 30
    // ATA-4 to ATA/ATAPI-6.
    data[80] = 0x0070
    // NOP, DEVICE RESET, PACKET, power management.
    data[82] = 0x4218
    data[83] = 0x4000
    data[84] = 0x4000
    data[85] = 0x4218
    data[87] = 0x4000
    data[88] = modes.ultraWord
    data.setResetResult(unit: unit)
    data.seal()
    return data.bytes
  }
}
