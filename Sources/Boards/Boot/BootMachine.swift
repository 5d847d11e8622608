/// The machine as a boot protocol describes it to a kernel.
public struct BootMachine: Sendable {
  /// An initial ramdisk, or a module.
  public struct Ramdisk: Sendable, Equatable {
    public let name: String
    public let size: UInt64

    public init(name: String, size: UInt64) { (self.name, self.size) = (name, size) }
  }

  /// RAM, ascending. The first range starts at 0; others are above 4 GiB.
  public var ram: [Range<UInt64>]
  /// What the kernel is told of memory.
  public var memoryMap: [PCMemoryLayout.E820Entry]
  /// ACPI tables and whatever else stands in memory from the start, all within `tableSpace`.
  public var tables: [BootPlan.Load]
  /// Where the ACPI tables start (RSDP); nil: the machine has none.
  public var rootPointer: UInt64?
  /// The kernel's command line.
  public var arguments: String
  public var ramdisks: [Ramdisk]
  /// Where what is in all of them stands in memory already; nil: they are to be loaded.
  var unpackedRamdisks: Range<UInt64>?
  /// Bytes at the end of the RAM below 4 GiB that firmware keeps.
  public private(set) var reserved: UInt64 = 0

  /// Where a machine without firmware keeps its tables: the memory map has it as reserved.
  public static let tableSpace: Range<UInt64> = 0xE_0000..<LowMemory.megabyte

  /// A machine without firmware.
  public init(
    layout: PCMemoryLayout, tables: [BootPlan.Load] = [], rootPointer: UInt64? = nil, arguments: String = "",
    ramdisks: [Ramdisk] = []
  ) {
    ram = layout.ram.map { $0.guestAddress..<$0.end }
    memoryMap = [
      PCMemoryLayout.E820Entry(base: 0, size: LowMemory.end, kind: .ram),
      PCMemoryLayout.E820Entry(
        base: Self.tableSpace.lowerBound, size: UInt64(Self.tableSpace.count), kind: .reserved),
    ]
    for region in layout.ram {
      let base = max(region.guestAddress, LowMemory.megabyte)
      memoryMap.append(PCMemoryLayout.E820Entry(base: base, size: region.end - base, kind: .ram))
    }
    self.tables = tables
    self.rootPointer = rootPointer
    self.arguments = arguments
    self.ramdisks = ramdisks
  }

  /// End of the RAM below 4 GiB that a kernel may use from the start.
  var lowMemory: UInt64 {
    let end = ram.first?.upperBound ?? 0
    return end - min(end, reserved)
  }
  /// Leaves that much at the end of the RAM below 4 GiB to firmware, which loads nothing above it either.
  mutating func reserve(_ size: UInt64) {
    reserved = size
    let end = ram.first?.upperBound ?? 0
    ram = Array(ram.prefix(1))
    memoryMap = memoryMap.flatMap { entry in
      guard entry.kind == .ram, entry.base + entry.size == end, entry.size > size else { return [entry] }
      return [
        PCMemoryLayout.E820Entry(base: entry.base, size: entry.size - size, kind: .ram),
        PCMemoryLayout.E820Entry(base: end - size, size: size, kind: .reserved),
      ]
    }
  }

  /// Bytes of all initial ramdisks one behind the other, each on a multiple of four (initramfs buffer format).
  var joinedRamdisks: UInt64 {
    ramdisks.enumerated().reduce(0) { end, ramdisk in Self.aligned(end, 4) &+ ramdisk.element.size }
  }

  static func aligned(_ address: UInt64, _ alignment: UInt64) -> UInt64 {
    (address &+ (alignment &- 1)) & ~(alignment &- 1)
  }

  /// Refuses a kernel for which the guest has too little memory below 4 GiB.
  func require(_ end: UInt64) throws(BootError) {
    guard end > lowMemory else { return }
    let (needed, memory) = (end &+ reserved, lowMemory &+ reserved)
    throw BootError(
      "the kernel needs \(Self.mebibytes(needed)) MiB of memory and the guest has \(memory >> 20): "
        + Self.advice(needed))
  }

  /// The option that gives the guest `end` bytes below 4 GiB, and some for its work.
  static func advice(_ end: UInt64) -> String {
    guard end <= PCMemoryLayout.maximumLowMemory else { return "no guest has as much below 4 GiB" }
    var size: UInt64 = 64 << 20
    while size < end { size *= 2 }
    return "give it --memory \(size >> 20)M"
  }

  static func mebibytes(_ bytes: UInt64) -> UInt64 { aligned(bytes, 1 << 20) >> 20 }

  /// Where `size` bytes go: whole pages as high as possible below `limit`, from `floor` on.
  func placeRamdisk(_ size: UInt64, from floor: UInt64, below limit: UInt64, mayBeHigh: Bool) throws(BootError)
    -> UInt64
  {
    let top = min(lowMemory, limit)
    let first = Self.aligned(floor, 4096)
    if top >= size, (top - size) & ~0xFFF >= first { return (top - size) & ~0xFFF }
    if mayBeHigh, let last = ram.dropFirst().last, UInt64(last.count) >= size {
      return (last.upperBound - size) & ~0xFFF
    }
    let needed = first &+ Self.aligned(size, 4096)
    let text = "the initial ramdisk of \(Self.mebibytes(size)) MiB does not fit into memory"
    if limit < needed { throw BootError("\(text): the kernel takes it only below \(limit >> 20) MiB") }
    throw BootError(
      "\(text) of \((lowMemory + reserved) >> 20) MiB beside the kernel: "
        + Self.advice(needed &+ reserved))
  }

  /// The ACPI root pointer structure, where it stands in the tables.
  var rootPointerTable: [UInt8]? {
    guard let rootPointer else { return nil }
    for table in tables {
      guard case .bytes(let bytes) = table.source, rootPointer >= table.address,
        rootPointer - table.address < UInt64(bytes.count)
      else { continue }
      let start = Int(rootPointer - table.address)
      // ACPI 6.4, §5.2.5.3: revision 0 has 20 bytes, later ones their length at 20.
      let fields = Fields(bytes: Array(bytes[start...].prefix(256)))
      let length = fields.integer(15, as: UInt8.self) == 0 ? 20 : Int(fields.integer(20, as: UInt32.self))
      guard 20...fields.count ~= length else { return nil }
      return Array(fields.bytes.prefix(length))
    }
    return nil
  }
}

/// Where the loader keeps what a kernel is given, below 1 MiB. Kernels copy it before they use that memory.
enum LowMemory {
  static let gdt: UInt64 = 0x500
  /// PVH start information, its modules and memory map.
  static let startInfo: UInt64 = 0x4000
  static let zeroPage: UInt64 = 0x7000
  /// PML4, one PDPT and four page directories, a page each.
  static let pageTables: UInt64 = 0x9000
  static let commandLine: UInt64 = 0x2_0000
  /// Longest command line, its zero included.
  static let commandLineLimit = 0x1_0000
  /// Multiboot information and what it points to.
  static let multiboot: UInt64 = 0x3_0000
  static let multibootLimit = 0x6_0000
  /// End of the RAM below the VGA window.
  static let end: UInt64 = 0x9_FC00
  static let megabyte: UInt64 = 0x10_0000
}
