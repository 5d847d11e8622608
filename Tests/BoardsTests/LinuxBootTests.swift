import Engines
import GuestMemory
import LinuxSystem
import TestKit
import Testing

@testable import Boards

@Suite struct LinuxBootTests {
  private typealias Kernels = KernelFixtures

  @Test func aBzImageStartsAtIts64BitEntryWithTheZeroPageByRSI() throws {
    let plan = try Kernels.plan(Kernels.bzImage(), Kernels.machine(arguments: "console=ttyS0"))
    guard case .long(let rip, let rsi, let tables, let gdt) = plan.start else { throw BootError("\(plan.start)") }
    #expect(rip == 0x100_0200)
    #expect(plan.loads(from: .kernel(offset: 1024)).map(\.address) == [0x100_0000])
    let page = try #require(plan.bytes(at: rsi))
    #expect(page.count == 4096)
    #expect(page.integer(0x202, as: UInt32.self) == SetupHeader.signature)
    #expect(page.integer(0x210, as: UInt8.self) == 0xFF)
    #expect(plan.text(at: UInt64(page.integer(0x228, as: UInt32.self))) == "console=ttyS0")
    // RAM to the VGA window, what is reserved, RAM from 1 MiB.
    #expect(page.integer(0x1E8, as: UInt8.self) == 3)
    #expect(page.integer(0x2D0 + 40, as: UInt64.self) == 1 << 20)
    #expect(page.integer(0x2D0 + 48, as: UInt64.self) == 63 << 20)
    // The page that maps the kernel, and the 64-bit code segment.
    let map = try #require(plan.bytes(at: tables))
    #expect(map.integer(0x2000 + 8 * 8, as: UInt64.self) == 8 << 21 | 0x83)
    #expect(try #require(plan.bytes(at: gdt)).integer(16, as: UInt64.self) >> 53 & 1 == 1)
  }

  @Test func aKernelWithoutThe64BitEntryStartsInProtectedMode() throws {
    let plan = try Kernels.plan(Kernels.bzImage(loadFlags64: 0), Kernels.machine())
    #expect(plan.start == .protected(eip: 0x100_0000, esi: UInt32(LowMemory.zeroPage), gdt: LowMemory.gdt))
  }

  @Test func ramdisksAreJoinedOnMultiplesOfFourBelowTheEndOfMemory() throws {
    let plan = try Kernels.plan(Kernels.bzImage(), Kernels.machine(ramdisks: [5, 4096]))
    let page = try #require(plan.bytes(at: LowMemory.zeroPage))
    let address = UInt64(page.integer(0x218, as: UInt32.self))
    #expect(page.integer(0x21C, as: UInt32.self) == 8 + 4096)
    #expect(address == 64 << 20 - 8192)
    #expect(plan.loads(from: .ramdisk(0)).map(\.address) == [address])
    #expect(plan.loads(from: .ramdisk(1)).map(\.address) == [address + 8])
  }

  @Test func aRamdiskThatFitsOnlyAbove4GiBGoesThereWhereTheKernelTakesIt() throws {
    let machine = try Kernels.machine(megabytes: 8192, ramdisks: [3 << 30])
    let page = try #require(try Kernels.plan(Kernels.bzImage(), machine).bytes(at: LowMemory.zeroPage))
    let address = UInt64(page.integer(0x218, as: UInt32.self)) | UInt64(page.integer(0x0C0, as: UInt32.self)) << 32
    #expect(address == 9 << 30 - 3 << 30)
    #expect(throws: BootError.self) { try Kernels.plan(Kernels.bzImage(loadFlags64: 1), machine) }
  }

  @Test func aVmlinuxStartsAtItsPhysicalEntry() throws {
    let kernel = Kernels.elf(
      entry: 0xFFFF_FFFF_8100_0040,
      [
        .init(
          address: 0x100_0000, virtual: 0xFFFF_FFFF_8100_0000, contents: [UInt8](repeating: 0xF4, count: 256),
          size: 4096)
      ])
    let plan = try Kernels.plan(kernel, Kernels.machine())
    guard case .long(let rip, _, _, _) = plan.start else { throw BootError("\(plan.start)") }
    #expect(rip == 0x100_0040)
    #expect(plan.loads.contains(BootPlan.Load(address: 0x100_0100, count: 4096 - 256, source: .zero)))
  }

