import Backends

/// A hard disk's command set (ATA/ATAPI-4, with the 48-bit Address feature set of ATA/ATAPI-6 §6.20).
struct ATADisk: Sendable {
  static let sectorSize = 512
  /// Sectors per DRQ block that SET MULTIPLE MODE allows.
  static let maximumMultiple = 16
  private static let bufferSectors = ATAInterface.bufferSize / sectorSize

  enum Phase: Sendable, Equatable {
    case idle
    /// One block from the buffer: IDENTIFY DEVICE.
    case data
    case read
    case write
    case dmaRead
    case dmaWrite
    case verify
    /// Flushing because of the command, or because the write cache is off.
    case flush
  }

  enum Addressing: Sendable { case chs, lba28, lba48 }

  /// A command that moves sectors.
  struct Transfer: Sendable {
    var addressing: Addressing
    var run: MediumRun
    /// Sectors after those of `run`.
    var remaining: Int
    /// Sectors per DRQ block.
    var block: Int
    /// Bytes of the buffer that hold sectors for the host.
    var filled = 0
    /// The run ended at a bad sector that the host has not come to yet.
    var error: BlockError?
  }

  struct Geometry: Sendable, Equatable {
    var cylinders: Int
    var heads: Int
    var sectors: Int
  }

  /// Addressable sectors.
  let capacity: UInt64
  let isReadOnly: Bool
  let identity: DriveIdentity
  /// The default translation (IDENTIFY words 1, 3 and 6).
  let defaultGeometry: Geometry
  /// The current translation, which INITIALIZE DEVICE PARAMETERS sets.
  private(set) var geometry: Geometry
  /// Sectors per DRQ block of READ and WRITE MULTIPLE; 0: these are disabled.
  private(set) var multiple = ATADisk.maximumMultiple
  private(set) var modes = TransferModes()
  private(set) var hasWriteCache = true
  private(set) var hasLookAhead = true
  /// SET FEATURES 66h: a software reset keeps the settings.
  private var keepsSettings = false
  private var isStandby = false
  private(set) var phase = Phase.idle
  private var transfer: Transfer?

  init(capacity: UInt64, isReadOnly: Bool, identity: DriveIdentity) {
    // 48-bit addresses end here.
    self.capacity = min(capacity, 1 << 48)
    self.isReadOnly = isReadOnly
    self.identity = identity
    let cylinders = min(max(self.capacity / (16 * 63), 1), 16383)
    defaultGeometry = Geometry(cylinders: Int(cylinders), heads: 16, sectors: 63)
    geometry = defaultGeometry
  }

  /// Drops the command under way. Settings go back to power-on ones, unless a software reset is to keep them.
  mutating func reset(powerOn: Bool) {
    phase = .idle
    transfer = nil
    isStandby = false
    guard powerOn || !keepsSettings else { return }
    if powerOn {
      geometry = defaultGeometry
      modes = TransferModes()
      keepsSettings = false
    }
    multiple = Self.maximumMultiple
    hasWriteCache = true
    hasLookAhead = true
  }

  // MARK: Commands

  mutating func execute(_ code: UInt8, _ io: inout ATAInterface) {
    io.error = 0
    // RECALIBRATE and SEEK have 16 codes each (ATA-3 §8).
    if code & 0xF0 == 0x10 { return io.complete() }
    if code & 0xF0 == 0x70 { return seek(&io) }
    guard let command = ATACommand(code: code) else { return io.fail(.aborted) }
    switch command {
    case .readSectors, .readSectorsNoRetry: begin(.read, &io, block: 1)
    case .readSectorsExt: begin(.read, &io, block: 1, extended: true)
    case .readMultiple: begin(.read, &io, block: multiple)
    case .readMultipleExt: begin(.read, &io, block: multiple, extended: true)
    case .writeSectors, .writeSectorsNoRetry: begin(.write, &io, block: 1)
    case .writeSectorsExt: begin(.write, &io, block: 1, extended: true)
    case .writeMultiple: begin(.write, &io, block: multiple)
    case .writeMultipleExt: begin(.write, &io, block: multiple, extended: true)
    case .readDMA, .readDMANoRetry: begin(.dmaRead, &io)
    case .readDMAExt: begin(.dmaRead, &io, extended: true)
    case .writeDMA, .writeDMANoRetry: begin(.dmaWrite, &io)
    case .writeDMAExt: begin(.dmaWrite, &io, extended: true)
    case .readVerify, .readVerifyNoRetry: begin(.verify, &io)
    case .readVerifyExt: begin(.verify, &io, extended: true)
    case .flushCache, .flushCacheExt:
      phase = .flush
      io.ask(.flush)
    case .identifyDevice:
      io.fill(identify(unit: io.unit))
      phase = .data
      io.offer(0..<512)
    case .setMultiple: setMultiple(&io)
    case .setFeatures: setFeatures(&io)
    case .initializeParameters: initializeParameters(&io)
    case .readNativeMax, .readNativeMaxExt:
      guard capacity > 0 else { return io.fail(.aborted) }
      let extended = command == .readNativeMaxExt
      setAddress(min(capacity, extended ? 1 << 48 : 1 << 28) - 1, extended ? .lba48 : .lba28, &io)
      io.complete()
    case .standbyImmediate, .standby, .sleep:
      isStandby = true
      io.complete()
    case .idleImmediate, .idle:
      isStandby = false
      io.complete()
    case .checkPowerMode:
      // 00h: standby; FFh: active or idle (ATA/ATAPI-4 §8.3).
      io.sectorCount.current = isStandby ? 0x00 : 0xFF
      io.complete()
    case .nop, .deviceReset, .packet, .identifyPacketDevice, .executeDiagnostic: io.fail(.aborted)
    }
  }

