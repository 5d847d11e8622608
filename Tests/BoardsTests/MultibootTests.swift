import Engines
import Testing

@testable import Boards

@Suite struct MultibootTests {
  private typealias Kernels = KernelFixtures

  private static let magic1: UInt64 = 0x1BAD_B002
  private static let magic2: UInt64 = 0xE852_50D6

  /// A header of version 1 with its addresses, 16 bytes into a file of 4 KiB.
  private func header1(flags: UInt64, addresses: [UInt64] = []) -> [UInt8] {
    let checksum = (0 &- Self.magic1 &- flags) & 0xFFFF_FFFF
    let fields = [Self.magic1, flags, checksum] + addresses
    return Kernels.bytes(4096, fields.enumerated().map { (16 + $0 * 4, $1, 4) })
  }

  /// A header of version 2 with these tags, 8 bytes into a file of 4 KiB.
  private func header2(_ tags: [UInt8], architecture: UInt64 = 0) -> [UInt8] {
    let length = UInt64(16 + tags.count)
    let checksum = (0 &- Self.magic2 &- architecture &- length) & 0xFFFF_FFFF
    var file = Kernels.bytes(4096, [(8, Self.magic2, 4), (12, architecture, 4), (16, length, 4), (20, checksum, 4)])
    file.replaceSubrange(24..<24 + tags.count, with: tags)
    return file
  }

  private func tag(_ type: UInt64, flags: UInt64 = 0, _ words: [UInt64] = []) -> [UInt8] {
    let size = 8 + words.count * 4
    return Kernels.bytes(
      (size + 7) & ~7,
      [(0, type, 2), (2, flags, 2), (4, UInt64(size), 4)] + words.enumerated().map { (8 + $0 * 4, $1, 4) })
  }

  /// The addresses of a file that stands at 1 MiB from its header on.
  private static let addresses: [UInt64] = [0x10_0000, 0x10_0000, 0x10_0800, 0x10_2000, 0x10_0123]

