/// A CD or DVD reader's packet commands (SFF-8020i, MMC-3).
struct CDROM: Sendable {
  static let blockSize = 2048

  /// Operation codes (MMC-3 §6).
  enum Operation: UInt8, Sendable {
    case testUnitReady = 0x00
    case requestSense = 0x03
    case inquiry = 0x12
    case modeSense6 = 0x1A
    case startStopUnit = 0x1B
    case preventAllow = 0x1E
    case readCapacity = 0x25
    case read10 = 0x28
    case seek10 = 0x2B
    case readSubchannel = 0x42
    case readTOC = 0x43
    case getConfiguration = 0x46
    case getEventStatus = 0x4A
    case readDiscInformation = 0x51
    case modeSense10 = 0x5A
    case read12 = 0xA8
    case setSpeed = 0xBB
    case mechanismStatus = 0xBD
    case readCD = 0xBE

    /// Answered even while a unit attention waits (SPC-2 §5.6.5, MMC-3 §4.1.6.1).
    var ignoresAttention: Bool {
      switch self {
      case .requestSense, .inquiry, .getConfiguration, .getEventStatus: true
      default: false
      }
    }
  }

  /// How packets reach the drive. ATAPI drives have no MODE SENSE(6).
  enum Transport: Sendable {
    case atapi
    case scsi
  }

  /// What GET EVENT STATUS NOTIFICATION tells of the medium (MMC-3 §6.7, table 88).
  enum MediaEvent: UInt8, Sendable {
    case none = 0
    case newMedia = 2
    case removal = 3
  }

  /// Blocks on the disc; nil: there is none in the drive.
  let discBlocks: UInt64?
  let transport: Transport
  let identity: DriveIdentity
  private(set) var sense = Sense.none
  private var attention: Sense?
  private(set) var isTrayOpen = false
  private(set) var isLocked = false
  private var event = MediaEvent.none

  init(discBlocks: UInt64?, identity: DriveIdentity, transport: Transport = .atapi) {
    self.transport = transport
    // READ CAPACITY has 32 bits for the last block's address.
    self.discBlocks = discBlocks.map { min($0, 1 << 32) }.flatMap { $0 > 0 ? $0 : nil }
    self.identity = identity
  }

  /// Blocks of the disc where the drive can reach it.
  var blocks: UInt64? { isTrayOpen ? nil : discBlocks }

  /// A DVD is what does not fit on a CD of 99 minutes, 59 seconds and 74 frames.
  private var isDVD: Bool { (blocks ?? 0) > 450_000 }

  /// `attention`: the host is told of the reset by the next command.
  mutating func reset(attention: Bool) {
    sense = .none
    isLocked = false
    if attention { self.attention = .reset }
  }

  /// The disc could not be read.
  mutating func readFailed(outOfRange: Bool = false) -> Sense {
    sense = outOfRange ? .addressOutOfRange : .readError
    return sense
  }

  mutating func transferFailed() -> Sense {
    sense = .hardwareError
    return sense
  }

  /// Executes a command packet, of which 12 bytes count. After CHECK CONDITION `sense` holds the reason until the next command.
  mutating func execute(_ packet: [UInt8]) -> PacketOutcome {
    guard packet.count >= 12 else { return check(.invalidField) }
    guard let operation = Operation(rawValue: packet[0]) else { return check(.unknownCommand) }
    if !operation.ignoresAttention, let attention {
      self.attention = nil
      return check(attention)
    }
    if operation != .requestSense { sense = .none }
    let outcome = perform(operation, packet)
    if case .check(let reason) = outcome { sense = reason }
    return outcome
  }

  private mutating func check(_ reason: Sense) -> PacketOutcome {
    sense = reason
    return .check(reason)
  }

