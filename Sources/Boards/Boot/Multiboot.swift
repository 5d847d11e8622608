import Engines

/// What multiboot 1 and 2 have in common: where the image goes, and what stands in memory beside it.
struct MultibootImage: Sendable {
  /// The image in guest memory.
  var loads: [BootPlan.Load]
  var entry: UInt32
  /// End of the memory that it takes.
  var end: UInt64

  /// The addresses of an image that is no ELF file, or shall not be loaded as one (Multiboot 1 §3.1.3, Multiboot 2
  /// §3.1.5).
  struct Addresses: Sendable {
    var header: UInt32
    var load: UInt32
    /// 0: to the end of the file.
    var loadEnd: UInt32
    /// 0: nothing behind it is cleared.
    var bssEnd: UInt32
    var entry: UInt32
  }

  init(_ addresses: Addresses, headerOffset: UInt64, _ file: KernelFile, _ machine: BootMachine) throws(BootError) {
    guard addresses.load <= addresses.header, UInt64(addresses.header - addresses.load) <= headerOffset else {
      throw BootError("the multiboot header is damaged: the image starts before the file")
    }
    let offset = headerOffset - UInt64(addresses.header - addresses.load)
    let load = UInt64(addresses.load)
    let available = file.count - offset
    let loadEnd = addresses.loadEnd == 0 ? load + available : UInt64(addresses.loadEnd)
    guard loadEnd >= load, loadEnd - load <= available else {
      throw BootError("the kernel is cut short: its multiboot header tells of more than the file has")
    }
    let end = max(loadEnd, UInt64(addresses.bssEnd))
    guard load >= LowMemory.megabyte else {
      throw BootError("the kernel is loaded at 0x\(String(load, radix: 16)), and it must be at 1 MiB or above")
    }
    try machine.require(end)
    loads = [
      BootPlan.Load(address: load, count: loadEnd - load, source: .kernel(offset: offset)),
      BootPlan.Load(address: loadEnd, count: end - loadEnd, source: .zero),
    ].filter { $0.count > 0 }
    entry = addresses.entry
    self.end = end
  }

  init(_ image: ELFImage, entry: UInt32?, _ machine: BootMachine) throws(BootError) {
    loads = try image.loads(machine)
    end = image.extent.upperBound
    let start = entry.map(UInt64.init) ?? image.physicalEntry
    guard start < end, end <= PCMemoryLayout.highMemoryBase else {
      throw BootError("a multiboot kernel must be below 4 GiB")
    }
    self.entry = UInt32(truncatingIfNeeded: start)
  }

  /// Each ramdisk becomes a module on a page of its own behind the kernel.
  mutating func addModules(_ machine: BootMachine) throws(BootError) -> [Range<UInt64>] {
    var modules: [Range<UInt64>] = []
    var next = end
    for (index, ramdisk) in machine.ramdisks.enumerated() {
      let start = BootMachine.aligned(next, 4096)
      let (end, overflow) = start.addingReportingOverflow(ramdisk.size)
      guard !overflow, end <= machine.lowMemory else {
        throw BootError(
          "the module \(ramdisk.name) of \(BootMachine.mebibytes(ramdisk.size)) MiB does not fit into memory of "
            + "\(machine.lowMemory >> 20) MiB: \(BootMachine.advice(end))")
      }
      loads.append(BootPlan.Load(address: start, count: ramdisk.size, source: .ramdisk(index)))
      modules.append(start..<end)
      next = end
    }
    return modules
  }

  /// The rest of the plan: the information at `LowMemory.multiboot` by EBX, `magic` in EAX.
  consuming func plan(_ information: [UInt8], magic: UInt32, _ machine: BootMachine) throws(BootError) -> BootPlan {
    guard information.count <= LowMemory.multibootLimit else {
      throw BootError("the command line and the modules' names are too long: shorten --append")
    }
    loads += [BootPlan.Load(information, at: LowMemory.multiboot), .gdt(is64Bit: false)] + machine.tables
    return BootPlan(
      loads: loads,
      start: .protected(
        eip: entry, eax: magic, ebx: UInt32(truncatingIfNeeded: LowMemory.multiboot), gdt: LowMemory.gdt))
  }

  /// KiB of RAM below 640 KiB and from 1 MiB on, as far as it goes without a gap.
  static func basicMemory(_ machine: BootMachine) -> (lower: UInt32, upper: UInt32) {
    let upper = machine.lowMemory - min(machine.lowMemory, LowMemory.megabyte)
    return (UInt32(truncatingIfNeeded: LowMemory.end >> 10), UInt32(truncatingIfNeeded: upper >> 10))
  }

  static let loaderName = "vmrun"
}

