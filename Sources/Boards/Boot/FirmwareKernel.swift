import DeviceKit
import Engines

/// A kernel that firmware starts: an option ROM, and what it loads through fw_cfg. A bzImage runs from its 16-bit entry on and
/// asks firmware about the machine itself; its parts are at the keys that QEMU has for them. Any other kernel is loaded as
/// the boot plan says, and begins in the plan's state.
public struct FirmwareKernel: Sendable {
  /// Bytes at the end of the RAM below 4 GiB that are left to firmware's tables. SeaBIOS takes 256 KiB.
  public static let firmwareMemory: UInt64 = 1 << 20

  /// fw_cfg items of a bzImage: where each part goes, its bytes, and how many they are.
  private enum Item {
    case kernel, ramdisk, commandLine, setup

    var keys: (address: UInt16, size: UInt16, data: UInt16) {
      switch self {
      case .kernel: (0x07, 0x08, 0x11)
      case .ramdisk: (0x0A, 0x0B, 0x12)
      case .commandLine: (0x13, 0x14, 0x15)
      case .setup: (0x16, 0x17, 0x18)
      }
    }
  }

  /// fw_cfg items of a boot plan, at keys that QEMU does not use; START, LOADS and LOAD_DATA of the ROM.
  private enum PlanItem {
    static let start: UInt16 = 0x1A
    static let loads: UInt16 = 0x1B
    static let data: UInt16 = 0x1C
    /// What the ROM has room for.
    static let maximumLoads = 490
  }

  /// Where the setup code is loaded to (boot.rst, "The memory layout"), what it may have there, and where its heap and
  /// stack end: HEAP_END of the ROM. The command line is behind.
  private static let setupAddress: UInt64 = 0x1_0000
  private static let setupLimit = 0x8000
  private static let heapEnd: UInt16 = 0xE000

  private let kernel: KernelFile
  private let ramdisks: [KernelFile]
  private let machine: BootMachine

  /// - Parameter machine: as the recipe describes it, with the command line; its ramdisks are those given here.
  public init(kernel: KernelFile, ramdisks: [KernelFile], machine: BootMachine) {
    self.kernel = kernel
    self.ramdisks = ramdisks
    var machine = machine
    machine.ramdisks = ramdisks.map { BootMachine.Ramdisk(name: $0.name, size: $0.count) }
    self.machine = machine
  }

  /// Checks the kernel and shows it to firmware, before the devices are reset.
  public func offer(to firmware: FirmwareFiles) throws(BootError) {
    do throws(BootError) {
      let image = try KernelImage(kernel)
      if case .linux(let linux) = image {
        try offer(linux, to: firmware)
      } else {
        try offer(try image.plan(kernel, machine), to: firmware)
      }
    } catch {
      throw BootError("\(kernel.name): \(error)")
    }
    firmware.add(KernelROM.fileName, KernelROM.image)
  }

  // MARK: bzImage

  private func offer(_ linux: LinuxKernel, to firmware: FirmwareFiles) throws(BootError) {
    guard linux.offset <= UInt64(Self.setupLimit) else {
      throw BootError(
        "its setup code has \(linux.offset) bytes and at most \(Self.setupLimit) can be loaded: start it in --mode pv")
    }
    // It is loaded to 1 MiB, and moves itself to where it unpacks itself.
    let used = max(LowMemory.megabyte &+ linux.count, linux.loadAddress &+ linux.initialSize)
    try machine.require(used)
    var ramdisk: Range<UInt64> = 0..<0
    let size = machine.joinedRamdisks
    if size > 0 {
      let address = try machine.placeRamdisk(
        size, from: used, below: linux.header.highestRamdisk &+ 1, mayBeHigh: false)
      ramdisk = address..<address &+ size
    }
    let commandLine = try BootPlan.Load.commandLine(machine.arguments, limit: linux.header.commandLineLimit)
    var setup = try kernel.bytes(0, Int(linux.offset), "setup code").bytes
    SetupHeader.complete(
      &setup, code32: UInt32(truncatingIfNeeded: LowMemory.megabyte), heapEnd: Self.heapEnd,
      commandLine: UInt32(truncatingIfNeeded: commandLine.address), ramdisk: ramdisk)

    add(.setup, [BootPlan.Load(setup, at: Self.setupAddress)], to: firmware)
    add(.commandLine, [commandLine], to: firmware)
    let body = BootPlan.Load(address: LowMemory.megabyte, count: linux.count, source: .kernel(offset: linux.offset))
    add(.kernel, [body], to: firmware)
    add(.ramdisk, BootPlan.Load.ramdisks(machine, at: ramdisk.lowerBound), to: firmware)
  }

