import Testing

@testable import Boards

@Suite struct SMBIOSTests {
  struct Structure {
    let formatted: [UInt8]
    let strings: [String]
    var type: UInt8 { formatted[0] }
    func number(_ offset: Int, _ size: Int) -> Int { FirmwareLoader.number(formatted[offset..<offset + size]) }
  }

  /// Walks the structures as DSP0134 §6.1.2 and §6.1.3 say.
  private func walk(_ tables: [UInt8]) throws -> [Structure] {
    var result: [Structure] = []
    var next = 0
    while next < tables.count {
      let length = Int(tables[next + 1])
      let formatted = Array(tables[next..<next + length])
      next += length
      var strings: [String] = []
      while tables[next] != 0 {
        let end = try #require(tables[next...].firstIndex(of: 0))
        strings.append(String(decoding: tables[next..<end], as: UTF8.self))
        next = end + 1
      }
      next += strings.isEmpty ? 2 : 1
      result.append(Structure(formatted: formatted, strings: strings))
    }
    #expect(next == tables.count)
    return result
  }

  @Test(
    arguments: [
      (UInt64(512) << 20, [512], [[0, 0x7_FFFF]]), (5 << 30, [5120], [[0, 0x2F_FFFF], [0x40_0000, 0x5F_FFFF]]),
      (33 << 30, [16384, 16384, 1024], [[0, 0x2F_FFFF], [0x40_0000, 0x21F_FFFF]]),
    ] as [(UInt64, [Int], [[Int]])])
  func describesMemoryAsDevicesAndRanges(memory: UInt64, devices: [Int], ranges: [[Int]]) throws {
    let layout = try PCMemoryLayout(memory: memory)
    let structures = try walk(SMBIOSTables(cpus: 1, layout: layout, product: "hvm").tables)
    let array = try #require(structures.first { $0.type == 16 })
    #expect(array.number(7, 4) == Int(memory >> 10))
    #expect(array.number(0x0D, 2) == devices.count)
    #expect(structures.filter { $0.type == 17 }.map { $0.number(0x0C, 2) } == devices)
    let mapped = structures.filter { $0.type == 19 }.map { [$0.number(4, 4), $0.number(8, 4)] }
    #expect(mapped == ranges)
    for structure in structures where structure.type == 17 || structure.type == 19 {
      #expect(structure.number(structure.type == 17 ? 4 : 0x0C, 2) == array.number(2, 2))
    }
  }

  @Test func hasTheStructuresOfVersion28() throws {
    let tables = SMBIOSTables(cpus: 6, layout: try PCMemoryLayout(memory: 1 << 30), product: "hvm")
    let structures = try walk(tables.tables)
    #expect(structures.map(\.type) == [1, 3, 4, 16, 17, 19, 32, 127])
    #expect(structures.map { $0.formatted.count } == [0x1B, 0x16, 0x2A, 0x17, 0x28, 0x1F, 0x0B, 4])
    #expect(Set(structures.map { $0.number(2, 2) }).count == structures.count)
    #expect(structures[0].strings == ["vmrun", "hvm"])
    #expect(structures[2].formatted[0x23...0x25] == [6, 6, 6])
  }

  @Test func entryPointCountsAndSumsUp() throws {
    let tables = SMBIOSTables(cpus: 1, layout: try PCMemoryLayout(memory: 40 << 30), product: "hvm")
    let anchor = tables.anchor
    #expect(anchor.count == 31)
    #expect(anchor[0..<4] == Array("_SM_".utf8)[...])
    #expect(anchor[5...7] == [31, 2, 8])
    #expect(anchor[16..<21] == Array("_DMI_".utf8)[...])
    #expect(anchor.reduce(0, &+) == 0)
    #expect(anchor[16...].reduce(0, &+) == 0)
    #expect(FirmwareLoader.number(anchor[22..<24]) == tables.tables.count)
    #expect(FirmwareLoader.number(anchor[28..<30]) == (try walk(tables.tables)).count)
    #expect(FirmwareLoader.number(anchor[8..<10]) >= 0x28 + "CPU 0".utf8.count)
  }

  @Test func oneTebibyteFits() throws {
    let tables = SMBIOSTables(cpus: 64, layout: try PCMemoryLayout(memory: 1 << 40), product: "hvm")
    #expect(try walk(tables.tables).filter { $0.type == 17 }.count == 64)
    #expect(tables.tables.count < 0xFFFF)
  }
}
