import DeviceKit

/// A Linux kernel that firmware starts: an option ROM, and what it loads through fw_cfg, at the keys that QEMU has for it.
/// The kernel runs from its 16-bit entry on, and asks firmware about the machine itself.
public struct FirmwareKernel: Sendable {
  /// Bytes at the end of the RAM below 4 GiB that are left to firmware's tables. SeaBIOS takes 256 KiB.
  public static let firmwareMemory: UInt64 = 1 << 20

  /// fw_cfg items: where each part goes, its bytes, and how many they are.
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
      guard case .linux(let linux) = try KernelImage(kernel) else {
        throw BootError("firmware starts only a bzImage: start an ELF or multiboot kernel in --mode pv")
      }
      try offer(linux, to: firmware)
    } catch {
      throw BootError("\(kernel.name): \(error)")
    }
  }

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
    guard
      case .bytes(let commandLine) = try BootPlan.Load.commandLine(
        machine.arguments, limit: linux.header.commandLineLimit
      ).source
    else { return }
    var setup = try kernel.bytes(0, Int(linux.offset), "setup code").bytes
    SetupHeader.complete(
      &setup, code32: UInt32(truncatingIfNeeded: LowMemory.megabyte), heapEnd: Self.heapEnd,
      commandLine: UInt32(truncatingIfNeeded: LowMemory.commandLine), ramdisk: ramdisk)

    add(.setup, at: Self.setupAddress, setup, to: firmware)
    add(.commandLine, at: LowMemory.commandLine, commandLine, to: firmware)
    let (file, offset) = (kernel, linux.offset)
    add(.kernel, at: LowMemory.megabyte, count: linux.count, to: firmware) { position, buffer in
      (try? file.read(offset &+ UInt64(position), into: buffer)) != nil
    }
    let joined = JoinedFiles(ramdisks)
    add(.ramdisk, at: ramdisk.lowerBound, count: size, to: firmware) { joined.read(UInt64($0), into: $1) }
    firmware.add(LinuxROM.fileName, LinuxROM.image)
  }

  private func add(_ item: Item, at address: UInt64, _ bytes: [UInt8], to firmware: FirmwareFiles) {
    describe(item, address, UInt64(bytes.count), to: firmware)
    firmware.add(item: item.keys.data, bytes)
  }

  private func add(
    _ item: Item, at address: UInt64, count: UInt64, to firmware: FirmwareFiles,
    read: @escaping @Sendable (_ offset: Int, _ buffer: UnsafeMutableRawBufferPointer) -> Bool
  ) {
    describe(item, address, count, to: firmware)
    firmware.add(item: item.keys.data, FirmwareSource(count: Int(clamping: count), read: read))
  }

  private func describe(_ item: Item, _ address: UInt64, _ size: UInt64, to firmware: FirmwareFiles) {
    firmware.add(item: item.keys.address, UInt32(truncatingIfNeeded: address).littleEndianBytes)
    firmware.add(item: item.keys.size, UInt32(truncatingIfNeeded: size).littleEndianBytes)
  }
}

/// Files one behind the other, each on a multiple of four, with zeroes between them.
private struct JoinedFiles: Sendable {
  private let parts: [(start: UInt64, file: KernelFile)]

  init(_ files: [KernelFile]) {
    var parts: [(start: UInt64, file: KernelFile)] = []
    var end: UInt64 = 0
    for file in files {
      let start = BootMachine.aligned(end, 4)
      parts.append((start, file))
      end = start &+ file.count
    }
    self.parts = parts
  }

  /// Fills the buffer from `offset`; false: a file cannot be read.
  func read(_ offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    buffer.initializeMemory(as: UInt8.self, repeating: 0)
    let wanted = offset..<offset &+ UInt64(buffer.count)
    for part in parts {
      let range = wanted.clamped(to: part.start..<part.start &+ part.file.count)
      guard !range.isEmpty else { continue }
      let first = Int(range.lowerBound - offset)
      let target = UnsafeMutableRawBufferPointer(rebasing: buffer[first..<first + range.count])
      guard (try? part.file.read(range.lowerBound - part.start, into: target)) != nil else { return false }
    }
    return true
  }
}
