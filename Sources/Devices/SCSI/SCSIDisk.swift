import Backends

/// Consecutive blocks of a disk.
struct DiskRange: Sendable, Equatable {
  var block: UInt64
  var count: UInt64
}

/// What a disk is to do for a command.
enum DiskOutcome: Sendable, Equatable {
  /// What every kind of drive does.
  case packet(PacketOutcome)
  /// Blocks from the host; with `isDurable` they are on the medium before the command ends.
  case write(block: UInt64, count: Int, isDurable: Bool)
  case flush
  case discard([DiskRange])
  case zero(DiskRange, mayUnmap: Bool)
}

/// A direct-access block device (SBC-3, SPC-4).
struct SCSIDisk: Sendable {
  static let blockSize = 512
  /// Blocks of one READ or WRITE: what the request can have of buffers is the transport's.
  static let maximumBlocks = 1 << 16
  /// Blocks and ranges of one UNMAP, and blocks of one WRITE SAME.
  static let maximumUnmap: UInt64 = 1 << 22
  static let maximumRanges = 64

  /// Operation codes (SBC-3 §5, SPC-4 §6).
  enum Operation: UInt8, Sendable {
    case testUnitReady = 0x00
    case requestSense = 0x03
    case read6 = 0x08
    case write6 = 0x0A
    case inquiry = 0x12
    case modeSense6 = 0x1A
    case startStopUnit = 0x1B
    case readCapacity10 = 0x25
    case read10 = 0x28
    case write10 = 0x2A
    case verify10 = 0x2F
    case synchronizeCache10 = 0x35
    case writeSame10 = 0x41
    case unmap = 0x42
    case modeSense10 = 0x5A
    case read16 = 0x88
    case write16 = 0x8A
    case verify16 = 0x8F
    case synchronizeCache16 = 0x91
    case writeSame16 = 0x93
    case serviceActionIn = 0x9E
    case read12 = 0xA8
    case write12 = 0xAA

    /// Answered even while a unit attention waits (SPC-4 §5.14).
    var ignoresAttention: Bool { self == .inquiry || self == .requestSense }
  }

  let isReadOnly: Bool
  let canDiscard: Bool
  let limits: BlockLimits
  let identity: DriveIdentity
  private(set) var blocks: UInt64
  private var attention: Sense? = .reset

  /// `blocks` from 1 on.
  init(blocks: UInt64, isReadOnly: Bool, canDiscard: Bool, limits: BlockLimits, identity: DriveIdentity) {
    self.blocks = max(blocks, 1)
    self.isReadOnly = isReadOnly
    self.canDiscard = canDiscard
    self.limits = limits
    self.identity = identity
  }

  mutating func reset() { attention = .reset }

  /// The medium has this many blocks now; the host is told by its next command.
  mutating func resize(blocks: UInt64) {
    self.blocks = max(blocks, 1)
    attention = .capacityChanged
  }

  /// Executes a command of at least 16 bytes; `parameters` reads that many bytes at most of the host's data.
  mutating func execute(_ command: [UInt8], parameters: (Int) -> [UInt8]) -> DiskOutcome {
    guard command.count >= 16 else { return check(.invalidField) }
    guard let operation = Operation(rawValue: command[0]) else { return check(.unknownCommand) }
    if let attention, !operation.ignoresAttention {
      self.attention = nil
      return check(attention)
    }
    switch operation {
    case .testUnitReady, .startStopUnit: return .packet(.done)
    case .requestSense: return requestSense(command)
    case .inquiry: return inquiry(command)
    case .modeSense6: return modeSense(command, isLong: false)
    case .modeSense10: return modeSense(command, isLong: true)
    case .readCapacity10:
      return answer(bigEndian(min(blocks - 1, 0xFFFF_FFFF), 4) + bigEndian(UInt64(Self.blockSize), 4), .max)
    case .serviceActionIn:
      guard command[1] & 0x1F == 0x10 else { return check(.invalidField) }
      return readCapacity16(command)
    case .read6, .read10, .read12, .read16: return read(command)
    case .write6, .write10, .write12, .write16: return write(command)
    case .verify10, .verify16: return verify(command)
    case .synchronizeCache10, .synchronizeCache16: return range(command) == nil ? check(.addressOutOfRange) : .flush
    case .writeSame10, .writeSame16: return writeSame(command, operation, parameters)
    case .unmap: return unmap(command, parameters)
    }
  }

  private func check(_ sense: Sense) -> DiskOutcome { .packet(.check(sense)) }

  private func answer(_ bytes: [UInt8], _ allocation: Int) -> DiskOutcome {
    let cut = Array(bytes.prefix(allocation))
    return .packet(cut.isEmpty ? .done : .data(cut))
  }

  // MARK: Blocks