  @Test func aFileWithAddressesIsLoadedByThem() throws {
    let plan = try Kernels.plan(header1(flags: 1 << 16 | 3, addresses: Self.addresses), Kernels.machine())
    #expect(plan.loads.contains(BootPlan.Load(address: 0x10_0000, count: 0x800, source: .kernel(offset: 16))))
    #expect(plan.loads.contains(BootPlan.Load(address: 0x10_0800, count: 0x1800, source: .zero)))
    #expect(
      plan.start
        == .protected(
          eip: 0x10_0123, eax: 0x2BAD_B002, ebx: UInt32(LowMemory.multiboot), gdt: LowMemory.gdt))
  }

  @Test func theInformationHasCommandLineModulesAndMemory() throws {
    let plan = try Kernels.plan(
      header1(flags: 1 << 16 | 3, addresses: Self.addresses), Kernels.machine(arguments: "a b", ramdisks: [100, 5000]))
    let info = try #require(plan.bytes(at: LowMemory.multiboot))
    #expect(info.integer(0, as: UInt32.self) & 0x24D == 0x24D)
    #expect(info.integer(8, as: UInt32.self) == 63 << 10)
    #expect(plan.text(at: UInt64(info.integer(16, as: UInt32.self))) == "a b")
    let modules = try #require(plan.bytes(at: UInt64(info.integer(24, as: UInt32.self))))
    #expect(modules.integer(0, as: UInt32.self) == 0x10_2000)
    #expect(modules.integer(4, as: UInt32.self) == 0x10_2000 + 100)
    #expect(modules.integer(16, as: UInt32.self) == 0x10_3000)
    #expect(plan.text(at: UInt64(modules.integer(24, as: UInt32.self))) == "rd1")
    #expect(plan.loads(from: .ramdisk(1)).map(\.address) == [0x10_3000])
    // 24 bytes an entry, without the four of its size.
    #expect(info.integer(44, as: UInt32.self) == 3 * 24)
  }

  @Test func aKernelOfVersion2GetsTags() throws {
    let tags =
      tag(1, [1, 3, 6]) + tag(2, [0x10_0000, 0x10_0000, 0, 0]) + tag(3, [0x10_0040]) + tag(6) + tag(0)
    let table = Array("RSD PTR ".utf8) + [UInt8](repeating: 0, count: 12)
    let machine = try Kernels.machine(
      ramdisks: [100], tables: [BootPlan.Load(table, at: 0xE_0000)], rootPointer: 0xE_0000)
    let plan = try Kernels.plan(header2(tags), machine)
    #expect(
      plan.start
        == .protected(
          eip: 0x10_0040, eax: 0x36D7_6289, ebx: UInt32(LowMemory.multiboot), gdt: LowMemory.gdt))
    #expect(plan.loads.contains(BootPlan.Load(address: 0x10_0000, count: 4096 - 8, source: .kernel(offset: 8))))
    let info = try #require(plan.bytes(at: LowMemory.multiboot))
    var types: [UInt32] = []
    var offset = 8
    while offset < Int(info.integer(0, as: UInt32.self)) {
      types.append(info.integer(offset))
      offset += (Int(info.integer(offset + 4, as: UInt32.self)) + 7) & ~7
    }
    #expect(types == [1, 2, 3, 4, 6, 14, 0])
    #expect(offset == Int(info.integer(0, as: UInt32.self)))
  }

  @Test func anELFFileWithAHeaderIsLoadedBySegments() throws {
    let contents = Array(header1(flags: 3).prefix(64))
    let kernel = Kernels.elf(is64Bit: false, entry: 0x20_0000, [.init(address: 0x20_0000, contents: contents)])
    let plan = try Kernels.plan(kernel, Kernels.machine())
    guard case .protected(let eip, let eax, _, _, _) = plan.start else { throw BootError("\(plan.start)") }
    #expect(eip == 0x20_0000 && eax == 0x2BAD_B002)
  }

  @Test func whatAKernelNeedsAndThisMachineLacksIsSaid() throws {
    let tags2 = tag(2, [0x10_0000, 0x10_0000, 0, 0]) + tag(3, [0x10_0040])
    let rows: [([UInt8], String)] = [
      (header1(flags: 1 << 16 | 4, addresses: Self.addresses), "video mode"),
      (header1(flags: 1 << 16 | 8, addresses: Self.addresses), "features 0x8"),
      (header1(flags: 3), "no ELF file and has no addresses"),
      (header1(flags: 1 << 16, addresses: [0, 0x10_0000, 0, 0, 0]), "starts before the file"),
      (header1(flags: 1 << 16, addresses: [0x10_0000, 0x10_0000, 0x20_0000, 0, 0]), "cut short"),
      (header1(flags: 1 << 16, addresses: [0x10_0000, 0x10_0000, 0, 0xF000_0000, 0]), "no guest has as much"),
      (header2(tags2, architecture: 4), "MIPS"),
      (header2(tags2 + tag(5, [640, 480, 32]) + tag(0)), "needs a display"),
      (header2(tags2 + tag(4, [1]) + tag(0)), "needs a display"),
      (header2(tags2 + tag(77) + tag(0)), "tag of type 77"),
      (header2(tags2 + tag(1, [99]) + tag(0)), "information of type 99"),
    ]
    for (kernel, says) in rows {
      let error = #expect(throws: BootError.self) { try Kernels.plan(kernel, Kernels.machine()) }
      #expect(error?.description.contains(says) == true, "\(String(describing: error)), not \(says)")
    }
    // The same tags where they are optional.
    _ = try Kernels.plan(
      header2(tags2 + tag(5, flags: 1, [640, 480, 32]) + tag(77, flags: 1) + tag(0)), Kernels.machine())
  }

  @Test func anyDamageOfAHeaderIsAnErrorAndNotTheEnd() throws {
    let machine = try Kernels.machine(ramdisks: [100])
    let tags = tag(1, [1, 3, 6]) + tag(2, [0x10_0000, 0x10_0000, 0, 0]) + tag(3, [0x10_0040]) + tag(0)
    let whole = header2(tags)
    for offset in 24..<24 + tags.count {
      for value in [0, 1, 7, 0x7F, 0x80, 0xFF] as [UInt8] {
        var damaged = whole
        damaged[offset] = value
        _ = try? Kernels.plan(damaged, machine)
      }
    }
    for word in 0..<5 {
      for value in [0, 0x10_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF] as [UInt64] {
        var addresses = Self.addresses
        addresses[word] = value
        _ = try? Kernels.plan(header1(flags: 1 << 16, addresses: addresses), machine)
      }
    }
  }
}
