import Engines

/// An ELF executable that is loaded at physical addresses (System V ABI, chapters 4 and 5).
struct ELFImage: Sendable, Equatable {
  /// A part that is loaded.
  struct Segment: Sendable, Equatable {
    let offset: UInt64
    let fileSize: UInt64
    let address: UInt64
    let virtualAddress: UInt64
    let size: UInt64

    var end: UInt64 { address &+ size }
  }

  let is64Bit: Bool
  /// As the header has it: a virtual or a physical address.
  let entry: UInt64
  /// In the order of the program headers, none empty.
  let segments: [Segment]
  /// The 32-bit entry of a PVH guest (Xen, docs/misc/pvh.pandoc), a physical address.
  let pvhEntry: UInt32?

  static let signature: [UInt8] = [0x7F, 0x45, 0x4C, 0x46]

  private enum SegmentType {
    static let load: UInt32 = 1
    static let interpreter: UInt32 = 3
    static let note: UInt32 = 4
  }

  private enum Machine {
    static let i386: UInt16 = 3
    static let amd64: UInt16 = 62
  }

  /// XEN_ELFNOTE_PHYS32_ENTRY.
  private static let physicalEntryNote: UInt32 = 18
  private static let maximumSegments = 256
  private static let maximumNotes: UInt64 = 64 << 10

  /// nil: the file is no ELF file.
  init?(_ file: KernelFile) throws(BootError) {
    let head = try file.prefix(64)
    guard head.has(Self.signature) else { return nil }
    guard head.count >= 52 else { throw BootError("the kernel is cut short: its ELF header is missing") }
    is64Bit = head.integer(4, as: UInt8.self) == 2
    guard head.integer(5, as: UInt8.self) == 1 else {
      throw BootError("this ELF file is for a big-endian machine, and the guest is an x86-64 PC")
    }
    let machine: UInt16 = head.integer(18)
    guard machine == Machine.i386 || machine == Machine.amd64 else {
      throw BootError("this kernel is for \(Self.name(machine)), and the guest is an x86-64 PC")
    }
    let type: UInt16 = head.integer(16)
    guard type == 2 || type == 3 else {
      throw BootError(
        type == 1 ? "this ELF file is an object file, not a kernel" : "this ELF file is no executable (type \(type))")
    }
    let entry = is64Bit ? head.integer(24, as: UInt64.self) : UInt64(head.integer(24, as: UInt32.self))
    let table = is64Bit ? head.integer(32, as: UInt64.self) : UInt64(head.integer(28, as: UInt32.self))
    let entrySize = Int(head.integer(is64Bit ? 54 : 42, as: UInt16.self))
    let entryCount = Int(head.integer(is64Bit ? 56 : 44, as: UInt16.self))
    guard 1...Self.maximumSegments ~= entryCount, entrySize == (is64Bit ? 56 : 32) else {
      throw BootError("this ELF file has no program headers to load it by: it is not a kernel")
    }
    let headers = try file.bytes(table, entrySize * entryCount, "ELF program headers")
    var segments: [Segment] = []
    var pvhEntry: UInt32?
    for index in 0..<entryCount {
      let (type, alignment, segment) = Self.segment(headers, index * entrySize, is64Bit)
      switch type {
      case SegmentType.interpreter: throw BootError("this is a program for a running Linux, not a kernel")
      case SegmentType.note where segment.fileSize <= Self.maximumNotes:
        let notes = try file.bytes(segment.offset, Int(segment.fileSize), "ELF notes")
        pvhEntry = pvhEntry ?? Self.physicalEntry(notes, alignment: alignment == 8 ? 8 : 4)
      case SegmentType.load where segment.size > 0: segments.append(try Self.checked(segment, file))
      default: break
      }
    }
    guard !segments.isEmpty else { throw BootError("this ELF file has nothing to load: it is not a kernel") }
    (self.entry, self.segments, self.pvhEntry) = (entry, segments, pvhEntry)
  }

  private static func segment(_ fields: Fields, _ base: Int, _ is64Bit: Bool) -> (UInt32, UInt64, Segment) {
    func word(_ offset: Int) -> UInt64 { UInt64(fields.integer(base + offset, as: UInt32.self)) }
    func long(_ offset: Int) -> UInt64 { fields.integer(base + offset) }
    let type: UInt32 = fields.integer(base)
    guard is64Bit else {
      return (
        type, word(28),
        Segment(
          offset: word(4), fileSize: word(16), address: word(12), virtualAddress: word(8), size: word(20))
      )
    }
    return (
      type, long(48),
      Segment(
        offset: long(8), fileSize: long(32), address: long(24), virtualAddress: long(16), size: long(40))
    )
  }