  /// The blocks that a command names, by the length of the command; nil where they are not all on the disk.
  private func range(_ command: [UInt8]) -> DiskRange? {
    let range: DiskRange
    switch command[0] >> 5 {
    case 0:
      // No count means 256 (SBC-3 §5.8).
      let count = UInt64(command[4] == 0 ? 256 : Int(command[4]))
      range = DiskRange(block: UInt64(command.number(1, 3) & 0x1F_FFFF), count: count)
    case 4: range = DiskRange(block: command.wideNumber(2), count: UInt64(command.number(10, 4)))
    case 5: range = DiskRange(block: UInt64(command.number(2, 4)), count: UInt64(command.number(6, 4)))
    default: range = DiskRange(block: UInt64(command.number(2, 4)), count: UInt64(command.number(7, 2)))
    }
    return fits(range) ? range : nil
  }

  private func fits(_ range: DiskRange) -> Bool { range.block <= blocks && range.count <= blocks - range.block }

  /// Protection information is not there to be checked (SBC-3 §4.22).
  private func wantsProtection(_ command: [UInt8]) -> Bool { command[0] >> 5 != 0 && command[1] & 0xE0 != 0 }

  private func read(_ command: [UInt8]) -> DiskOutcome {
    guard !wantsProtection(command) else { return check(.invalidField) }
    guard let range = range(command) else { return check(.addressOutOfRange) }
    guard range.count > 0 else { return .packet(.done) }
    guard range.count <= Self.maximumBlocks else { return check(.invalidField) }
    return .packet(.read(block: range.block, count: Int(range.count)))
  }

  private func write(_ command: [UInt8]) -> DiskOutcome {
    guard !wantsProtection(command) else { return check(.invalidField) }
    guard !isReadOnly else { return check(.writeProtected) }
    guard let range = range(command) else { return check(.addressOutOfRange) }
    guard range.count > 0 else { return .packet(.done) }
    guard range.count <= Self.maximumBlocks else { return check(.invalidField) }
    let forcesUnitAccess = command[0] >> 5 != 0 && command[1] & 0x08 != 0
    return .write(block: range.block, count: Int(range.count), isDurable: forcesUnitAccess)
  }

  /// The medium verifies itself; bytes are not compared (BYTCHK).
  private func verify(_ command: [UInt8]) -> DiskOutcome {
    guard command[1] & 0xE6 == 0 else { return check(.invalidField) }
    return range(command) == nil ? check(.addressOutOfRange) : .packet(.done)
  }

  /// WRITE SAME (SBC-3 §5.43, §5.44) of zeros; another pattern is not repeated.
  private func writeSame(_ command: [UInt8], _ operation: Operation, _ parameters: (Int) -> [UInt8]) -> DiskOutcome {
    guard !isReadOnly else { return check(.writeProtected) }
    // Nothing protected, anchored or with addresses in it.
    guard command[1] & 0xF6 == 0 else { return check(.invalidField) }
    let hasNoData = command[1] & 0x01 != 0
    guard !hasNoData || operation == .writeSame16 else { return check(.invalidField) }
    guard let range = range(command) else { return check(.addressOutOfRange) }
    guard 1...Self.maximumUnmap ~= range.count else { return check(.invalidField) }
    if !hasNoData {
      let block = parameters(Self.blockSize)
      guard block.count == Self.blockSize, block.allSatisfy({ $0 == 0 }) else { return check(.invalidParameter) }
    }
    return .zero(range, mayUnmap: command[1] & 0x08 != 0 && canDiscard)
  }

  /// UNMAP (SBC-3 §5.28).
  private func unmap(_ command: [UInt8], _ parameters: (Int) -> [UInt8]) -> DiskOutcome {
    guard canDiscard else { return check(.unknownCommand) }
    guard !isReadOnly else { return check(.writeProtected) }
    guard command[1] & 0x01 == 0 else { return check(.invalidField) }
    let count = command.number(7, 2)
    guard count > 0 else { return .packet(.done) }
    let list = parameters(min(count, 8 + Self.maximumRanges * 16))
    guard list.count >= 8 else { return check(.parameterListLength) }
    let length = list.number(2, 2)
    guard length <= Self.maximumRanges * 16 else { return check(.invalidParameter) }
    var ranges: [DiskRange] = []
    var total: UInt64 = 0
    // A descriptor that is cut off counts for nothing.
    for start in stride(from: 8, to: 8 + length, by: 16) where start + 16 <= list.count {
      let range = DiskRange(block: list.wideNumber(start), count: UInt64(list.number(start + 8, 4)))
      guard fits(range) else { return check(.addressOutOfRange) }
      total += range.count
      guard total <= Self.maximumUnmap else { return check(.invalidParameter) }
      if range.count > 0 { ranges.append(range) }
    }
    return ranges.isEmpty ? .packet(.done) : .discard(ranges)
  }

  // MARK: The drive

  private func requestSense(_ command: [UInt8]) -> DiskOutcome {
    // Why a command failed was said with its status.
    guard command[1] & 0x01 == 0 else { return check(.invalidField) }
    return answer(Sense.none.fixed, Int(command[4]))
  }

