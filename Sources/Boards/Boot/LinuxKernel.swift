import Engines

/// A Linux kernel as a bzImage has it (Documentation/arch/x86/boot.rst).
struct LinuxKernel: Sendable {
  private typealias Field = SetupHeader.Field

  let header: SetupHeader
  /// Where the part that runs in protected mode stands in the file.
  let offset: UInt64
  let count: UInt64
  /// Where it runs without being moved.
  let preferredAddress: UInt64
  /// Bytes from the load address that it needs before it reads the memory map.
  let initialSize: UInt64

  /// nil: the file is no bzImage.
  init?(_ file: KernelFile) throws(BootError) {
    header = SetupHeader(try file.prefix(Field.limit))
    let fields = header.fields
    guard fields.integer(Field.bootFlag, as: UInt16.self) == 0xAA55,
      fields.integer(Field.magic, as: UInt32.self) == SetupHeader.signature
    else { return nil }
    guard header.version >= 0x0206 else {
      throw BootError("the kernel is older than Linux 2.6.22 (boot protocol 2.06): boot it from a disk in --mode hvm")
    }
    guard header.isLoadedHigh else {
      throw BootError("this is a zImage, which is loaded below 1 MiB: build a bzImage of the kernel")
    }
    let sectors = UInt64(fields.integer(Field.setupSectors, as: UInt8.self))
    offset = ((sectors == 0 ? 4 : sectors) + 1) * 512
    guard offset < file.count else { throw BootError("the kernel is cut short: it ends within its setup code") }
    count = file.count - offset
    let paragraphs = UInt64(fields.integer(Field.systemSize, as: UInt32.self)) * 16
    // The last paragraph need not be whole.
    guard count + 15 >= paragraphs else {
      throw BootError("the kernel is cut short: \(file.count) of \(paragraphs + offset) bytes are there")
    }
    if header.version >= 0x020A {
      preferredAddress = fields.integer(Field.preferredAddress)
      initialSize = max(count, UInt64(fields.integer(Field.initialSize, as: UInt32.self)))
    } else {
      preferredAddress = LowMemory.megabyte
      initialSize = count
    }
  }

  /// Starts the kernel's own stub, which unpacks the rest.
  func plan(_ machine: BootMachine) throws(BootError) -> BootPlan {
    let address = loadAddress
    let end = address &+ initialSize
    try machine.require(end)
    let start = UInt32(truncatingIfNeeded: address)
    var loads = try header.zeroPage(machine, kernel: address..<end, code32: start)
    loads.append(BootPlan.Load(address: address, count: count, source: .kernel(offset: offset)))
    return SetupHeader.start(&loads, entry: address, has64BitEntry: header.has64BitEntry)
  }

  /// Below 4 GiB, whatever the header says.
  var loadAddress: UInt64 {
    guard preferredAddress >= LowMemory.megabyte, preferredAddress < PCMemoryLayout.maximumLowMemory else {
      return LowMemory.megabyte
    }
    return preferredAddress
  }
}

extension SetupHeader {
  /// The 64-bit entry is 200h behind the 32-bit one (boot.rst §1.15, §1.14).
  static func start(_ loads: inout [BootPlan.Load], entry: UInt64, has64BitEntry: Bool) -> BootPlan {
    start(&loads, at: has64BitEntry ? entry + 0x200 : entry, is64Bit: has64BitEntry)
  }

  /// Starts a kernel that finds the zero page by RSI.
  static func start(_ loads: inout [BootPlan.Load], at entry: UInt64, is64Bit: Bool) -> BootPlan {
    loads.append(.gdt(is64Bit: is64Bit))
    guard is64Bit else {
      return BootPlan(
        loads: loads,
        start: .protected(
          eip: UInt32(truncatingIfNeeded: entry), esi: UInt32(truncatingIfNeeded: LowMemory.zeroPage),
          gdt: LowMemory.gdt))
    }
    loads.append(.identityMap)
    return BootPlan(
      loads: loads,
      start: .long(
        rip: entry, rsi: LowMemory.zeroPage, pageTables: LowMemory.pageTables, gdt: LowMemory.gdt))
  }
}
