/// What a file is that shall be started.
enum KernelImage: Sendable {
  case linux(LinuxKernel)
  case multiboot1(Multiboot1)
  case multiboot2(Multiboot2)
  case elf(ELFImage)

  init(_ file: KernelFile) throws(BootError) {
    guard file.count > 0 else { throw BootError("the file is empty") }
    if let kernel = try LinuxKernel(file) {
      self = .linux(kernel)
      return
    }
    let head = try file.prefix(Self.headSize)
    // Its own note says best how an ELF file wants to start.
    let image = head.has(ELFImage.signature) ? try ELFImage(file) : nil
    if let image, image.pvhEntry != nil {
      self = .elf(image)
    } else if let kernel = Multiboot2(head) {
      self = .multiboot2(kernel)
    } else if let kernel = Multiboot1(head) {
      self = .multiboot1(kernel)
    } else if let image {
      self = .elf(image)
    } else {
      throw BootError(Self.description(head))
    }
  }

  /// Enough for a multiboot header and for what tells a disk image.
  private static let headSize = 0x9000

  func plan(_ file: KernelFile, _ machine: BootMachine) throws(BootError) -> BootPlan {
    switch self {
    case .linux(let kernel): return try kernel.plan(machine)
    case .multiboot1(let kernel): return try kernel.plan(file, machine)
    case .multiboot2(let kernel): return try kernel.plan(file, machine)
    case .elf(let image):
      if let entry = image.pvhEntry { return try PVH.plan(image, entry: entry, machine) }
      return try image.linuxPlan(machine)
    }
  }

  /// What a file is that is no kernel.
  private static func description(_ head: Fields) -> String {
    let wanted = "give a bzImage, an ELF kernel or a multiboot kernel"
    func isA(_ what: String, _ advice: String = wanted) -> String { "this is \(what), not a kernel: \(advice)" }
    func isFor(_ machine: String) -> String { "this kernel is for \(machine), and the guest is an x86-64 PC" }
    // Documentation/arch/arm64/booting.rst, arch/riscv/boot-image-header.rst, arm/arm/booting.rst.
    if head.has("ARM\u{64}", at: 56) { return isFor("ARM64 (AArch64)") }
    if head.has("RSC\u{5}", at: 56) { return isFor("RISC-V") }
    if head.integer(0x24, as: UInt32.self) == 0x016F_2818 { return isFor("ARM") }
    if head.has([0x27, 0x05, 0x19, 0x56]) { return isA("a U-Boot image") }
    if head.has([0x1F, 0x8B]) || head.has([0xFD, 0x37, 0x7A, 0x58, 0x5A]) || head.has([0x28, 0xB5, 0x2F, 0xFD])
      || head.has("BZh") || head.has([0x02, 0x21, 0x4C, 0x18])
    {
      return isA("a compressed file", "unpack it, or give it to --initrd if it is an initial ramdisk")
    }
    if head.has("070701") || head.has("070702") { return isA("an initial ramdisk", "give it to --initrd") }
    let disk = "give it without --kernel to boot it"
    if head.has([0x51, 0x46, 0x49, 0xFB]) || head.has("KDMV") || head.has("conectix") || head.has("<<< ") {
      return isA("a disk image", disk)
    }
    if head.has("CD001", at: 0x8001) { return isA("a CD-ROM image", "give it to --cdrom to boot it") }
    if head.has("MZ") { return isA("an EFI program") }
    if head.has([0x55, 0xAA], at: 0x1FE) || head.has("EFI PART", at: 512) || head.has([0x53, 0xEF], at: 0x438) {
      return isA("a disk image", disk)
    }
    let isText = head.bytes.allSatisfy { 0x20..<0x7F ~= $0 || 9...13 ~= $0 || $0 >= 0x80 }
    return isText ? isA("a text file") : "this is no kernel that can be started: \(wanted)"
  }
}
