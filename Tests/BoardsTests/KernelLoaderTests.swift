import Engines
import GuestMemory
import LinuxSystem
import TestKit
import Testing

@testable import Boards

@Suite struct KernelLoaderTests {
  private typealias Kernels = KernelFixtures

  /// A 32-bit vmlinux whose second segment moves down when it is put into place.
  private static let vmlinux =
    Kernels.elf(
      is64Bit: false, entry: 0xC100_0010,
      [
        .init(
          address: 0x100_0000, virtual: 0xC100_0000, contents: [UInt8](repeating: 0x11, count: 0x1800), size: 0x1900,
          offset: 0x1000),
        .init(
          address: 0x100_2000, virtual: 0xC100_2000, contents: [UInt8](repeating: 0x22, count: 0x800), offset: 0x4000),
      ]) + [UInt8](repeating: 0x33, count: 100)

  /// lz4's legacy frame with one block of literals alone.
  private static func lz4(_ bytes: [UInt8]) -> [UInt8] {
    var block: [UInt8] = [0xF0]
    var rest = bytes.count - 15
    while rest >= 255 {
      block.append(255)
      rest -= 255
    }
    block += [UInt8(rest)] + bytes
    return [0x02, 0x21, 0x4C, 0x18] + UInt32(block.count).littleEndianBytes + block
  }

  /// A bzImage with this packed code, and the unpacked size behind it.
  private static func bzImage(_ packed: [UInt8], size: Int) -> [UInt8] {
    let stub = [UInt8](repeating: 0x90, count: 512)
    let payload = packed + UInt32(size).littleEndianBytes
    return Kernels.bzImage(
      body: stub + payload, loadFlags64: 0, payload: (512, UInt64(payload.count)))
  }

  private func load(_ kernel: [UInt8], unpacks: Bool = true, isFresh: Bool = true, _ fake: FakeBoard) throws
    -> StartState
  {
    try KernelLoader(
      kernel: KernelFile(kernel), ramdisks: [], machine: Kernels.machine(megabytes: 32), unpacks: unpacks
    ).load(into: fake.board.memory, isFresh: isFresh)
  }

  @Test func aPackedKernelIsUnpackedIntoItsPlaceAndStartedThere() throws {
    let fake = FakeBoard(ramSize: 32 << 20)
    let start = try load(Self.bzImage(Self.lz4(Self.vmlinux), size: Self.vmlinux.count), fake)
    #expect(start == .protected(eip: 0x100_0010, esi: UInt32(LowMemory.zeroPage), gdt: LowMemory.gdt))
    let memory = fake.board.memory
    #expect(try memory.bytes(0x100_0000, 0x1800) == [UInt8](repeating: 0x11, count: 0x1800))
    #expect(try memory.bytes(0x100_2000, 0x800) == [UInt8](repeating: 0x22, count: 0x800))
    // Headers, gaps, where the second segment was, and what stood behind it.
    #expect(try memory.bytes(0xFF_F000, 0x1000).allSatisfy { $0 == 0 })
    #expect(try memory.bytes(0x100_1800, 0x800).allSatisfy { $0 == 0 })
    #expect(try memory.bytes(0x100_2800, 0x2000).allSatisfy { $0 == 0 })
  }

  /// As in 32-bit kernels whose second segment is aligned to more than a page.
  @Test func aSegmentThatMovesUpDoesNotOverwriteWhatFollowsIt() throws {
    let fake = FakeBoard(ramSize: 32 << 20)
    let vmlinux = Kernels.elf(
      is64Bit: false, entry: 0xC100_0010,
      [
        .init(
          address: 0x100_0000, virtual: 0xC100_0000, contents: [UInt8](repeating: 0x11, count: 0x800), offset: 0x1000),
        .init(
          address: 0x100_1800, virtual: 0xC100_1800, contents: [UInt8](repeating: 0x22, count: 0x1000), offset: 0x1800),
        .init(
          address: 0x100_3000, virtual: 0xC100_3000, contents: [UInt8](repeating: 0x33, count: 0x800), offset: 0x2800),
      ])
    let start = try load(Self.bzImage(Self.lz4(vmlinux), size: vmlinux.count), fake)
    #expect(start == .protected(eip: 0x100_0010, esi: UInt32(LowMemory.zeroPage), gdt: LowMemory.gdt))
    let memory = fake.board.memory
    #expect(try memory.bytes(0x100_0000, 0x800) == [UInt8](repeating: 0x11, count: 0x800))
    #expect(try memory.bytes(0x100_0800, 0x1000).allSatisfy { $0 == 0 })
    #expect(try memory.bytes(0x100_1800, 0x1000) == [UInt8](repeating: 0x22, count: 0x1000))
    #expect(try memory.bytes(0x100_2800, 0x800).allSatisfy { $0 == 0 })
    #expect(try memory.bytes(0x100_3000, 0x800) == [UInt8](repeating: 0x33, count: 0x800))
  }

