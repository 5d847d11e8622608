import Engines

/// A kernel for the Multiboot2 Specification, version 2.0.
struct Multiboot2: Sendable {
  private static let headerMagic: UInt32 = 0xE852_50D6
  private static let bootMagic: UInt32 = 0x36D7_6289
  /// §3.1: the header is in the first 32768 bytes, on a multiple of eight.
  static let searchLimit = 32768
  private static let protectedModeI386: UInt32 = 0

  /// Types of the header's tags (§3.1.3 to §3.1.13).
  private enum HeaderTag {
    static let end: UInt16 = 0
    static let informationRequest: UInt16 = 1
    static let addresses: UInt16 = 2
    static let entry: UInt16 = 3
    static let consoleFlags: UInt16 = 4
    static let framebuffer: UInt16 = 5
    static let moduleAlignment: UInt16 = 6
    static let bootServices: UInt16 = 7
    static let entryEFI32: UInt16 = 8
    static let entryEFI64: UInt16 = 9
    static let relocatable: UInt16 = 10
    static let isOptional: UInt16 = 1
    static let consoleRequired: UInt32 = 1
  }

  /// Types of the information's tags (§3.6).
  private enum Tag {
    static let end: UInt32 = 0
    static let commandLine: UInt32 = 1
    static let loaderName: UInt32 = 2
    static let module: UInt32 = 3
    static let basicMemory: UInt32 = 4
    static let memoryMap: UInt32 = 6
    static let oldRootPointer: UInt32 = 14
    static let newRootPointer: UInt32 = 15
    /// The highest that the specification has.
    static let last: UInt32 = 21
  }

  private let offset: Int
  private let architecture: UInt32
  private let tags: Fields

  /// nil: there is no header in `head`, the file's first bytes.
  init?(_ head: Fields) {
    let found = stride(from: 0, to: min(head.count, Self.searchLimit) - 15, by: 8).first { offset in
      let words = (0..<4).map { head.integer(offset + $0 * 4, as: UInt32.self) }
      return words[0] == Self.headerMagic && words.reduce(0, &+) == 0
    }
    guard let found else { return nil }
    offset = found
    architecture = head.integer(found + 4)
    let length = max(16, Int(head.integer(found + 8, as: UInt32.self)))
    tags = Fields(bytes: Array(head.bytes[(found + 16)..<min(found + length, head.count)]))
  }

  func plan(_ file: KernelFile, _ machine: BootMachine) throws(BootError) -> BootPlan {
    guard architecture == Self.protectedModeI386 else {
      throw BootError("the multiboot kernel is for MIPS, and the guest is an x86-64 PC")
    }
    var addresses: MultibootImage.Addresses?
    var entry: UInt32?
    var position = 0
    while position <= tags.count - 8 {
      let type: UInt16 = tags.integer(position)
      let isOptional = tags.integer(position + 2, as: UInt16.self) & HeaderTag.isOptional != 0
      let size = Int(tags.integer(position + 4, as: UInt32.self))
      guard type != HeaderTag.end else { break }
      guard size >= 8 else { throw BootError("the multiboot header is damaged: a tag of \(size) bytes") }
      func word(_ index: Int) -> UInt32 { tags.integer(position + 8 + index * 4) }
      switch type {
      case HeaderTag.informationRequest where !isOptional:
        for index in 0..<min(size - 8, tags.count) / 4 where word(index) > Tag.last {
          throw BootError("the multiboot kernel needs information of type \(word(index)), which is not known")
        }
      case HeaderTag.addresses:
        addresses = MultibootImage.Addresses(
          header: word(0), load: word(1), loadEnd: word(2), bssEnd: word(3), entry: 0)
      case HeaderTag.entry: entry = word(0)
      case HeaderTag.consoleFlags where !isOptional && word(0) & HeaderTag.consoleRequired != 0,
        HeaderTag.framebuffer where !isOptional:
        throw BootError("the multiboot kernel needs a display: boot it by GRUB from a disk in --mode hvm")
      case HeaderTag.informationRequest, HeaderTag.consoleFlags, HeaderTag.framebuffer, HeaderTag.moduleAlignment,
        HeaderTag.bootServices, HeaderTag.entryEFI32, HeaderTag.entryEFI64, HeaderTag.relocatable:
        // Modules are on pages, EFI is not there, and the image is loaded where it is linked.
        break
      case _ where isOptional: break
      default: throw BootError("the multiboot kernel needs what a header tag of type \(type) says, which is not known")
      }
      position += (size + 7) & ~7
    }
    var image: MultibootImage
    if var addresses {
      guard let entry else { throw BootError("the multiboot header is damaged: it has addresses and no entry") }
      addresses.entry = entry
      image = try MultibootImage(addresses, headerOffset: UInt64(offset), file, machine)
    } else if let elf = try ELFImage(file) {
      image = try MultibootImage(elf, entry: entry, machine)
    } else {
      throw BootError("the multiboot kernel is no ELF file and has no addresses: it cannot be loaded")
    }
    let modules = try image.addModules(machine)
    return try image.plan(information(machine, modules), magic: Self.bootMagic, machine)
  }

  /// The information and its tags, each on a multiple of eight (§3.4).
  private func information(_ machine: BootMachine, _ modules: [Range<UInt64>]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8)
    func append(_ type: UInt32, _ body: [UInt8]) {
      bytes += type.littleEndianBytes + UInt32(truncatingIfNeeded: body.count + 8).littleEndianBytes + body
      while bytes.count % 8 != 0 { bytes.append(0) }
    }
    func text(_ string: String) -> [UInt8] { Array(string.utf8) + [0] }
    append(Tag.commandLine, text(machine.arguments))
    append(Tag.loaderName, text(MultibootImage.loaderName))
    for (module, ramdisk) in zip(modules, machine.ramdisks) {
      append(
        Tag.module,
        UInt32(truncatingIfNeeded: module.lowerBound).littleEndianBytes
          + UInt32(truncatingIfNeeded: module.upperBound).littleEndianBytes + text(ramdisk.name))
    }
    let memory = MultibootImage.basicMemory(machine)
    append(Tag.basicMemory, memory.lower.littleEndianBytes + memory.upper.littleEndianBytes)
    // The size and version of its entries come first.
    append(
      Tag.memoryMap,
      UInt32(24).littleEndianBytes + UInt32(0).littleEndianBytes
        + machine.memoryMap.flatMap { entry in
          entry.base.littleEndianBytes + entry.size.littleEndianBytes + entry.kind.rawValue.littleEndianBytes
            + UInt32(0).littleEndianBytes
        })
    if let table = machine.rootPointerTable {
      append(table.count == 20 ? Tag.oldRootPointer : Tag.newRootPointer, table)
    }
    append(Tag.end, [])
    bytes.replaceSubrange(0..<4, with: UInt32(truncatingIfNeeded: bytes.count).littleEndianBytes)
    return bytes
  }
}
