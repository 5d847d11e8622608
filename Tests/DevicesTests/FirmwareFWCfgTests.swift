import DeviceKit
import TestKit
import Testing

@testable import Devices

@Suite struct FWCfgChipTests {
  private func read(_ chip: inout FWCfg, _ count: Int) -> [UInt8] { (0..<count).map { _ in chip.readByte() } }

  @Test func selectsTheSignatureAtPowerOn() {
    var chip = FWCfg()
    #expect(read(&chip, 4) == Array("QEMU".utf8))
  }

  @Test func announcesTraditionalAndDMAInterfaces() {
    var chip = FWCfg()
    chip.select(0x0001)
    #expect(read(&chip, 4) == [3, 0, 0, 0])
  }

  @Test func readsZeroBeyondTheEndAndFromMissingItems() {
    var chip = FWCfg(items: [5: [7]])
    chip.select(5)
    #expect(read(&chip, 3) == [7, 0, 0])
    chip.select(0x3FFF)
    #expect(read(&chip, 2) == [0, 0])
  }

  @Test func tellsArchitectureItemsFromGenericOnesAndIgnoresTheWriteBit() {
    var chip = FWCfg(items: [2: [1], 0x8002: [2]])
    chip.select(0x8002)
    #expect(chip.readByte() == 2)
    chip.select(0x4002)
    #expect(chip.readByte() == 1)
  }

  @Test func listsFilesSortedByNameWithKeysFrom0x20() {
    var chip = FWCfg(files: ["etc/b": [1, 2, 3], "etc/a": [9], "bootorder": []])
    chip.select(0x19)
    #expect(read(&chip, 4) == [0, 0, 0, 3])
    let entries = (0..<3).map { _ in read(&chip, 64) }
    #expect(entries.map { $0[3] } == [0, 1, 3])
    #expect(entries.map { $0[5] } == [0x20, 0x21, 0x22])
    #expect(
      entries.map { String(decoding: $0[8...].prefix { $0 != 0 }, as: UTF8.self) } == ["bootorder", "etc/a", "etc/b"])
    chip.select(0x22)
    #expect(read(&chip, 3) == [1, 2, 3])
  }

  @Test func leavesOutNamesThatDoNotFitTheDirectory() {
    let fits = String(repeating: "x", count: 55)
    var chip = FWCfg(files: [fits: [1], fits + "x": [2]])
    chip.select(0x19)
    #expect(read(&chip, 4) == [0, 0, 0, 1])
  }

  @Test func readsManyBytesAtOnceLikeSingleReads() {
    var chip = FWCfg(items: [6: [1, 2, 3]])
    chip.select(6)
    _ = chip.readByte()
    var bytes = [UInt8](repeating: 0xEE, count: 5)
    let isRead = bytes.withUnsafeMutableBytes { chip.read(into: $0) }
    #expect(isRead)
    #expect(bytes == [2, 3, 0, 0, 0])
  }
}

@Suite struct FWCfgDeviceTests {
  private let fake: FakeBoard
  private let device: Device

  init() throws {
    fake = FakeBoard(ramSize: 1 << 20)
    device = try FWCfgDevice.model.make("fw-cfg", Properties([:]), fake.board)
    // Added after the device was made, as other devices do.
    fake.board.firmware.add(item: 5, [0x11, 0x22, 0x33, 0x44])
    fake.board.firmware.add("etc/hello", Array("hello".utf8))
    device.reset()
  }

  /// Puts a descriptor at 0x100, starts it and returns the control field it leaves.
  private func dma(_ control: UInt32, _ length: UInt32, _ address: UInt64) throws -> UInt32 {
    try fake.board.memory.store(control.bigEndian, at: 0x100)
    try fake.board.memory.store(length.bigEndian, at: 0x104)
    try fake.board.memory.store(address.bigEndian, at: 0x108)
    fake.outl(0x514, 0)
    fake.outl(0x518, UInt32(0x100).byteSwapped)
    return UInt32(bigEndian: try fake.board.memory.load(0x100, as: UInt32.self))
  }

  @Test func showsItemsAtTheDataPort() {
    fake.outw(0x510, 5)
    #expect((0..<5).map { _ in fake.inb(0x511) } == [0x11, 0x22, 0x33, 0x44, 0])
  }

  @Test func readsStringsFromTheDataPort() {
    fake.outw(0x510, 0x20)
    var bytes = [UInt8](repeating: 0xEE, count: 7)
    bytes.withUnsafeMutableBytes { fake.board.ports.readString(0x511, .byte, into: $0) }
    #expect(bytes == Array("hello".utf8) + [0, 0])
  }

  @Test func ignoresWritesToTheDataPortAndNarrowSelectors() {
    fake.outw(0x510, 5)
    fake.outb(0x511, 0xFF)
    fake.outb(0x510, 0)
    #expect(fake.inb(0x511) == 0x11)
    #expect(fake.inb(0x510) == 0xFF)
  }