  @Test func whatCannotBeUnpackedStartsItsOwnCode() throws {
    let size = Self.vmlinux.count
    let packed = Self.lz4(Self.vmlinux)
    var damaged = packed
    damaged[4] = 0xFF
    damaged[7] = 0xFF
    let kernels = [
      Self.bzImage(Array("BZh91AY".utf8) + packed, size: size), Self.bzImage(damaged, size: size),
      Self.bzImage(packed, size: size + 1), Self.bzImage(packed, size: 0x7FFF_FFFF),
      Self.bzImage(Self.lz4([UInt8](repeating: 0x44, count: 5000)), size: 5000),
    ]
    for kernel in kernels {
      let fake = FakeBoard(ramSize: 32 << 20)
      #expect(
        try load(kernel, fake) == .protected(eip: 0x100_0000, esi: UInt32(LowMemory.zeroPage), gdt: LowMemory.gdt))
      #expect(try fake.board.memory.bytes(0x100_0000, 512) == [UInt8](repeating: 0x90, count: 512))
      // Nothing of the attempt is left.
      #expect(try fake.board.memory.bytes(0xFF_F000, 0x1000).allSatisfy { $0 == 0 })
    }
  }

  @Test func aSecondLoadClearsWhatTheFirstGuestLeft() throws {
    let fake = FakeBoard(ramSize: 32 << 20)
    let kernel = Kernels.elf([.init(address: 0x100_0000, contents: [0xF4], size: 0x3000)])
    _ = try load(kernel, fake)
    try fake.board.memory.write(0x100_0000, [UInt8](repeating: 0xEE, count: 0x3000))
    _ = try load(kernel, isFresh: false, fake)
    #expect(try fake.board.memory.bytes(0x100_0000, 0x3000) == [0xF4] + [UInt8](repeating: 0, count: 0x2FFF))
  }

  @Test func zeroesOfFreshMemoryAreNotTouched() throws {
    let fake = FakeBoard(ramSize: 32 << 20)
    // What is not written stays what it was, which here is not zero.
    try fake.board.memory.write(0x100_2000, [0xEE])
    _ = try load(Kernels.elf([.init(address: 0x100_0000, contents: [0xF4], size: 0x3000)]), fake)
    #expect(try fake.board.memory.bytes(0x100_2000, 1) == [0xEE])
  }

  /// The size that the zero page tells, and the bytes there.
  private func ramdisk(_ fake: FakeBoard) throws -> [UInt8] {
    let zeroPage = Fields(bytes: try fake.board.memory.bytes(LowMemory.zeroPage, 4096))
    return try fake.board.memory.bytes(
      UInt64(zeroPage.integer(SetupHeader.Field.ramdiskImage, as: UInt32.self)),
      Int(zeroPage.integer(SetupHeader.Field.ramdiskSize, as: UInt32.self)))
  }

  private func load(_ ramdisks: [[UInt8]], megabytes: UInt64 = 32, _ fake: FakeBoard) throws -> [UInt8] {
    let loader = KernelLoader(
      kernel: KernelFile(Self.bzImage(Self.lz4(Self.vmlinux), size: Self.vmlinux.count)),
      ramdisks: ramdisks.map { KernelFile($0, name: "initrd") }, machine: try Kernels.machine(megabytes: megabytes),
      unpacks: true)
    _ = try loader.load(into: fake.board.memory, isFresh: true)
    return try ramdisk(fake)
  }

  private static func archive(_ contents: [UInt8]) -> [UInt8] {
    func entry(_ name: String, _ contents: [UInt8]) -> [UInt8] {
      func hex(_ value: Int) -> String { String(String(value + 0x1_0000_0000, radix: 16).dropFirst()) }
      let fields = (0..<13).map { hex($0 == 6 ? contents.count : $0 == 11 ? name.utf8.count + 1 : 0) }
      return padded(padded(Array(("070701" + fields.joined() + name).utf8) + [0]) + contents)
    }
    return entry("file", contents) + entry("TRAILER!!!", [])
  }
  private static func padded(_ bytes: [UInt8]) -> [UInt8] { bytes + [UInt8](repeating: 0, count: -bytes.count & 3) }

  @Test func packedRamdisksAreUnpackedBeforeTheGuestStarts() throws {
    let (early, main) = (Self.archive([1, 2, 3]), Self.archive([UInt8](repeating: 7, count: 5000)))
    let fake = FakeBoard(ramSize: 32 << 20)
    #expect(try load([early + [0, 0, 0, 0] + Self.lz4(main) + [0, 0]], fake) == early + main)
    #expect(try load([Self.lz4(main), Self.lz4(early)], fake) == main + early)
  }

  @Test func aRamdiskThatCannotBeUnpackedIsLeftToTheKernel() throws {
    let main = Self.archive([UInt8](repeating: 7, count: 5000))
    let packed = Self.lz4(main)
    var damaged = packed
    damaged[4] = 0xFF
    // Plain; followed by what is unknown; damaged; an archive that is cut off.
    let ramdisks: [[UInt8]] = [
      main, packed + [0, 0, 0, 0, 9], damaged, main.dropLast(140) + packed, Array("BZh9".utf8), [],
    ]
    for ramdisk in ramdisks {
      #expect(try load([ramdisk], FakeBoard(ramSize: 32 << 20)) == ramdisk)
    }
  }

  @Test func aRamdiskOfMoreThanAnEighthOfMemoryStaysPacked() throws {
    let packed = Self.lz4(Self.archive([UInt8](repeating: 7, count: 4 << 20)))
    #expect(try load([packed], FakeBoard(ramSize: 32 << 20)) == packed)
    #expect(try load([packed], megabytes: 64, FakeBoard(ramSize: 64 << 20)).count > 4 << 20)
  }

  @Test func anErrorNamesTheFile() throws {
    let kernel = KernelFile(name: "vmlinuz", count: 4096) { (_, _) throws(BootError) in
      throw BootError("the file cannot be read: Input/output error")
    }
    let loader = KernelLoader(kernel: kernel, ramdisks: [], machine: try Kernels.machine(), unpacks: true)
    #expect(throws: BootError("vmlinuz: the file cannot be read: Input/output error")) {
      try loader.load(into: FakeBoard(ramSize: 1 << 20).board.memory, isFresh: true)
    }
  }
}

