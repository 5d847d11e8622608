import DeviceKit
import LinuxSystem
import MachineModel
import Testing

@testable import Boards

/// Kernels that firmware starts.
@Suite struct FirmwareKernelTests {
  private typealias Kernels = KernelFixtures

  private func machine(megabytes: UInt64 = 64, arguments: String = "quiet") throws -> BootMachine {
    try Recipe.bootMachine(MachineSpec(mode: .hvm, memory: megabytes << 20), arguments: arguments)
  }

  private func offer(
    _ kernel: [UInt8], ramdisks: [KernelFile] = [], _ machine: BootMachine
  ) throws -> FirmwareFiles.Contents {
    let firmware = FirmwareFiles()
    try FirmwareKernel(kernel: KernelFile(kernel), ramdisks: ramdisks, machine: machine).offer(to: firmware)
    return firmware.snapshot
  }

  private func number(_ contents: FirmwareFiles.Contents, _ key: UInt16) throws -> UInt64 {
    UInt64(Fields(bytes: try #require(contents.items[key])).integer(0, as: UInt32.self))
  }

  private func item(_ contents: FirmwareFiles.Contents, _ key: UInt16) throws -> [UInt8]? {
    bytes(try #require(contents.sources[key]))
  }

  private func bytes(_ source: FirmwareSource, from offset: Int = 0, _ count: Int? = nil) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0xEE, count: count ?? source.count - offset)
    return bytes.withUnsafeMutableBytes { source.read(offset, $0) } ? bytes : nil
  }

  @Test func theROMIsOneThatFirmwareTakes() throws {
    let rom = Fields(bytes: KernelROM.image)
    #expect(rom.has([0x55, 0xAA]))
    #expect(rom.count == Int(rom.bytes[2]) * 512)
    #expect(rom.bytes.reduce(0, &+) == 0)
    #expect(rom.integer(0x18, as: UInt16.self) == 0)
    let header = Int(rom.integer(0x1A, as: UInt16.self))
    #expect(rom.has("$PnP", at: header) && rom.bytes[header + 5] == 2)
    #expect(rom.bytes[header..<header + 32].reduce(0, &+) == 0)
    let entry = Int(rom.integer(header + 0x1A, as: UInt16.self))
    // CLI.
    #expect(entry > header && entry < rom.count && rom.bytes[entry] == 0xFA)
    let product = Int(rom.integer(header + 0x10, as: UInt16.self))
    #expect(rom.has("kernel of --kernel\0", at: product))
  }

  @Test func theSetupCodeCarriesTheHeaderThatTheLoaderFillsIn() throws {
    let body = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
    let contents = try offer(Kernels.bzImage(body: body), ramdisks: [KernelFile([7], name: "rd")], machine())
    #expect(contents.files[KernelROM.fileName] == KernelROM.image)
    let setup = Fields(bytes: try #require(try item(contents, 0x18)))
    #expect(try number(contents, 0x16) == 0x1_0000)
    #expect(try number(contents, 0x17) == 1024 && setup.count == 1024)
    #expect(setup.integer(0x210, as: UInt8.self) == 0xFF)
    #expect(setup.integer(0x211, as: UInt8.self) == 0x81)
    #expect(setup.integer(0x214, as: UInt32.self) == 0x10_0000)
    #expect(setup.integer(0x224, as: UInt16.self) == 0xDE00)
    #expect(UInt64(setup.integer(0x228, as: UInt32.self)) == (try number(contents, 0x13)))
    #expect(try item(contents, 0x15) == Array("quiet\0".utf8))
    #expect(try number(contents, 0x14) == 6)
    #expect(UInt64(setup.integer(0x218, as: UInt32.self)) == (try number(contents, 0x0A)))
    #expect(setup.integer(0x21C, as: UInt32.self) == 1)
    #expect(try number(contents, 0x07) == 0x10_0000)
    #expect(try number(contents, 0x08) == 5000)
    let kernel = try #require(contents.sources[0x11])
    #expect(bytes(kernel) == body)
    #expect(bytes(kernel, from: 4990, 3) == Array(body[4990..<4993]))
  }

  @Test func ramdisksAreJoinedOnMultiplesOfFourBelowFirmwaresTables() throws {
    let files = [[UInt8](repeating: 1, count: 5), [UInt8](repeating: 2, count: 4096)].map { KernelFile($0) }
    let contents = try offer(Kernels.bzImage(), ramdisks: files, machine())
    #expect(try number(contents, 0x0A) == 63 << 20 - 8192)
    #expect(try number(contents, 0x0B) == 8 + 4096)
    let ramdisk = try #require(contents.sources[0x12])
    let all = [1, 1, 1, 1, 1, 0, 0, 0] + [UInt8](repeating: 2, count: 4096)
    #expect(bytes(ramdisk) == all)
    for (offset, count) in [(0, 6), (4, 8), (5, 3), (7, 2), (4100, 4)] {
      #expect(bytes(ramdisk, from: offset, count) == Array(all[offset..<offset + count]))
    }
    #expect(try number(try offer(Kernels.bzImage(), machine()), 0x0B) == 0)
  }

  @Test func aRamdiskThatCannotBeReadIsAnErrorOfTheDevice() throws {
    let broken = KernelFile(name: "rd", count: 8) { (_, _) throws(BootError) in throw BootError("no") }
    let contents = try offer(Kernels.bzImage(), ramdisks: [broken], machine())
    #expect(try item(contents, 0x12) == nil)
  }

  @Test func otherKernelsAreAListOfLoadsAndAState() throws {
    let elf = Kernels.elf([
      .init(address: 0x100_0000, contents: [0xF4, 0xF5], size: 4096), Kernels.pvhNote(0x100_0020),
    ])
    let contents = try offer(elf, ramdisks: [KernelFile([1, 2, 3, 4])], machine())
    #expect(try number(contents, 0x17) == 0)
    let start = Fields(bytes: try #require(contents.items[0x1A]))
    #expect(start.integer(0, as: UInt64.self) == 0x100_0020)
    #expect(start.integer(12, as: UInt32.self) == 0, "no page tables")
    #expect(UInt64(start.integer(20, as: UInt32.self)) == LowMemory.startInfo)
    #expect(UInt64(start.integer(30, as: UInt32.self)) == LowMemory.gdt)
    #expect(start.count == 34)
    let table = Fields(bytes: try #require(contents.items[0x1B]))
    let count = Int(start.integer(8, as: UInt32.self))
    #expect(table.count == count * 8)
    let data = try #require(contents.sources[0x1C])
    var found: [UInt64: [UInt8]] = [:]
    var offset = 0
    for index in 0..<count {
      let size = Int(table.integer(index * 8 + 4, as: UInt32.self))
      found[UInt64(table.integer(index * 8, as: UInt32.self))] = bytes(data, from: offset, size)
      offset += size
    }
    #expect(offset == data.count)
    #expect(found[0x100_0000] == [0xF4, 0xF5])
    #expect(found[0x100_0002] == [UInt8](repeating: 0, count: 4094))
    #expect(found[63 << 20 - 4096] == [1, 2, 3, 4])
    let info = Fields(bytes: try #require(found[LowMemory.startInfo]))
    #expect(info.integer(32, as: UInt64.self) == 0, "the kernel looks for ACPI where the BIOS has it")
    // RAM to the VGA window, what is reserved below 1 MiB, RAM, firmware's.
    #expect(info.integer(48, as: UInt32.self) == 4)
    let map = Int(info.integer(40, as: UInt64.self) - LowMemory.startInfo)
    #expect(info.integer(map + 3 * 24, as: UInt64.self) == 63 << 20)
    #expect(info.integer(map + 3 * 24 + 16, as: UInt32.self) == 2)
  }

  @Test func aVmlinuxBeginsIn64BitMode() throws {
    let contents = try offer(Kernels.elf([.init(address: 0x100_0000, contents: [0xF4])]), machine())
    let start = Fields(bytes: try #require(contents.items[0x1A]))
    #expect(UInt64(start.integer(12, as: UInt32.self)) == LowMemory.pageTables)
    #expect(UInt64(start.integer(24, as: UInt32.self)) == LowMemory.zeroPage)
  }

  @Test func whatIsNoKernelSaysWhatItIs() throws {
    let error = #expect(throws: BootError.self) { try offer(Array("#!/bin/sh\n".utf8), machine()) }
    #expect(error?.description.contains("this is a text file, not a kernel") == true)
    let cut = Array(Kernels.bzImage().dropLast(512))
    #expect(throws: BootError("kernel: the kernel is cut short: 4608 of 5120 bytes are there")) {
      try offer(cut, machine())
    }
  }

  @Test func whatDoesNotFitSaysHowMuchMemoryWouldDo() throws {
    #expect(throws: BootError("kernel: the kernel needs 25 MiB of memory and the guest has 24: give it --memory 64M")) {
      try offer(Kernels.bzImage(), machine(megabytes: 24))
    }
    let ramdisk = KernelFile(name: "rd", count: 40 << 20) { (_, _) in }
    #expect(
      throws: BootError(
        "kernel: the initial ramdisk of 40 MiB does not fit into memory of 64 MiB beside the kernel: "
          + "give it --memory 128M")
    ) { try offer(Kernels.bzImage(), ramdisks: [ramdisk], machine()) }
    #expect(throws: BootError.self) {
      try offer(Kernels.bzImage(), machine(arguments: String(repeating: "x", count: 256)))
    }
  }

  @Test func setupCodeThatLeavesNoHeapIsRefused() throws {
    var kernel = Kernels.bzImage(body: [UInt8](repeating: 0x90, count: 0x1_0000))
    kernel[0x1F1] = 63
    kernel.replaceSubrange(0x1F4..<0x1F8, with: [0, 0, 0, 0])
    _ = try offer(kernel, machine())
    kernel[0x1F1] = 64
    #expect(throws: BootError.self) { try offer(kernel, machine()) }
  }
}