  private mutating func perform(_ operation: Operation, _ packet: [UInt8]) -> PacketOutcome {
    switch operation {
    case .inquiry: return inquiry(packet)
    case .requestSense: return requestSense(packet)
    case .startStopUnit: return startStop(packet)
    case .preventAllow:
      isLocked = packet[4] & 0x01 != 0
      return .done
    case .getConfiguration: return getConfiguration(packet)
    case .getEventStatus: return getEventStatus(packet)
    case .modeSense10: return modeSense(packet, isLong: true)
    case .modeSense6: return transport == .scsi ? modeSense(packet, isLong: false) : .check(.unknownCommand)
    case .mechanismStatus: return answer([0, isTrayOpen ? 0x10 : 0, 0, 0, 0, 1, 0, 0], packet.number(8, 2))
    case .setSpeed: return .done
    case .testUnitReady, .readCapacity, .read10, .read12, .readCD, .seek10, .readTOC, .readSubchannel,
      .readDiscInformation:
      guard let blocks else { return .check(isTrayOpen ? .noMediumTrayOpen : .noMedium) }
      return medium(operation, packet, blocks)
    }
  }

  private func medium(_ operation: Operation, _ packet: [UInt8], _ blocks: UInt64) -> PacketOutcome {
    switch operation {
    case .readCapacity: return answer(bigEndian(blocks - 1, 4) + bigEndian(UInt64(Self.blockSize), 4), .max)
    case .read10: return read(packet.number(2, 4), packet.number(7, 2), blocks)
    case .read12: return read(packet.number(2, 4), packet.number(6, 4), blocks)
    case .readCD: return readCD(packet, blocks)
    case .seek10: return packet.number(2, 4) < blocks ? .done : .check(.addressOutOfRange)
    case .readTOC: return readTOC(packet, blocks)
    case .readSubchannel:
      // No audio status (15h), no sub-channel data (MMC-3 §6.30).
      return answer([0, 0x15, 0, 0], packet.number(7, 2))
    case .readDiscInformation: return readDiscInformation(packet)
    default: return .done
    }
  }

  private func answer(_ bytes: [UInt8], _ allocation: Int) -> PacketOutcome {
    let cut = Array(bytes.prefix(allocation))
    return cut.isEmpty ? .done : .data(cut)
  }

  // MARK: Reading

  private func read(_ block: Int, _ count: Int, _ blocks: UInt64) -> PacketOutcome {
    guard UInt64(block) <= blocks, UInt64(count) <= blocks - UInt64(block) else { return .check(.addressOutOfRange) }
    return count == 0 ? .done : .read(block: UInt64(block), count: count)
  }

  /// READ CD (MMC-3 §6.16): the user data of mode 1 sectors; nothing else is in an image.
  private func readCD(_ packet: [UInt8], _ blocks: UInt64) -> PacketOutcome {
    let sectorType = packet[1] >> 2 & 0x07
    guard sectorType == 0 || sectorType == 2 else { return .check(.illegalMode) }
    let count = packet.number(6, 3)
    guard packet[10] & 0x07 == 0 else { return .check(.invalidField) }
    switch packet[9] & 0xF8 {
    case 0x00: return packet.number(2, 4) + count <= blocks ? .done : .check(.addressOutOfRange)
    case 0x10: return read(packet.number(2, 4), count, blocks)
    default: return .check(.invalidField)
    }
  }

  /// READ TOC/PMA/ATIP (MMC-3 §6.31): one session with one data track.
  private func readTOC(_ packet: [UInt8], _ blocks: UInt64) -> PacketOutcome {
    let inTime = packet[1] & 0x02 != 0
    let allocation = packet.number(7, 2)
    // SFF-8020i has the format in the two high bits of the control byte.
    let format = packet[2] & 0x0F != 0 ? packet[2] & 0x0F : packet[9] >> 6
    func address(_ block: UInt64) -> [UInt8] { inTime ? [0] + minuteSecondFrame(block) : bigEndian(block, 4) }
    switch format {
    case 0:
      guard packet[6] <= 1 || packet[6] == 0xAA else { return .check(.invalidField) }
      var descriptors: [UInt8] = []
      if packet[6] <= 1 { descriptors += [0, 0x14, 1, 0] + address(0) }
      descriptors += [0, 0x14, 0xAA, 0] + address(blocks)
      return answer(bigEndian(UInt64(descriptors.count + 2), 2) + [1, 1] + descriptors, allocation)
    case 1: return answer([0, 10, 1, 1, 0, 0x14, 1, 0] + address(0), allocation)
    case 2:
      let entries: [[UInt8]] = [
        [1, 0x14, 0, 0xA0, 0, 0, 0, 0, 1, 0, 0], [1, 0x14, 0, 0xA1, 0, 0, 0, 0, 1, 0, 0],
        [1, 0x14, 0, 0xA2, 0, 0, 0, 0] + minuteSecondFrame(blocks),
        [1, 0x14, 0, 1, 0, 0, 0, 0] + minuteSecondFrame(0),
      ]
      let descriptors = entries.flatMap { $0 }
      return answer(bigEndian(UInt64(descriptors.count + 2), 2) + [1, 1] + descriptors, allocation)
    default: return .check(.invalidField)
    }
  }