  private mutating func begin(_ phase: Phase, _ io: inout ATAInterface, block: Int = 1, extended: Bool = false) {
    guard block > 0 else { return io.fail(.aborted) }
    if isReadOnly, phase == .write || phase == .dmaWrite { return io.fail(.writeProtected) }
    let addressing: Addressing = extended ? .lba48 : io.device & ATADeviceBits.lba != 0 ? .lba28 : .chs
    let count = sectorCount(io, extended: extended)
    guard let lba = address(addressing, io) else { return io.fail(.idNotFound) }
    guard lba < capacity, UInt64(count) <= capacity - lba else {
      setAddress(max(lba, capacity), addressing, &io)
      return io.fail(.idNotFound)
    }
    self.phase = phase
    isStandby = false
    let first = phase == .dmaRead || phase == .dmaWrite ? count : min(count, Self.bufferSectors)
    transfer = Transfer(
      addressing: addressing, run: MediumRun(block: lba, count: first), remaining: count - first, block: block)
    if phase == .write { acceptBlock(from: 0, interrupt: false, &io) } else { askNext(&io) }
  }

  private func seek(_ io: inout ATAInterface) {
    let addressing: Addressing = io.device & ATADeviceBits.lba != 0 ? .lba28 : .chs
    guard let lba = address(addressing, io), lba < capacity else { return io.fail(.idNotFound) }
    io.complete()
  }

  private mutating func setMultiple(_ io: inout ATAInterface) {
    let value = Int(io.sectorCount.current)
    guard value <= Self.maximumMultiple, value & (value - 1) == 0 || value == 0 else {
      return io.fail(.aborted)
    }
    multiple = value
    io.complete()
  }

  private mutating func initializeParameters(_ io: inout ATAInterface) {
    let sectors = Int(io.sectorCount.current)
    let heads = Int(io.device & ATADeviceBits.head) + 1
    guard sectors > 0 else { return io.fail(.aborted) }
    let cylinders = min(capacity / UInt64(sectors * heads), 65535)
    geometry = Geometry(cylinders: Int(cylinders), heads: heads, sectors: sectors)
    io.complete()
  }

  /// SET FEATURES (ATA/ATAPI-4 §8.37).
  private mutating func setFeatures(_ io: inout ATAInterface) {
    switch io.features.current {
    case 0x02: hasWriteCache = true
    case 0x82:
      // What was written up to now is made safe, too (ATA/ATAPI-4 §8.37.8).
      hasWriteCache = false
      phase = .flush
      return io.ask(.flush)
    case 0x03: guard modes.select(io.sectorCount.current) else { return io.fail(.aborted) }
    case 0xAA: hasLookAhead = true
    case 0x55: hasLookAhead = false
    case 0x66: keepsSettings = true
    case 0xCC: keepsSettings = false
    default: return io.fail(.aborted)
    }
    io.complete()
  }

  // MARK: Transfers

  /// The host took or filled a whole DRQ block.
  mutating func blockDone(_ io: inout ATAInterface) {
    switch phase {
    case .read: offerNext(&io)
    case .write:
      guard let transfer else { return finish(&io) }
      let end = transfer.run.left * Self.sectorSize
      if io.blockEnd < end { acceptBlock(from: io.blockEnd, interrupt: true, &io) } else { askNext(&io) }
    default:
      phase = .idle
      // The last block of data to the host is not followed by an interrupt (ATA/ATAPI-4 §9.5).
      io.complete(interrupt: false)
    }
  }