  /// Loads that go one behind the other.
  private func add(_ item: Item, _ loads: [BootPlan.Load], to firmware: FirmwareFiles) {
    let data = LoadStream(loads, kernel: kernel, ramdisks: ramdisks)
    firmware.add(item: item.keys.address, UInt32(truncatingIfNeeded: loads.first?.address ?? 0).littleEndianBytes)
    firmware.add(item: item.keys.size, UInt32(truncatingIfNeeded: data.count).littleEndianBytes)
    firmware.add(item: item.keys.data, data.source)
  }

  // MARK: Other kernels

  private func offer(_ plan: BootPlan, to firmware: FirmwareFiles) throws(BootError) {
    let loads = plan.loads.filter { $0.count > 0 }
    guard loads.count <= PlanItem.maximumLoads, loads.allSatisfy({ $0.end <= PCMemoryLayout.highMemoryBase }) else {
      throw BootError("it has too many parts, or one above 4 GiB, for firmware to load: start it in --mode pv")
    }
    guard let start = Self.record(plan.start, loads: loads.count) else { return }
    firmware.add(item: PlanItem.start, start)
    firmware.add(
      item: PlanItem.loads,
      loads.flatMap { load in
        UInt32(truncatingIfNeeded: load.address).littleEndianBytes
          + UInt32(truncatingIfNeeded: load.count).littleEndianBytes
      })
    firmware.add(item: PlanItem.data, LoadStream(loads, kernel: kernel, ramdisks: ramdisks).source)
    firmware.add(item: Item.setup.keys.size, UInt32(0).littleEndianBytes)
  }

  /// What the ROM reads from the item `start`: PLAN_ENTRY and what follows it. Nil: no state that a plan has.
  private static func record(_ start: StartState, loads: Int) -> [UInt8]? {
    func record(
      _ entry: UInt64, pageTables: UInt64, eax: UInt32, ebx: UInt32, esi: UInt32, gdt: UInt64
    ) -> [UInt8] {
      let words = [UInt32(loads), UInt32(truncatingIfNeeded: pageTables), eax, ebx, esi]
      let limit = UInt16(StartState.descriptorTable(is64Bit: false).count * 8 - 1)
      return entry.littleEndianBytes + words.flatMap(\.littleEndianBytes) + limit.littleEndianBytes
        + UInt32(truncatingIfNeeded: gdt).littleEndianBytes
    }
    switch start {
    case .resetVector: return nil
    case .protected(let eip, let eax, let ebx, let esi, let gdt):
      return record(UInt64(eip), pageTables: 0, eax: eax, ebx: ebx, esi: esi, gdt: gdt)
    case .long(let rip, let rsi, let pageTables, let gdt):
      return record(
        rip, pageTables: pageTables, eax: 0, ebx: 0, esi: UInt32(truncatingIfNeeded: rsi), gdt: gdt)
    }
  }
}

/// The bytes of loads one behind the other, read where they are.
private struct LoadStream: Sendable {
  private let parts: [(start: UInt64, load: BootPlan.Load)]
  private let kernel: KernelFile
  private let ramdisks: [KernelFile]
  let count: UInt64

  init(_ loads: [BootPlan.Load], kernel: KernelFile, ramdisks: [KernelFile]) {
    var parts: [(start: UInt64, load: BootPlan.Load)] = []
    var end: UInt64 = 0
    for load in loads {
      parts.append((end, load))
      end &+= load.count
    }
    self.parts = parts
    self.kernel = kernel
    self.ramdisks = ramdisks
    count = end
  }

  var source: FirmwareSource {
    FirmwareSource(count: Int(clamping: count)) { offset, buffer in read(UInt64(offset), into: buffer) }
  }

  /// Fills the buffer from `offset`; false: a file cannot be read.
  private func read(_ offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    let wanted = offset..<offset &+ UInt64(buffer.count)
    for (start, load) in parts {
      let range = wanted.clamped(to: start..<start &+ load.count)
      guard !range.isEmpty else { continue }
      let first = Int(range.lowerBound - offset)
      let target = UnsafeMutableRawBufferPointer(rebasing: buffer[first..<first + range.count])
      guard read(load.source, from: range.lowerBound - start, into: target) else { return false }
    }
    return true
  }

  private func read(_ source: BootPlan.Source, from offset: UInt64, into target: UnsafeMutableRawBufferPointer) -> Bool
  {
    switch source {
    case .bytes(let bytes):
      target.copyBytes(from: bytes[Int(offset)..<Int(offset) + target.count])
      return true
    case .kernel(let base): return (try? kernel.read(base &+ offset, into: target)) != nil
    case .ramdisk(let index):
      return ramdisks.indices.contains(index) && (try? ramdisks[index].read(offset, into: target)) != nil
    case .zero, .cleared:
      target.initializeMemory(as: UInt8.self, repeating: 0)
      return true
    // Nothing is unpacked for firmware.
    case .unpacked: return false
    }
  }
}
