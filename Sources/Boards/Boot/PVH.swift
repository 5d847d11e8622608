import Engines

/// The start of a PVH guest: 32-bit protected mode, EBX at the start information (Xen, docs/misc/pvh.pandoc and
/// xen/include/public/arch-x86/hvm/start_info.h).
enum PVH {
  private static let magic: UInt32 = 0x336E_C578
  private static let version: UInt32 = 1
  private static let startInfoSize = 56
  private static let moduleSize = 32
  private static let mapLimit = 128

  static func plan(_ image: ELFImage, entry: UInt32, _ machine: BootMachine) throws(BootError) -> BootPlan {
    var loads = try image.loads(machine)
    // A Linux guest takes the first module only, so that ramdisks are one. Linux 32-bit finds it where it has mapped it.
    let size = machine.joinedRamdisks
    var module: [UInt8] = []
    if size > 0 {
      let address = try machine.placeRamdisk(
        size, from: image.extent.upperBound, below: PCMemoryLayout.maximumLowMemory, mayBeHigh: false)
      loads += BootPlan.Load.ramdisks(machine, at: address)
      module = address.littleEndianBytes + size.littleEndianBytes + [UInt8](repeating: 0, count: 16)
    }
    loads.append(try .commandLine(machine.arguments, limit: LowMemory.commandLineLimit - 1))
    let map = machine.memoryMap.prefix(mapLimit)
    let modules = LowMemory.startInfo + UInt64(startInfoSize)
    let entries = modules + UInt64(moduleSize)
    var info = magic.littleEndianBytes + version.littleEndianBytes
    info += UInt32(0).littleEndianBytes + UInt32(module.isEmpty ? 0 : 1).littleEndianBytes
    info += (module.isEmpty ? 0 : modules).littleEndianBytes + LowMemory.commandLine.littleEndianBytes
    info += (machine.rootPointer ?? 0).littleEndianBytes + entries.littleEndianBytes
    info += UInt32(map.count).littleEndianBytes + UInt32(0).littleEndianBytes
    info += module.isEmpty ? [UInt8](repeating: 0, count: moduleSize) : module
    for entry in map {
      info += entry.base.littleEndianBytes + entry.size.littleEndianBytes
      info += entry.kind.rawValue.littleEndianBytes + UInt32(0).littleEndianBytes
    }
    loads += [BootPlan.Load(info, at: LowMemory.startInfo), .gdt(is64Bit: false)] + machine.tables
    return BootPlan(
      loads: loads,
      start: .protected(
        eip: entry, ebx: UInt32(truncatingIfNeeded: LowMemory.startInfo), gdt: LowMemory.gdt))
  }
}