  /// Block 0 is at two seconds; there are 75 frames in a second.
  private func minuteSecondFrame(_ block: UInt64) -> [UInt8] {
    let frames = block + 150
    return [
      UInt8(truncatingIfNeeded: min(frames / 75 / 60, 255)), UInt8(truncatingIfNeeded: frames / 75 % 60),
      UInt8(truncatingIfNeeded: frames % 75),
    ]
  }

  /// READ DISC INFORMATION (MMC-3 §6.24): a finished disc, not erasable.
  private func readDiscInformation(_ packet: [UInt8]) -> PacketOutcome {
    guard packet[1] & 0x07 == 0 else { return .check(.invalidField) }
    var bytes = [UInt8](repeating: 0, count: 34)
    bytes[1] = 32
    bytes[2] = 0x0E
    for index in 3...6 { bytes[index] = 1 }
    bytes[7] = 0x20
    return answer(bytes, packet.number(7, 2))
  }

  // MARK: The drive

  private func inquiry(_ packet: [UInt8]) -> PacketOutcome {
    guard packet[1] & 0x01 == 0, packet[2] == 0 else { return .check(.invalidField) }
    // A CD device, removable, 31 more bytes; ATAPI response format (SFF-8020i §10.8.1), or SPC-3 with its format 2.
    let versions: [UInt8] = transport == .atapi ? [0x00, 0x21] : [0x05, 0x02]
    return answer([0x05, 0x80] + versions + [31, 0, 0, 0] + identity.inquiry, packet.number(3, 2))
  }

  private mutating func requestSense(_ packet: [UInt8]) -> PacketOutcome {
    if sense == .none, let attention {
      sense = attention
      self.attention = nil
    }
    let bytes = sense.fixed
    sense = .none
    return answer(bytes, Int(packet[4]))
  }

  /// START STOP UNIT (MMC-3 §6.47): with LoEj the tray moves.
  private mutating func startStop(_ packet: [UInt8]) -> PacketOutcome {
    guard packet[4] & 0x02 != 0 else { return .done }
    let open = packet[4] & 0x01 == 0
    guard open != isTrayOpen else { return .done }
    guard !isLocked else { return .check(.removalPrevented) }
    isTrayOpen = open
    guard discBlocks != nil else { return .done }
    event = open ? .removal : .newMedia
    if !open { attention = .mediumChanged }
    return .done
  }