  private func readCapacity16(_ command: [UInt8]) -> DiskOutcome {
    var bytes = bigEndian(blocks - 1, 8) + bigEndian(UInt64(Self.blockSize), 4) + [UInt8](repeating: 0, count: 20)
    bytes[13] = UInt8(truncatingIfNeeded: physicalExponent)
    // LBPME: blocks can be unmapped.
    bytes[14] = canDiscard ? 0x80 : 0
    return answer(bytes, command.number(10, 4))
  }

  private var physicalExponent: Int {
    (max(limits.physicalBlock, Self.blockSize) / Self.blockSize).trailingZeroBitCount & 0xF
  }

  private func inquiry(_ command: [UInt8]) -> DiskOutcome {
    let allocation = command.number(3, 2)
    guard command[1] & 0x01 != 0 else {
      guard command[2] == 0 else { return check(.invalidField) }
      // SPC-3, response format 2 with hierarchical addressing, 31 more bytes, command queueing.
      let bytes: [UInt8] = [0x00, 0x00, 0x05, 0x12, 31, 0, 0, 0x02]
      return answer(bytes + identity.inquiry, allocation)
    }
    guard let page = vitalProductData(command[2]) else { return check(.invalidField) }
    return answer([0x00, command[2]] + bigEndian(UInt64(page.count), 2) + page, allocation)
  }

  /// A page without its header (SPC-4 §7.8, SBC-3 §6.6).
  private func vitalProductData(_ page: UInt8) -> [UInt8]? {
    switch page {
    case 0x00: return [0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]
    case 0x80: return Array(identity.serial.utf8)
    case 0x83:
      // ASCII, T10 vendor identification.
      let name = Array("VMRUN   ".utf8) + Array(identity.serial.utf8)
      return [0x02, 0x01, 0, UInt8(truncatingIfNeeded: name.count)] + name
    case 0xB0: return blockLimits
    // It does not rotate.
    case 0xB1: return [0, 1] + [UInt8](repeating: 0, count: 58)
    // UNMAP and both kinds of WRITE SAME unmap; what is unmapped need not read as zeros. Thin.
    case 0xB2: return canDiscard ? [0, 0xE0, 2, 0] : [0, 0, 0, 0]
    default: return nil
    }
  }

  private var blockLimits: [UInt8] {
    let granularity = UInt64(max(limits.discardBlock, Self.blockSize) / Self.blockSize)
    var bytes: [UInt8] = [0x01, 0] + bigEndian(UInt64(1) << UInt64(physicalExponent), 2)
    bytes += bigEndian(UInt64(Self.maximumBlocks), 4)
    bytes += bigEndian(UInt64(limits.optimalTransfer / Self.blockSize), 4) + bigEndian(0, 4)
    bytes += bigEndian(canDiscard ? Self.maximumUnmap : 0, 4)
    bytes += bigEndian(canDiscard ? UInt64(Self.maximumRanges) : 0, 4)
    bytes += bigEndian(canDiscard ? granularity : 0, 4) + bigEndian(canDiscard ? 0x8000_0000 : 0, 4)
    bytes += bigEndian(Self.maximumUnmap, 8)
    return bytes + [UInt8](repeating: 0, count: 60 - bytes.count)
  }

  /// MODE SENSE (SPC-4 §6.11, §6.12). Nothing can be changed.
  private func modeSense(_ command: [UInt8], isLong: Bool) -> DiskOutcome {
    let control = command[2] >> 6
    guard control != 3 else { return check(.savingNotSupported) }
    let wanted = command[2] & 0x3F
    guard command[3] == 0 || command[3] == 0xFF else { return check(.invalidField) }
    var pages: [[UInt8]] = [
      // Read-write error recovery.
      [0x01, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
      // Caching: writes are cached until they are synchronised.
      [0x08, 0x12, 0x04] + [UInt8](repeating: 0, count: 17),
      // Control.
      [0x0A, 0x0A, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0],
    ]
    if wanted != 0x3F { pages.removeAll { $0[0] != wanted } }
    guard !pages.isEmpty || wanted == 0 else { return check(.invalidField) }
    if control == 1 { pages = pages.map { $0.prefix(2) + [UInt8](repeating: 0, count: $0.count - 2) } }
    let body = pages.flatMap { $0 }
    let hasDescriptor = command[1] & 0x08 == 0
    let descriptor = hasDescriptor ? bigEndian(min(blocks, 0xFFFF_FFFF), 4) + bigEndian(UInt64(Self.blockSize), 4) : []
    // Writes may be forced to the medium; write protected.
    let specific: UInt8 = 0x10 | (isReadOnly ? 0x80 : 0)
    let count = descriptor.count + body.count
    let header =
      isLong
      ? bigEndian(UInt64(count + 6), 2) + [0, specific, 0, 0] + bigEndian(UInt64(descriptor.count), 2)
      : [UInt8(truncatingIfNeeded: count + 3), 0, specific, UInt8(truncatingIfNeeded: descriptor.count)]
    return answer(header + descriptor + body, isLong ? command.number(7, 2) : Int(command[4]))
  }
}
