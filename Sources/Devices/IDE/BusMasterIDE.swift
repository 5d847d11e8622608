import GuestMemory

/// The bus master registers of one channel and the walk through its descriptor table (82371SB §2.8, Bus Master IDE
/// Controller revision 1.0).
struct BusMasterIDE: Sendable {
  /// Offsets in the channel's eight ports.
  enum Register {
    static let command = 0
    static let status = 2
    static let tableAddress = 4
  }

  /// BMICX.
  enum Command {
    static let start: UInt8 = 1 << 0
    /// The bus master writes memory.
    static let toMemory: UInt8 = 1 << 3
  }

  /// BMISX.
  enum Status {
    static let active: UInt8 = 1 << 0
    static let error: UInt8 = 1 << 1
    static let interrupt: UInt8 = 1 << 2
    /// Bits that the BIOS sets for drives that can do DMA.
    static let capable: UInt8 = 0x60
  }

  /// What a walk through the table found.
  enum Gathered {
    /// Memory for `count` bytes, less than asked for where the table ended.
    case memory([UnsafeMutableRawBufferPointer], count: Int)
    /// The table or what it points to is not RAM.
    case fault
  }

  /// A table may not cross a 64 KiB boundary (82371SB §3.5.3), so it has no more bytes than this.
  static let tableLimit: UInt64 = 64 << 10

  private(set) var command: UInt8 = 0
  private(set) var status: UInt8 = 0
  private var tableAddress: UInt32 = 0

  // The current descriptor.
  private var nextEntry: UInt64 = 0
  private var tableEnd: UInt64 = 0
  private var address: UInt64 = 0
  private var left = 0
  private var isLast = false

  var isActive: Bool { status & Status.active != 0 }

  func read(_ register: Int) -> UInt8 {
    switch register {
    case Register.command: command
    case Register.status: status
    case Register.tableAddress..<Register.tableAddress + 4:
      UInt8(truncatingIfNeeded: tableAddress >> UInt32((register - Register.tableAddress) * 8))
    default: 0
    }
  }

  mutating func write(_ register: Int, _ value: UInt8) {
    switch register {
    case Register.command:
      let rises = value & ~command & Command.start != 0
      command = value & (Command.start | Command.toMemory)
      if rises {
        begin()
      } else if command & Command.start == 0 {
        status &= ~Status.active
      }
    case Register.status:
      status = status & ~(value & (Status.error | Status.interrupt))
      status = status & ~Status.capable | value & Status.capable
    case Register.tableAddress..<Register.tableAddress + 4:
      let shift = UInt32((register - Register.tableAddress) * 8)
      tableAddress = (tableAddress & ~(0xFF << shift) | UInt32(value) << shift) & ~0x3
    default: break
    }
  }

  private mutating func begin() {
    status |= Status.active
    nextEntry = UInt64(tableAddress)
    tableEnd = (nextEntry & ~(Self.tableLimit - 1)) + Self.tableLimit
    left = 0
    isLast = false
  }

  /// Takes the memory for the next `count` bytes from the table, host memory that adjoins joined.
  mutating func gather(_ count: Int, _ memory: GuestMemory) -> Gathered {
    var result: [UnsafeMutableRawBufferPointer] = []
    var found = 0
    while found < count {
      if left == 0 {
        guard !isLast else { break }
        guard nextEntry < tableEnd else { return .fault }
        guard loadEntry(memory) else { return .fault }
      }
      let run = min(left, count - found)
      do throws(GuestMemoryError) {
        for segment in try memory.segments(address, run) { Self.join(segment, &result) }
      } catch {
        return .fault
      }
      address += UInt64(run)
      left -= run
      found += run
    }
    return .memory(result, count: found)
  }

  /// Reads a descriptor: address, byte count (0: 64 KiB) and EOT. Bit 0 of address and count is not wired.
  private mutating func loadEntry(_ memory: GuestMemory) -> Bool {
    do throws(GuestMemoryError) {
      let entry = try memory.load(nextEntry, as: UInt64.self)
      address = entry & 0xFFFF_FFFE
      left = Int(entry >> 32 & 0xFFFE)
      if left == 0 { left = 0x1_0000 }
      isLast = entry >> 63 != 0
      nextEntry += 8
      return true
    } catch {
      return false
    }
  }

  private static func join(_ segment: UnsafeMutableRawBufferPointer, _ list: inout [UnsafeMutableRawBufferPointer]) {
    guard let last = list.last, let start = last.baseAddress, let next = segment.baseAddress,
      start + last.count == next
    else { return list.append(segment) }
    list[list.count - 1] = UnsafeMutableRawBufferPointer(start: start, count: last.count + segment.count)
  }

  /// The drive's data has been moved: Active goes where the table has nothing left (82371SB table 10).
  mutating func transferEnded() { if isLast, left == 0 { status &= ~Status.active } }
  /// The table ended before the drive's data.
  mutating func ranShort() { status &= ~Status.active }
  mutating func faulted() { status = status & ~Status.active | Status.error }
  /// INTRQ rose.
  mutating func interruptRaised() { status |= Status.interrupt }
}
