/// What a drive asks of whoever owns the medium and the memory. One request is under way at a time.
enum DriveRequest: Sendable, Equatable {
  /// Medium to a range of the drive's buffer.
  case read(offset: UInt64, buffer: Range<Int>)
  /// A range of the drive's buffer to the medium.
  case write(offset: UInt64, buffer: Range<Int>)
  /// Medium to memory by DMA.
  case dmaRead(DMATransfer)
  /// Memory to medium by DMA.
  case dmaWrite(DMATransfer)
  /// The first bytes of the drive's buffer to memory by DMA.
  case dmaData(count: Int)
  case flush

  var isDMA: Bool {
    switch self {
    case .dmaRead, .dmaWrite, .dmaData: true
    case .read, .write, .flush: false
    }
  }
}

/// A part of a command's DMA transfer.
struct DMATransfer: Sendable, Equatable {
  /// Byte offset on the medium.
  var offset: UInt64
  /// Where the part begins in the command's data, in bytes.
  var start: Int
  var count: Int
  /// Bytes of the whole command.
  var total: Int
}

/// The host interface of one ATA or ATAPI device: the command block, the data port and INTRQ (ATA/ATAPI-6 §7).
struct ATAInterface: Sendable {
  enum Direction: Sendable { case none, toHost, fromHost }

  /// A register that remembers what was written before (ATA/ATAPI-6 §6.20, 48-bit addresses).
  struct TwoDeep: Sendable {
    var current: UInt8 = 0
    var previous: UInt8 = 0
    mutating func write(_ value: UInt8) { (previous, current) = (current, value) }
    mutating func set(_ value: UInt8) { (previous, current) = (0, value) }
  }

  /// Room for this many bytes in the drive's buffer.
  static let bufferSize = 64 << 10

  /// Device 0 or 1.
  let unit: Int
  var features = TwoDeep()
  var sectorCount = TwoDeep()
  var lbaLow = TwoDeep()
  var lbaMid = TwoDeep()
  var lbaHigh = TwoDeep()
  var device: UInt8 = 0
  var status: ATAStatus = []
  var error: UInt8 = 0
  /// The device wants to interrupt; INTRQ follows it while nIEN is 0 and the device is selected.
  var isInterrupting = false
  /// What is to be done before the command can go on.
  var request: DriveRequest?
  /// One byte more than the capacity: an odd transfer ends with half a word.
  private(set) var buffer = [UInt8](repeating: 0, count: ATAInterface.bufferSize + 2)
  private var direction = Direction.none
  private var position = 0
  /// Where the DRQ block that is being transferred ends.
  private(set) var blockEnd = 0

  init(unit: Int) { self.unit = unit }

  var isBusy: Bool { !status.isDisjoint(with: [.busy, .dataRequest]) }

  // MARK: Registers

  func read(_ register: ATARegister, highOrder: Bool) -> UInt8 {
    switch register {
    // While BSY is 1 the other registers read as Status (ATA/ATAPI-4 §7.15.6.1).
    case _ where status.contains(.busy): status.rawValue
    case .data: 0
    case .error: error
    case .sectorCount: highOrder ? sectorCount.previous : sectorCount.current
    case .lbaLow: highOrder ? lbaLow.previous : lbaLow.current
    case .lbaMid: highOrder ? lbaMid.previous : lbaMid.current
    case .lbaHigh: highOrder ? lbaHigh.previous : lbaHigh.current
    // Bits 7 and 5 are obsolete and read as one.
    case .device: device | 0xA0
    case .status: status.rawValue
    }
  }

  mutating func write(_ register: ATARegister, _ value: UInt8) {
    switch register {
    case .error: features.write(value)
    case .sectorCount: sectorCount.write(value)
    case .lbaLow: lbaLow.write(value)
    case .lbaMid: lbaMid.write(value)
    case .lbaHigh: lbaHigh.write(value)
    case .device: device = value
    case .data, .status: break
    }
  }

  // MARK: Data port