  @Test func aPVHNoteChoosesThe32BitEntryAndStartInformation() throws {
    let kernel = Kernels.elf([
      .init(address: 0x100_0000, contents: [0xF4]), Kernels.pvhNote(0x100_0020),
    ])
    let plan = try Kernels.plan(
      kernel, Kernels.machine(arguments: "a b", ramdisks: [100, 100], rootPointer: 0xE_0000))
    #expect(
      plan.start == .protected(eip: 0x100_0020, ebx: UInt32(LowMemory.startInfo), gdt: LowMemory.gdt))
    let info = try #require(plan.bytes(at: LowMemory.startInfo))
    #expect(info.integer(0, as: UInt32.self) == 0x336E_C578)
    #expect(info.integer(12, as: UInt32.self) == 1)
    #expect(plan.text(at: info.integer(24)) == "a b")
    #expect(info.integer(32, as: UInt64.self) == 0xE_0000)
    let module = try #require(plan.bytes(at: info.integer(16)))
    #expect(plan.loads(from: .ramdisk(0)).map(\.address) == [module.integer(0)])
    #expect(module.integer(8, as: UInt64.self) == 200)
    #expect(try #require(plan.bytes(at: info.integer(40))).integer(48, as: UInt64.self) == 1 << 20)
  }

  struct Broken: Sendable, CustomTestStringConvertible {
    let kernel: [UInt8]
    let says: String
    var testDescription: String { says }
  }

  static let broken: [Broken] = [
    Broken(kernel: [], says: "empty"),
    Broken(kernel: Array("#!/bin/sh\n".utf8), says: "text file"),
    Broken(kernel: Array("070701".utf8) + [0], says: "initial ramdisk"),
    Broken(kernel: [0x51, 0x46, 0x49, 0xFB, 0], says: "disk image"),
    Broken(kernel: Kernels.bytes(1024, [(510, 0xAA55, 2)]), says: "disk image"),
    Broken(kernel: Kernels.bytes(4096, [(0x438, 0xEF53, 2)]), says: "disk image"),
    Broken(kernel: [0x1F, 0x8B, 8], says: "compressed"),
    Broken(kernel: Kernels.bytes(128, [(56, 0x644D_5241, 4)]), says: "ARM64"),
    Broken(kernel: Kernels.bytes(128, [(0x24, 0x016F_2818, 4)]), says: "for ARM,"),
    Broken(kernel: Kernels.elf(machine: 183, [.init(address: 1 << 24, contents: [0])]), says: "ARM64"),
    Broken(kernel: Kernels.elf(machine: 243, [.init(address: 1 << 24, contents: [0])]), says: "RISC-V"),
    Broken(kernel: Kernels.elf(type: 1, [.init(address: 1 << 24, contents: [0])]), says: "object file"),
    Broken(kernel: Kernels.elf([.init(type: 3, address: 0, contents: [0])]), says: "program for a running Linux"),
    Broken(kernel: Kernels.elf([]), says: "no program headers"),
    Broken(kernel: Kernels.elf([.init(address: 0x1000, contents: [0])]), says: "1 MiB or above"),
    Broken(kernel: Kernels.elf([.init(address: 1 << 24, contents: [0], size: 0x8000_0000)]), says: "--memory 4096M"),
    Broken(kernel: Kernels.elf([.init(address: 1 << 24, contents: [0, 0], size: 1)]), says: "contradicts itself"),
    Broken(
      kernel: Array(Kernels.elf([.init(address: 1 << 24, contents: [UInt8](repeating: 0, count: 64))]).dropLast(32)),
      says: "cut short"),
    Broken(kernel: Array(Kernels.bzImage().prefix(1024 + 100)), says: "cut short: 1124 of 5120 bytes"),
    Broken(kernel: Array(Kernels.bzImage().prefix(1000)), says: "cut short"),
    Broken(kernel: Kernels.bzImage(version: 0x0205), says: "older than Linux 2.6.22"),
    Broken(kernel: Kernels.bzImage(loadFlags: 0), says: "zImage"),
    Broken(kernel: Kernels.bzImage(initialSize: 80 << 20), says: "needs 96 MiB of memory and the guest has 64"),
    Broken(kernel: Kernels.bzImage(commandLineSize: 3), says: "5 bytes and the kernel takes 3"),
  ]

  @Test(arguments: broken) func aFileThatCannotBeStartedSaysWhatItIs(_ row: Broken) throws {
    let error = #expect(throws: BootError.self) { try Kernels.plan(row.kernel, Kernels.machine()) }
    #expect(error?.description.contains(row.says) == true, "\(String(describing: error))")
    #expect(error?.description.contains("\n") == false)
  }

  @Test func aRamdiskThatDoesNotFitSaysHowMuchMemoryWouldDo() throws {
    let error = #expect(throws: BootError.self) {
      try Kernels.plan(Kernels.bzImage(), Kernels.machine(megabytes: 64, ramdisks: [60 << 20]))
    }
    #expect(error?.description.contains("60 MiB does not fit") == true)
    #expect(error?.description.contains("--memory 128M") == true)
  }

  @Test func anyDamageOfAHeaderIsAnErrorAndNotTheEnd() throws {
    // Every byte of the headers, with values that are extreme for a field.
    let machine = try Kernels.machine()
    let kernels = [
      Kernels.bzImage(payload: (0, 4000)),
      Kernels.elf([.init(address: 0x100_0000, contents: [0xF4], size: 4096), Kernels.pvhNote(0x100_0000)]),
    ]
    for kernel in kernels {
      for offset in 0..<min(kernel.count, 0x280) {
        for value in [0, 1, 0x7F, 0x80, 0xFF] as [UInt8] {
          var damaged = kernel
          damaged[offset] = value
          _ = try? Kernels.plan(damaged, machine)
        }
      }
    }
  }
}