  private static func checked(_ segment: Segment, _ file: KernelFile) throws(BootError) -> Segment {
    let (end, overflow) = segment.offset.addingReportingOverflow(segment.fileSize)
    guard segment.fileSize <= segment.size, !overflow,
      !segment.address.addingReportingOverflow(segment.size).overflow
    else { throw BootError("this ELF file is damaged: a program header contradicts itself") }
    guard end <= file.count else {
      throw BootError("the kernel is cut short: \(file.count) of at least \(end) bytes are there")
    }
    guard segment.address >= LowMemory.megabyte else {
      throw BootError(
        "a part of this ELF file is loaded at 0x\(String(segment.address, radix: 16)), and a kernel must be at 1 MiB or "
          + "above: link it there")
    }
    return segment
  }

  /// The value of XEN_ELFNOTE_PHYS32_ENTRY.
  private static func physicalEntry(_ notes: Fields, alignment: Int) -> UInt32? {
    var offset = 0
    while offset <= notes.count - 12 {
      let nameSize = Int(notes.integer(offset, as: UInt32.self))
      let size = Int(notes.integer(offset + 4, as: UInt32.self))
      let name = offset + 12
      let value = name + (nameSize + 3) & ~3
      if notes.integer(offset + 8, as: UInt32.self) == physicalEntryNote, nameSize == 4, notes.has("Xen\0", at: name),
        size >= 4, value <= notes.count - 4
      {
        return notes.integer(value)
      }
      // Names are padded to 4, or with 8-byte notes so that the value starts on a multiple of 8.
      let start = alignment == 8 ? (12 + nameSize + 7) & ~7 : value - offset
      offset += start + (size + alignment - 1) & ~(alignment - 1)
    }
    return nil
  }

  private static func name(_ machine: UInt16) -> String {
    switch machine {
    case 8: "MIPS"
    case 20: "PowerPC"
    case 21: "PowerPC 64"
    case 22: "S/390"
    case 40: "ARM"
    case 43: "SPARC"
    case 50: "Itanium"
    case 183: "ARM64 (AArch64)"
    case 243: "RISC-V"
    case 258: "LoongArch"
    default: "another machine (ELF number \(machine))"
    }
  }

  /// First to last byte of guest memory that the segments take.
  var extent: Range<UInt64> {
    let start = segments.map(\.address).min() ?? LowMemory.megabyte
    return start..<max(start, segments.map(\.end).max() ?? start)
  }

  /// Where it starts: an entry that is a virtual address becomes the physical one.
  var physicalEntry: UInt64 {
    for segment in segments where entry >= segment.virtualAddress && entry - segment.virtualAddress < segment.size {
      return segment.address &+ (entry - segment.virtualAddress)
    }
    return entry
  }

  /// The segments out of the file, with zeroes behind them.
  func loads(_ machine: BootMachine) throws(BootError) -> [BootPlan.Load] {
    for segment in segments {
      if segment.address < PCMemoryLayout.maximumLowMemory { try machine.require(segment.end) }
      guard machine.ram.contains(where: { $0.contains(segment.address) && segment.end <= $0.upperBound }) else {
        throw BootError(
          "a part of the kernel is loaded at 0x\(String(segment.address, radix: 16)), where the guest has no memory")
      }
    }
    return segments.flatMap { segment in
      let file = BootPlan.Load(
        address: segment.address, count: segment.fileSize, source: .kernel(offset: segment.offset))
      let rest = BootPlan.Load(
        address: segment.address + segment.fileSize, count: segment.size - segment.fileSize, source: .zero)
      return [file, rest].filter { $0.count > 0 }
    }
  }

  /// Starts a vmlinux at its own entry, with the zero page (boot.rst §1.15; 32-bit: §1.14).
  func linuxPlan(_ machine: BootMachine) throws(BootError) -> BootPlan {
    var loads = try loads(machine)
    guard physicalEntry < UInt64(1) << 32 else {
      throw BootError("the kernel starts at 0x\(String(physicalEntry, radix: 16)), which is no physical address")
    }
    let header = SetupHeader.standard(is64Bit: is64Bit)
    loads += try header.zeroPage(machine, kernel: extent, code32: UInt32(truncatingIfNeeded: physicalEntry))
    return SetupHeader.start(&loads, at: physicalEntry, is64Bit: is64Bit)
  }
}