  /// The request that `io.ask` named is done.
  mutating func requestDone(_ result: Result<Void, BlockError>, _ io: inout ATAInterface) {
    if phase == .flush {
      phase = .idle
      if case .failure = result { return io.fail(.aborted) }
      return io.complete()
    }
    guard var current = transfer else { return finish(&io) }
    let step = current.run.finish(result)
    transfer = current
    switch step {
    case .more: askNext(&io)
    case .failed(let error):
      guard phase == .read, current.run.done > 0 else { return fail(error, &io) }
      transfer?.error = error
      startOffering(&io)
    case .finished:
      switch phase {
      case .read: startOffering(&io)
      case .write, .verify:
        guard current.remaining > 0 else { return finish(&io) }
        nextRun(&io)
        if phase == .verify { askNext(&io) } else { acceptBlock(from: 0, interrupt: true, &io) }
      default: finish(&io)
      }
    }
  }

  /// The bus master's table ended before the data did: the drive waits no longer and does not interrupt.
  mutating func dmaRanShort(_ io: inout ATAInterface) {
    phase = .idle
    transfer = nil
    io.complete(interrupt: false)
  }

  /// The bus master could not reach memory.
  mutating func dmaFailed(_ io: inout ATAInterface) {
    phase = .idle
    transfer = nil
    io.fail(.aborted)
  }

  private mutating func nextRun(_ io: inout ATAInterface) {
    guard var current = transfer else { return }
    let count = min(current.remaining, Self.bufferSectors)
    current.run = MediumRun(block: current.run.block, count: count)
    current.remaining -= count
    transfer = current
  }

  private mutating func askNext(_ io: inout ATAInterface) {
    guard let transfer else { return finish(&io) }
    let run = transfer.run
    let offset = run.block &* UInt64(Self.sectorSize)
    let start = run.done * Self.sectorSize
    let count = run.nextPart * Self.sectorSize
    let dma = DMATransfer(
      offset: offset, start: start, count: count, total: (run.done + run.left) * Self.sectorSize)
    switch phase {
    case .dmaRead: io.ask(.dmaRead(dma))
    case .dmaWrite: io.ask(.dmaWrite(dma))
    case .write: io.ask(.write(offset: offset, buffer: start..<start + count))
    default: io.ask(.read(offset: offset, buffer: start..<start + count))
    }
  }

  private mutating func acceptBlock(from start: Int, interrupt: Bool, _ io: inout ATAInterface) {
    guard let transfer else { return finish(&io) }
    let end = min(start + transfer.block * Self.sectorSize, transfer.run.left * Self.sectorSize)
    io.accept(start..<end, interrupt: interrupt)
  }

  private mutating func startOffering(_ io: inout ATAInterface) {
    guard let transfer else { return finish(&io) }
    self.transfer?.filled = transfer.run.done * Self.sectorSize
    offerBlock(from: 0, &io)
  }

  private mutating func offerBlock(from start: Int, _ io: inout ATAInterface) {
    guard let transfer else { return finish(&io) }
    io.offer(start..<min(start + transfer.block * Self.sectorSize, transfer.filled))
  }

  private mutating func offerNext(_ io: inout ATAInterface) {
    guard let transfer else { return finish(&io) }
    if io.blockEnd < transfer.filled { return offerBlock(from: io.blockEnd, &io) }
    if let error = transfer.error { return fail(error, &io) }
    guard transfer.remaining > 0 else {
      phase = .idle
      self.transfer = nil
      return io.complete(interrupt: false)
    }
    nextRun(&io)
    askNext(&io)
  }

  private mutating func finish(_ io: inout ATAInterface) {
    let wrote = phase == .write || phase == .dmaWrite
    transfer = nil
    if wrote, !hasWriteCache {
      phase = .flush
      return io.ask(.flush)
    }
    phase = .idle
    io.complete()
  }

  /// Ends the command at the sector that failed: its address and how many were left (ATA/ATAPI-4 §8.27.6).
  private mutating func fail(_ error: BlockError, _ io: inout ATAInterface) {
    if let transfer {
      setAddress(transfer.run.block, transfer.addressing, &io)
      let left = transfer.run.left + transfer.remaining
      io.sectorCount.current = UInt8(truncatingIfNeeded: left)
      if transfer.addressing == .lba48 { io.sectorCount.previous = UInt8(truncatingIfNeeded: left >> 8) }
    }
    let isWrite = phase == .write || phase == .dmaWrite
    phase = .idle
    transfer = nil
    io.fail(isWrite ? (error == .readOnly ? .writeProtected : .aborted) : .uncorrectable)
  }

  // MARK: Addresses

  private func sectorCount(_ io: ATAInterface, extended: Bool) -> Int {
    guard extended else { return io.sectorCount.current == 0 ? 256 : Int(io.sectorCount.current) }
    let count = Int(io.sectorCount.previous) << 8 | Int(io.sectorCount.current)
    return count == 0 ? 65536 : count
  }

