/// A memory size or firmware size that the PC's memory map has no place for.
public enum MemoryLayoutError: Error, Equatable, Sendable, CustomStringConvertible {
  /// RAM size in bytes.
  case memory(UInt64)
  /// Firmware image size in bytes.
  case firmware(UInt64)

  public var description: String {
    switch self {
    case .memory(let size):
      "guest memory of \(size) bytes is not possible: it must be a multiple of 1M from 2M to 1024G"
    case .firmware(let size):
      "a firmware image of \(size) bytes is not possible: it must be a multiple of 64 KiB from 64 KiB to 16 MiB"
    }
  }
}

/// The guest physical memory map of an i440FX PC: RAM below and above the 32-bit hole that PCI devices, the interrupt
/// controllers and the firmware stand in.
public struct PCMemoryLayout: Sendable, Equatable {
  /// A run of RAM.
  public struct Region: Sendable, Equatable {
    public let guestAddress: UInt64
    public let size: UInt64
    /// Where it starts in the file that backs all RAM.
    public let fileOffset: UInt64

    public var end: UInt64 { guestAddress + size }
  }

  /// An entry of the address map that firmware hands on (ACPI §15, address range types).
  public struct E820Entry: Sendable, Equatable {
    public enum Kind: UInt32, Sendable {
      case ram = 1
      case reserved = 2
    }
    public let base: UInt64
    public let size: UInt64
    public let kind: Kind
  }

  /// Where the 32-bit hole starts at the latest.
  public static let maximumLowMemory: UInt64 = 0xC000_0000
  public static let highMemoryBase: UInt64 = 1 << 32
  public static let minimumMemory: UInt64 = 2 << 20
  public static let maximumMemory: UInt64 = 1 << 40

  /// The range that VGA decodes below 1 MiB.
  public static let vgaWindow: Range<UInt64> = 0xA_0000..<0xC_0000
  public static let ioAPIC: UInt64 = 0xFEC0_0000
  public static let hpet: UInt64 = 0xFED0_0000
  public static let localAPIC: UInt64 = 0xFEE0_0000
  /// Four pages below every firmware image that KVM may take for itself: the identity map, then the TSS
  /// (KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR).
  public static let engineReserved: Range<UInt64> = 0xFEFF_C000..<0xFF00_0000

  /// RAM in ascending order of guest addresses: one region, or two when some lies above 4 GiB.
  public let ram: [Region]

  /// Splits `memory` bytes of RAM.
  public init(memory: UInt64) throws(MemoryLayoutError) {
    guard Self.minimumMemory...Self.maximumMemory ~= memory, memory & 0xF_FFFF == 0 else {
      throw .memory(memory)
    }
    let low = min(memory, Self.maximumLowMemory)
    var ram = [Region(guestAddress: 0, size: low, fileOffset: 0)]
    if memory > low { ram.append(Region(guestAddress: Self.highMemoryBase, size: memory - low, fileOffset: low)) }
    self.ram = ram
  }

  /// Bytes of RAM below 4 GiB.
  public var lowMemory: UInt64 { ram[0].size }
  /// Bytes of RAM from 4 GiB on.
  public var highMemory: UInt64 { ram.dropFirst().reduce(0) { $0 + $1.size } }
  public var totalMemory: UInt64 { lowMemory + highMemory }

  /// What PCI devices below 4 GiB may decode: from the top of low RAM to the I/O APIC.
  public var pciHole: Range<UInt64> { lowMemory..<Self.ioAPIC }

  /// RAM and the ranges the machine keeps for itself. Firmware adds its own reservations, such as those below 1 MiB.
  public var e820: [E820Entry] {
    let low = E820Entry(base: 0, size: lowMemory, kind: .ram)
    let engine = E820Entry(
      base: Self.engineReserved.lowerBound, size: UInt64(Self.engineReserved.count), kind: .reserved)
    return [low, engine] + ram.dropFirst().map { E820Entry(base: $0.guestAddress, size: $0.size, kind: .ram) }
  }
}

/// Where a firmware image stands: just below 4 GiB, so that its last 16 bytes hold the reset vector, and its last
/// 128 KiB again just below 1 MiB.
public struct FirmwarePlacement: Sendable, Equatable {
  public static let sizes: ClosedRange<UInt64> = 0x1_0000...0x100_0000

  /// Guest address of the image's first byte.
  public let base: UInt64
  /// Bytes in the image.
  public let size: UInt64

  public init(size: UInt64) throws(MemoryLayoutError) {
    guard Self.sizes ~= size, size & 0xFFFF == 0 else { throw .firmware(size) }
    self.size = size
    base = (1 << 32) - size
  }

  /// Bytes of the copy below 1 MiB.
  public var lowSize: UInt64 { min(size, 0x2_0000) }
  /// Guest address of the copy below 1 MiB.
  public var lowBase: UInt64 { 0x10_0000 - lowSize }
  /// Where the copied part starts in the image.
  public var lowOffset: UInt64 { size - lowSize }
}