  private func getConfiguration(_ packet: [UInt8]) -> PacketOutcome {
    let profile: UInt16 = blocks == nil ? 0 : isDVD ? 0x0010 : 0x0008
    struct Feature {
      let code: UInt16
      /// Version, persistent and current bits (MMC-3 §5.2.2).
      let flags: UInt8
      let data: [UInt8]
    }
    let hasDisc: UInt8 = blocks == nil ? 0 : 1
    let features = [
      // Profile list, core (ATAPI), removable medium (tray, eject, lock), random readable, CD and DVD read.
      Feature(
        code: 0x0000, flags: 0x03,
        data: [0x00, 0x10, profile == 0x0010 ? 1 : 0, 0, 0x00, 0x08, profile == 0x0008 ? 1 : 0, 0]),
      Feature(code: 0x0001, flags: 0x03, data: [0, 0, 0, 2]),
      Feature(code: 0x0003, flags: 0x03, data: [0x29, 0, 0, 0]),
      Feature(code: 0x0010, flags: hasDisc, data: [0, 0, 0x08, 0x00, 0x00, 0x10, 0, 0]),
      Feature(code: 0x001E, flags: profile == 0x0008 ? 1 : 0, data: []),
      Feature(code: 0x001F, flags: profile == 0x0010 ? 1 : 0, data: []),
    ]
    let start = packet.number(2, 2)
    let chosen: [Feature]
    switch packet[1] & 0x03 {
    case 0: chosen = features.filter { $0.code >= start }
    case 1: chosen = features.filter { $0.code >= start && $0.flags & 1 != 0 }
    case 2: chosen = features.filter { $0.code == start }
    default: return .check(.invalidField)
    }
    var body: [UInt8] = [0, 0] + bigEndian(UInt64(profile), 2)
    for feature in chosen {
      body += bigEndian(UInt64(feature.code), 2) + [feature.flags, UInt8(truncatingIfNeeded: feature.data.count)]
      body += feature.data
    }
    return answer(bigEndian(UInt64(body.count), 4) + body, packet.number(7, 2))
  }

  /// GET EVENT STATUS NOTIFICATION (MMC-3 §6.7), polled: only the media class has events.
  private mutating func getEventStatus(_ packet: [UInt8]) -> PacketOutcome {
    guard packet[1] & 0x01 != 0 else { return .check(.invalidField) }
    let allocation = packet.number(7, 2)
    guard packet[4] & 0x10 != 0 else { return answer([0, 2, 0x80, 0x10], allocation) }
    let status: UInt8 = (isTrayOpen ? 0x01 : 0) | (blocks != nil ? 0x02 : 0)
    defer { if allocation > 4 { event = .none } }
    return answer([0, 6, 0x04, 0x10, event.rawValue, status, 0, 0], allocation)
  }

  /// MODE SENSE (MMC-3 §6.10, SPC-2 §7.8).
  private func modeSense(_ packet: [UInt8], isLong: Bool) -> PacketOutcome {
    let control = packet[2] >> 6
    guard control != 3 else { return .check(.savingNotSupported) }
    let wanted = packet[2] & 0x3F
    var pages: [(code: UInt8, bytes: [UInt8])] = [
      // Read error recovery: five retries.
      (0x01, [0x01, 0x06, 0, 5, 0, 0, 0, 0]),
      // CD audio control.
      (0x0E, [0x0E, 0x0E, 0x04, 0, 0, 0, 0, 75, 0, 0, 0, 0, 0, 0, 0, 0]),
      // Capabilities (MMC-3 §5.5.10): reads CD-R, CD-RW and DVD; mode 2 forms 1 and 2, multisession; tray with lock
      // and eject; 64 KiB of buffer.
      (
        0x2A,
        [0x2A, 0x12, 0x0B, 0, 0x70, 0, isLocked ? 0x2B : 0x29, 0, 0x0B, 0x00, 0, 2, 0, 64, 0x0B, 0x00, 0, 0, 0, 0]
      ),
    ]
    if wanted != 0x3F { pages.removeAll { $0.code != wanted } }
    guard !pages.isEmpty else { return .check(.invalidField) }
    var body: [UInt8] = []
    for page in pages {
      // Nothing can be changed.
      body += control == 1 ? page.bytes.prefix(2) + [UInt8](repeating: 0, count: page.bytes.count - 2) : page.bytes
    }
    // Medium type: data disc of 120 mm, no disc, or tray open (SFF-8020i §10.8.4.1).
    let medium: UInt8 = isTrayOpen ? 0x71 : discBlocks == nil ? 0x70 : 0x01
    let header =
      isLong
      ? bigEndian(UInt64(body.count + 6), 2) + [medium, 0, 0, 0, 0, 0]
      : [UInt8(truncatingIfNeeded: body.count + 3), medium, 0, 0]
    return answer(header + body, isLong ? packet.number(7, 2) : Int(packet[4]))
  }
}