/// Debian's kernels, which `make -C guests linux` fetches.
@Suite struct RealKernelTests {
  struct Row: Sendable, CustomTestStringConvertible {
    let name: String
    let is64Bit: Bool
    let compression: Compression
    var testDescription: String { name }
    var path: String { "\(GuestRunner.root)/guests/build/kernels/\(name)" }
  }

  static let all = [
    Row(name: "amd64", is64Bit: true, compression: .xz), Row(name: "cloud-amd64", is64Bit: true, compression: .lz4),
    Row(name: "686-pae", is64Bit: false, compression: .xz),
  ]
  static let present = all.filter { (try? Descriptor.open($0.path, .readOnly)) != nil }

  private func file(_ row: Row, count: Int? = nil) throws -> KernelFile {
    let bytes = try Descriptor.open(row.path, .readOnly).contents(limit: 64 << 20)
    return KernelFile(Array(bytes.prefix(count ?? bytes.count)))
  }

  @Test(arguments: present) func unpacksIntoALoadedVmlinux(_ row: Row) throws {
    let kernel = try file(row)
    let linux = try #require(try LinuxKernel(kernel))
    #expect(try #require(try linux.packed(kernel)).compression == row.compression)
    let fake = FakeBoard(ramSize: 128 << 20)
    let loader = KernelLoader(
      kernel: kernel, ramdisks: [], machine: try KernelFixtures.machine(megabytes: 128), unpacks: true)
    switch try loader.load(into: fake.board.memory, isFresh: true) {
    case .long(let rip, let rsi, _, _):
      #expect(row.is64Bit && rip == 0x100_0000 && rsi == LowMemory.zeroPage)
    case .protected(let eip, _, _, let esi, _):
      #expect(!row.is64Bit && eip == 0x100_0000 && esi == UInt32(LowMemory.zeroPage))
    case .resetVector: Issue.record("it starts at the reset vector")
    }
    // "Linux version" stands in its read-only data.
    let memory = try fake.board.memory.bytes(0x100_0000, 48 << 20)
    let banner = Array("Linux version 6.1".utf8)
    let found = memory.withUnsafeBytes { memory in
      (0..<memory.count - banner.count).contains {
        memory[$0] == banner[0] && memory[$0..<$0 + banner.count].elementsEqual(banner)
      }
    }
    #expect(found)
  }

  @Test(arguments: present) func itsOwnCodeStartsWhereItIsAskedFor(_ row: Row) throws {
    let plan = try KernelImage(file(row)).plan(file(row), KernelFixtures.machine(megabytes: 128))
    switch plan.start {
    case .long(let rip, _, _, _): #expect(row.is64Bit && rip == 0x100_0200)
    case .protected(let eip, _, _, _, _): #expect(!row.is64Bit && eip == 0x100_0000)
    case .resetVector: Issue.record("it starts at the reset vector")
    }
  }

  @Test(arguments: present) func aTruncatedFileIsRefused(_ row: Row) throws {
    for count in [600, 20_000, 4_000_000] {
      let error = #expect(throws: BootError.self) { try KernelImage(file(row, count: count)) }
      #expect(error?.description.contains("cut short") == true)
    }
  }

  @Test(arguments: present) func tooLittleMemoryIsSaidWithWhatWouldDo(_ row: Row) throws {
    let error = #expect(throws: BootError.self) {
      try KernelImage(file(row)).plan(file(row), KernelFixtures.machine(megabytes: 32))
    }
    #expect(error?.description.contains("--memory 128M") == true || error?.description.contains("--memory 64M") == true)
  }
}