/// A kernel for the Multiboot Specification, version 0.6.96.
struct Multiboot1: Sendable {
  private static let headerMagic: UInt32 = 0x1BAD_B002
  private static let bootMagic: UInt32 = 0x2BAD_B002
  /// §3.1: the header is in the first 8192 bytes, on a multiple of four.
  private static let searchLimit = 8192

  /// Bits of the header's flags (§3.1.2).
  private enum Flag {
    static let pageAligned: UInt32 = 1 << 0
    static let memoryInformation: UInt32 = 1 << 1
    static let videoMode: UInt32 = 1 << 2
    /// Requirements that a loader must know.
    static let requirements: UInt32 = 0xFFFF
    static let hasAddresses: UInt32 = 1 << 16
  }

  /// Bits of the information's flags (§3.3).
  private enum Information {
    static let memory: UInt32 = 1 << 0
    static let commandLine: UInt32 = 1 << 2
    static let modules: UInt32 = 1 << 3
    static let memoryMap: UInt32 = 1 << 6
    static let loaderName: UInt32 = 1 << 9
    static let size = 120
  }

  private let offset: Int
  private let flags: UInt32
  private let addresses: MultibootImage.Addresses

  /// nil: there is no header in `head`, the file's first bytes.
  init?(_ head: Fields) {
    let found = stride(from: 0, to: min(head.count, Self.searchLimit) - 11, by: 4).first { offset in
      let flags = head.integer(offset + 4, as: UInt32.self)
      return head.integer(offset, as: UInt32.self) == Self.headerMagic
        && Self.headerMagic &+ flags &+ head.integer(offset + 8, as: UInt32.self) == 0
    }
    guard let found else { return nil }
    offset = found
    flags = head.integer(found + 4)
    addresses = MultibootImage.Addresses(
      header: head.integer(found + 12), load: head.integer(found + 16), loadEnd: head.integer(found + 20),
      bssEnd: head.integer(found + 24), entry: head.integer(found + 28))
  }

  func plan(_ file: KernelFile, _ machine: BootMachine) throws(BootError) -> BootPlan {
    let unknown = flags & Flag.requirements & ~(Flag.pageAligned | Flag.memoryInformation | Flag.videoMode)
    guard unknown == 0 else {
      throw BootError(
        "the multiboot kernel needs features 0x\(String(unknown, radix: 16)), which version 1 does not have")
    }
    guard flags & Flag.videoMode == 0 else {
      throw BootError("the multiboot kernel needs a video mode: boot it by GRUB from a disk in --mode hvm")
    }
    var image: MultibootImage
    if flags & Flag.hasAddresses != 0 {
      image = try MultibootImage(addresses, headerOffset: UInt64(offset), file, machine)
    } else if let elf = try ELFImage(file) {
      image = try MultibootImage(elf, entry: nil, machine)
    } else {
      throw BootError("the multiboot kernel is no ELF file and has no addresses: it cannot be loaded")
    }
    let modules = try image.addModules(machine)
    return try image.plan(information(machine, modules), magic: Self.bootMagic, machine)
  }

  /// The information structure, and behind it what it points to (§3.3).
  private func information(_ machine: BootMachine, _ modules: [Range<UInt64>]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Information.size)
    func put(_ offset: Int, _ value: UInt32) {
      bytes.replaceSubrange(offset..<offset + 4, with: value.littleEndianBytes)
    }
    func append(_ more: [UInt8]) -> UInt32 {
      while bytes.count % 8 != 0 { bytes.append(0) }
      defer { bytes += more }
      return UInt32(truncatingIfNeeded: LowMemory.multiboot + UInt64(bytes.count))
    }
    func append(_ text: String) -> UInt32 { append(Array(text.utf8) + [0]) }
    let memory = MultibootImage.basicMemory(machine)
    put(4, memory.lower)
    put(8, memory.upper)
    put(16, append(machine.arguments))
    let table = zip(modules, machine.ramdisks).flatMap { module, ramdisk in
      [module.lowerBound, module.upperBound, UInt64(append(ramdisk.name)), 0].flatMap {
        UInt32(truncatingIfNeeded: $0).littleEndianBytes
      }
    }
    put(20, UInt32(modules.count))
    put(24, append(table))
    let map = machine.memoryMap.flatMap { entry in
      // Its size does not count itself.
      UInt32(20).littleEndianBytes + entry.base.littleEndianBytes + entry.size.littleEndianBytes
        + entry.kind.rawValue.littleEndianBytes
    }
    put(44, UInt32(truncatingIfNeeded: map.count))
    put(48, append(map))
    put(64, append(MultibootImage.loaderName))
    put(
      0,
      Information.memory | Information.commandLine | Information.modules | Information.memoryMap
        | Information.loaderName)
    return bytes
  }
}
