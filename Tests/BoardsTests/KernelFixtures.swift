@testable import Boards

/// Bytes of kernels that are small enough to be written down.
enum KernelFixtures {
  /// Little-endian fields put into zeroes.
  static func bytes(_ count: Int, _ fields: [(offset: Int, value: UInt64, size: Int)]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    for (offset, value, size) in fields {
      for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (index * 8)) }
    }
    return bytes
  }

  /// A bzImage with one sector of setup code behind its boot sector and `body` behind that.
  static func bzImage(
    body: [UInt8] = [UInt8](repeating: 0x90, count: 4096), version: UInt64 = 0x020F, loadFlags: UInt64 = 1,
    loadFlags64: UInt64 = 3, preferred: UInt64 = 0x100_0000, initialSize: UInt64 = 0x80_0000,
    payload: (offset: UInt64, length: UInt64) = (0, 0), commandLineSize: UInt64 = 255
  ) -> [UInt8] {
    bytes(
      1024,
      [
        (0x1F1, 1, 1), (0x1F4, UInt64(body.count + 15) / 16, 4), (0x1FE, 0xAA55, 2), (0x201, 0x66, 1),
        (0x202, 0x5372_6448, 4), (0x206, version, 2), (0x211, loadFlags, 1), (0x22C, 0x7FFF_FFFF, 4),
        (0x230, 0x20_0000, 4), (0x234, 1, 1), (0x236, loadFlags64, 2), (0x238, commandLineSize, 4),
        (0x248, payload.offset, 4), (0x24C, payload.length, 4), (0x258, preferred, 8), (0x260, initialSize, 4),
      ]) + body
  }

  struct Segment {
    var type: UInt64 = 1
    var address: UInt64
    var virtual: UInt64?
    var contents: [UInt8]
    var size: UInt64?
    /// Where it stands in the file; nil: behind what was there before.
    var offset: Int?
  }

  static func elf(
    is64Bit: Bool = true, machine: UInt64? = nil, type: UInt64 = 2, entry: UInt64 = 0x100_0000, _ segments: [Segment]
  ) -> [UInt8] {
    let (headSize, entrySize) = is64Bit ? (64, 56) : (52, 32)
    let word = is64Bit ? 8 : 4
    let head = bytes(
      headSize,
      [
        (0, 0x464C_457F, 4), (4, is64Bit ? 2 : 1, 1), (5, 1, 1), (6, 1, 1), (16, type, 2),
        (18, machine ?? (is64Bit ? 62 : 3), 2), (20, 1, 4), (24, entry, word), (24 + word, UInt64(headSize), word),
        (is64Bit ? 54 : 42, UInt64(entrySize), 2), (is64Bit ? 56 : 44, UInt64(segments.count), 2),
      ])
    var table: [UInt8] = []
    var contents: [UInt8] = []
    let start = headSize + entrySize * segments.count
    for segment in segments {
      let offset = segment.offset ?? start + contents.count
      while start + contents.count < offset { contents.append(0) }
      let virtual = segment.virtual ?? segment.address
      let (fileSize, size) = (UInt64(segment.contents.count), segment.size ?? UInt64(segment.contents.count))
      table += bytes(
        entrySize,
        is64Bit
          ? [
            (0, segment.type, 4), (8, UInt64(offset), 8), (16, virtual, 8), (24, segment.address, 8), (32, fileSize, 8),
            (40, size, 8), (48, 4, 8),
          ]
          : [
            (0, segment.type, 4), (4, UInt64(offset), 4), (8, virtual, 4), (12, segment.address, 4), (16, fileSize, 4),
            (20, size, 4), (28, 4, 4),
          ])
      contents += segment.contents
    }
    return head + table + contents
  }

  /// XEN_ELFNOTE_PHYS32_ENTRY behind a note of another kind.
  static func pvhNote(_ entry: UInt64) -> Segment {
    let other = bytes(24, [(0, 4, 4), (4, 5, 4), (8, 6, 4), (12, 0x006E_6558, 4), (16, 0x3130, 4)])
    let note = bytes(20, [(0, 4, 4), (4, 4, 4), (8, 18, 4), (12, 0x006E_6558, 4), (16, entry, 4)])
    return Segment(type: 4, address: 0, contents: other + note)
  }

  static func machine(
    megabytes: UInt64 = 64, arguments: String = "quiet", ramdisks: [UInt64] = [], tables: [BootPlan.Load] = [],
    rootPointer: UInt64? = nil
  ) throws -> BootMachine {
    BootMachine(
      layout: try PCMemoryLayout(memory: megabytes << 20), tables: tables, rootPointer: rootPointer,
      arguments: arguments,
      ramdisks: ramdisks.enumerated().map { BootMachine.Ramdisk(name: "rd\($0)", size: $1) })
  }

  static func plan(_ kernel: [UInt8], _ machine: BootMachine) throws -> BootPlan {
    let file = KernelFile(kernel)
    return try KernelImage(file).plan(file, machine)
  }
}

extension BootPlan {
  /// The bytes that are loaded at an address.
  func bytes(at address: UInt64) -> Fields? {
    for load in loads where load.address <= address && address < load.address + load.count {
      guard case .bytes(let bytes) = load.source else { return nil }
      return Fields(bytes: Array(bytes[Int(address - load.address)...]))
    }
    return nil
  }

  func text(at address: UInt64) -> String? {
    bytes(at: address).map { String(decoding: $0.bytes.prefix { $0 != 0 }, as: UTF8.self) }
  }

  func loads(from source: Source) -> [Load] { loads.filter { $0.source == source } }
}