  /// The LBA in the command block; nil for a cylinder, head and sector that the translation does not have.
  private func address(_ addressing: Addressing, _ io: ATAInterface) -> UInt64? {
    let low = UInt64(io.lbaLow.current)
    let mid = UInt64(io.lbaMid.current)
    let high = UInt64(io.lbaHigh.current)
    let head = UInt64(io.device & ATADeviceBits.head)
    switch addressing {
    case .lba28: return low | mid << 8 | high << 16 | head << 24
    case .lba48:
      let previous =
        UInt64(io.lbaLow.previous) | UInt64(io.lbaMid.previous) << 8 | UInt64(io.lbaHigh.previous) << 16
      return low | mid << 8 | high << 16 | previous << 24
    case .chs:
      guard head < UInt64(geometry.heads), 1...UInt64(geometry.sectors) ~= low else { return nil }
      return ((mid | high << 8) * UInt64(geometry.heads) + head) * UInt64(geometry.sectors) + low - 1
    }
  }

  private func setAddress(_ lba: UInt64, _ addressing: Addressing, _ io: inout ATAInterface) {
    func byte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: lba >> UInt64(index * 8)) }
    switch addressing {
    case .lba28:
      (io.lbaLow.current, io.lbaMid.current, io.lbaHigh.current) = (byte(0), byte(1), byte(2))
      io.device = io.device & ~ATADeviceBits.head | byte(3) & ATADeviceBits.head
    case .lba48:
      (io.lbaLow.current, io.lbaMid.current, io.lbaHigh.current) = (byte(0), byte(1), byte(2))
      (io.lbaLow.previous, io.lbaMid.previous, io.lbaHigh.previous) = (byte(3), byte(4), byte(5))
    case .chs:
      let track = lba / UInt64(geometry.sectors)
      let cylinder = track / UInt64(geometry.heads)
      io.lbaLow.current = UInt8(truncatingIfNeeded: lba % UInt64(geometry.sectors) + 1)
      io.lbaMid.current = UInt8(truncatingIfNeeded: cylinder)
      io.lbaHigh.current = UInt8(truncatingIfNeeded: cylinder >> 8)
      io.device = io.device & ~ATADeviceBits.head | UInt8(truncatingIfNeeded: track % UInt64(geometry.heads))
    }
  }
}

extension ATADisk {
  /// The 512 bytes of IDENTIFY DEVICE (ATA/ATAPI-6 §8.15).
  func identify(unit: Int) -> [UInt8] {
    var data = IdentifyData()
    // Fixed device.
    data[0] = 0x0040
    data[1] = UInt16(truncatingIfNeeded: defaultGeometry.cylinders)
    data[3] = UInt16(truncatingIfNeeded: defaultGeometry.heads)
    data[6] = UInt16(truncatingIfNeeded: defaultGeometry.sectors)
    data.set(10..<20, identity.serial)
    data.set(23..<27, DriveIdentity.revision)
    data.set(27..<47, identity.model)
    data[47] = 0x8000 | UInt16(Self.maximumMultiple)
    // IORDY, LBA, DMA.
    data[49] = 0x0B00
    data[50] = 0x4000
    // PIO and DMA timing of drives before word 64.
    data[51] = 0x0200
    data[52] = 0x0200
    // Words 54–58, 64–70 and 88 are valid.
    data[53] = 0x0007
    data[54] = UInt16(truncatingIfNeeded: geometry.cylinders)
    data[55] = UInt16(truncatingIfNeeded: geometry.heads)
    data[56] = UInt16(truncatingIfNeeded: geometry.sectors)
    let addressable = UInt64(geometry.cylinders * geometry.heads * geometry.sectors)
    data.set(57, count: 2, min(addressable, capacity))
    if multiple > 0 { data[59] = 0x0100 | UInt16(multiple) }
    data.set(60, count: 2, min(capacity, 0x0FFF_FFFF))
    data[63] = modes.multiwordWord
    // PIO 3 and 4; cycle times of 120 ns.
    data[64] = 0x0003
    for word in 65...68 { data[word] = 120 }
    // ATA-4 to ATA/ATAPI-6.
    data[80] = 0x0070
    // NOP, look-ahead, write cache, power management.
    data[82] = 0x4068
    // FLUSH CACHE (EXT), 48-bit addresses.
    data[83] = 0x7400
    data[84] = 0x4000
    data[85] = 0x4008 | (hasLookAhead ? 0x40 : 0) | (hasWriteCache ? 0x20 : 0)
    data[86] = 0x3400
    data[87] = 0x4000
    data[88] = modes.ultraWord
    data.setResetResult(unit: unit)
    data.set(100, count: 4, capacity)
    // One logical sector of 512 bytes per physical one.
    data[106] = 0x4000
    data.seal()
    return data.bytes
  }
}