  @Test func showsTheDMASignature() {
    #expect((0..<8).map { fake.inb(0x514 + $0) } == Array("QEMU CFG".utf8))
    #expect(fake.inl(0x514) == 0x554D_4551)
  }

  @Test func selectsAndReadsByDMA() throws {
    try fake.board.memory.write(0x200, [UInt8](repeating: 0xEE, count: 8))
    #expect(try dma(0x0020_000A, 7, 0x200) == 0)
    #expect(try fake.board.memory.bytes(0x200, 8) == Array("hello".utf8) + [0, 0, 0xEE])
  }

  /// An item of ten bytes that are their offsets; from `end` on they cannot be read.
  private func addSource(_ key: UInt16, readable end: Int = 10) {
    fake.board.firmware.add(
      item: key,
      FirmwareSource(count: 10) { offset, buffer in
        for index in buffer.indices { buffer[index] = UInt8(truncatingIfNeeded: offset + index) }
        return offset + buffer.count <= end
      })
    device.reset()
  }

  @Test func readsItemsThatAreSomewhereElse() throws {
    addSource(0x11)
    fake.outw(0x510, 0x11)
    #expect((0..<3).map { _ in fake.inb(0x511) } == [0, 1, 2])
    #expect(try dma(0x4, 4, 0) == 0)
    #expect(try dma(0x2, 5, 0x200) == 0)
    #expect(try fake.board.memory.bytes(0x200, 5) == [7, 8, 9, 0, 0])
    #expect(try dma(0x2, 1, 0x200) == 0)
    #expect(fake.inb(0x511) == 0)
  }

  @Test func showsWhatTheHostCannotReadAsAnError() throws {
    addSource(0x11, readable: 5)
    #expect(try dma(0x0011_000A, 5, 0x200) == 0)
    #expect(try dma(0x0011_000A, 6, 0x200) == 1)
  }

  @Test func skipsByDMAAndGoesOnFromThere() throws {
    #expect(try dma(0x0020_000C, 2, 0) == 0)
    #expect(try dma(0x2, 3, 0x200) == 0)
    #expect(try fake.board.memory.bytes(0x200, 3) == Array("llo".utf8))
    #expect(try dma(0x0020_000C, .max, 0) == 0)
    #expect(fake.inb(0x511) == 0)
  }

  @Test func refusesWritesByDMA() throws {
    #expect(try dma(0x0020_0018, 1, 0x200) == 1)
    #expect(try dma(0x0020_0018, 0, 0x200) == 0)
    #expect(fake.inb(0x511) == UInt8(ascii: "h"))
  }

  @Test(arguments: [
    (UInt64(0x10_0000), UInt32(1)), (0xF_FFFF, 2), (0, .max), (.max, 1), (.max - 3, .max), (0x8000_0000_0000_0000, 16),
  ])
  func marksTargetsOutsideRAMAsErrors(address: UInt64, length: UInt32) throws {
    #expect(try dma(0x0020_000A, length, address) == 1)
    #expect(try fake.board.memory.bytes(0xF_FFFF, 1) == [0])
  }

  @Test func mayOverwriteItsOwnDescriptor() throws {
    #expect(try dma(0x0020_000A, 1 << 20, 0) == 0)
    #expect(try fake.board.memory.bytes(0, 5) == Array("hello".utf8))
    #expect(try fake.board.memory.bytes(0x104, 12) == [UInt8](repeating: 0, count: 12))
  }

  @Test(arguments: [UInt64(0xF_FFF8), 0x10_0000, .max, .max - 15])
  func survivesDescriptorsOutsideRAM(address: UInt64) {
    fake.outl(0x514, UInt32(truncatingIfNeeded: address >> 32).byteSwapped)
    fake.outl(0x518, UInt32(truncatingIfNeeded: address).byteSwapped)
    fake.outw(0x510, 0)
    #expect(fake.inb(0x511) == UInt8(ascii: "Q"))
  }

  @Test func forgetsTheHighHalfOnceUsed() throws {
    fake.outl(0x514, UInt32(1).byteSwapped)
    fake.outl(0x518, 0)
    try fake.board.memory.store(UInt32(0x0020_000A).bigEndian, at: 0x100)
    try fake.board.memory.store(UInt32(5).bigEndian, at: 0x104)
    try fake.board.memory.store(UInt64(0x200).bigEndian, at: 0x108)
    fake.outl(0x518, UInt32(0x100).byteSwapped)
    #expect(try fake.board.memory.bytes(0x200, 5) == Array("hello".utf8))
  }

  @Test func showsChangedFilesAfterTheNextReset() {
    fake.board.firmware.add(item: 5, [0x99])
    fake.outw(0x510, 5)
    #expect(fake.inb(0x511) == 0x11)
    device.reset()
    fake.outw(0x510, 5)
    #expect(fake.inb(0x511) == 0x99)
  }

  @Test func cannotBeThereTwice() {
    #expect(throws: DeviceError.self) { try FWCfgDevice.model.make("second", Properties([:]), fake.board) }
  }
}