  /// The device has data for the host in its DRQ block.
  var hasData: Bool { direction == .toHost && status.contains(.dataRequest) }
  /// The device wants data from the host for its DRQ block.
  var wantsData: Bool { direction == .fromHost && status.contains(.dataRequest) }
  /// All of the DRQ block was transferred.
  var isBlockDone: Bool { position >= blockEnd }

  /// Moves bytes of the DRQ block to the host; returns how many there were.
  mutating func takeData(into target: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(target.count, ((blockEnd + 1) & ~1) - position)
    guard hasData, count > 0 else { return 0 }
    UnsafeMutableRawBufferPointer(rebasing: target[..<count]).copyBytes(from: buffer[position..<position + count])
    position += count
    return count
  }

  /// Moves bytes from the host into the DRQ block; returns how many there was room for.
  mutating func giveData(from source: UnsafeRawBufferPointer) -> Int {
    let count = min(source.count, ((blockEnd + 1) & ~1) - position)
    guard wantsData, count > 0 else { return 0 }
    buffer.withUnsafeMutableBytes { bytes in
      UnsafeMutableRawBufferPointer(rebasing: bytes[position..<position + count]).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: source[..<count]))
    }
    position += count
    return count
  }

  /// Puts bytes at the start of the buffer.
  mutating func fill(_ bytes: [UInt8]) {
    let count = min(bytes.count, Self.bufferSize)
    buffer.replaceSubrange(..<count, with: bytes[..<count])
    buffer[count] = 0
  }

  /// Puts what the medium gave into a range of the buffer.
  mutating func fill(_ range: Range<Int>, from source: UnsafeRawBufferPointer) {
    buffer.withUnsafeMutableBytes { bytes in
      UnsafeMutableRawBufferPointer(rebasing: bytes[range]).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: source[..<range.count]))
    }
  }

  func withBuffer<Result>(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
    buffer.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[range])) }
  }

  // MARK: Protocol states (ATA/ATAPI-4 §9)

  /// Offers a range of the buffer to the host.
  mutating func offer(_ range: Range<Int>) {
    beginBlock(range, .toHost)
    isInterrupting = true
  }

  /// Waits for the host to fill a range of the buffer.
  mutating func accept(_ range: Range<Int>, interrupt: Bool) {
    beginBlock(range, .fromHost)
    if interrupt { isInterrupting = true }
  }

  private mutating func beginBlock(_ range: Range<Int>, _ direction: Direction) {
    (position, blockEnd, self.direction) = (range.lowerBound, range.upperBound, direction)
    status = [.ready, .seekComplete, .dataRequest]
  }

  /// Sets BSY until the request is done.
  mutating func ask(_ request: DriveRequest) {
    direction = .none
    status = [.busy, .seekComplete]
    self.request = request
  }

  /// Ends the command well.
  mutating func complete(interrupt: Bool = true) {
    direction = .none
    status = [.ready, .seekComplete]
    error = 0
    if interrupt { isInterrupting = true }
  }

  /// Ends the command with an error.
  mutating func fail(_ error: ATAError) { fail(code: error.rawValue) }

  mutating func fail(code: UInt8) {
    direction = .none
    status = [.ready, .seekComplete, .error]
    error = code
    isInterrupting = true
  }

  /// Drops whatever is under way and sets BSY, until `endReset`.
  mutating func beginReset() {
    direction = .none
    request = nil
    isInterrupting = false
    status = .busy
  }

  /// Shows the signature of the device (ATA/ATAPI-4 §9.1) and the diagnostic code 01h: no error.
  mutating func endReset(packet: Bool) {
    setSignature(packet: packet)
    error = 0x01
    features = TwoDeep()
    status = packet ? [] : [.ready, .seekComplete]
  }

  mutating func setSignature(packet: Bool) {
    sectorCount.set(0x01)
    lbaLow.set(0x01)
    lbaMid.set(packet ? 0x14 : 0x00)
    lbaHigh.set(packet ? 0xEB : 0x00)
    device &= ATADeviceBits.unit
  }
}
