import Buses
import Foundation
import TestKit
import Testing

@testable import Boards

@Suite struct AMLTests {
  @Test(
    arguments: [
      (0, [0x01]), (62, [0x3F]), (63, [0x41, 0x04]), (4093, [0x4F, 0xFF]), (4094, [0x81, 0x00, 0x01]),
      (0xF_FFFC, [0x8F, 0xFF, 0xFF]), (0xF_FFFD, [0xC1, 0x00, 0x00, 0x01]),
    ] as [(Int, [UInt8])])
  func packageLengthCountsItself(count: Int, expected: [UInt8]) {
    #expect(AML.pkgLength(covering: count) == expected)
  }

  @Test(
    arguments: [
      ("_HID", Array("_HID".utf8)), ("S5", Array("S5__".utf8)), ("\\", [0x5C, 0]), ("\\_SB", Array("\\_SB_".utf8)),
      ("\\_SB.PCI0", [0x5C, 0x2E] + Array("_SB_PCI0".utf8)), ("^A.B.C", [0x5E, 0x2F, 3] + Array("A___B___C___".utf8)),
    ] as [(String, [UInt8])])
  func namesTakeTheShortestPrefix(text: String, expected: [UInt8]) {
    #expect(AML.NameString(stringLiteral: text).bytes == expected)
  }

  @Test(
    arguments: [
      (0, [0x00]), (1, [0x01]), (2, [0x0A, 2]), (0x1234, [0x0B, 0x34, 0x12]), (0x1_0000, [0x0C, 0, 0, 1, 0]),
      (1 << 32, [0x0E, 0, 0, 0, 0, 1, 0, 0, 0]),
    ] as [(UInt64, [UInt8])])
  func integersTakeTheShortestForm(value: UInt64, expected: [UInt8]) {
    #expect(AML.integer(value).bytes == expected)
  }

  @Test func compressesEISAIdentifiers() {
    #expect(AML.eisaID("PNP0A03").bytes == [0x0C, 0x41, 0xD0, 0x0A, 0x03])
  }

  @Test func endsResourceTemplates() {
    #expect(AML.resourceTemplate([.io(0x60, count: 1)]).bytes.suffix(10) == [0x47, 1, 0x60, 0, 0x60, 0, 1, 1, 0x79, 0])
  }
}

@Suite struct ACPITableTests {
  static let full = ACPIMachine(
    cpus: 64, pciHole: 0x2000_0000..<0xFEC0_0000,
    serialPorts: [(0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)].map { .init(base: $0.0, irq: $0.1) },
    pvpanicPort: 0x505)
  static let bare = ACPIMachine(
    cpus: 1, pciHole: 0xC000_0000..<0xFEC0_0000, hasKeyboardController: false, hasRTC: false, hasHPET: false,
    hasFWCfg: false)

  @Test(arguments: [full, bare]) func firmwareLoadsTablesWithValidChecksums(machine: ACPIMachine) throws {
    let tables = try FirmwareLoader(ACPITables(machine).files).tables()
    let expected = ["APIC", "DSDT", "FACP", "FACS", "RSDT", "WAET"] + (machine.hasHPET ? ["HPET"] : [])
    #expect(Set(tables.keys) == Set(expected))
    #expect(tables["FACS"]?.count == 64)
  }

  @Test func fadtNamesThePIIX4Registers() throws {
    let fadt = try #require(try FirmwareLoader(ACPITables(Self.full).files).tables()["FACP"])
    #expect(fadt.count == 244)
    let number = { (offset: Int, size: Int) in FirmwareLoader.number(fadt[offset..<offset + size]) }
    #expect(number(46, 2) == 9)
    #expect(number(48, 4) == 0xB2)
    #expect(fadt[52...53] == [0xF1, 0xF0])
    #expect([56, 64, 76, 80].map { number($0, 4) } == [0x600, 0x604, 0x608, 0xAFE0])
    #expect(fadt[88...92] == [4, 2, 0, 4, 4])
    #expect(number(96, 2) > 100 && number(98, 2) > 1000)
    #expect(fadt[108] == 0x32)
    #expect(number(109, 2) == 3)
    #expect(number(112, 4) & 1 << 10 != 0)
    #expect(fadt[116...128] == [1, 8, 0, 0, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0, 6])
    #expect([152, 176, 212, 224].map { number($0, 8) } == [0x600, 0x604, 0x608, 0xAFE0].map { $0 })
  }

  @Test(arguments: [1, 3, 64]) func madtListsEveryProcessorAndTheOverrides(cpus: Int) throws {
    var machine = Self.full
    machine.cpus = cpus
    let madt = try #require(try FirmwareLoader(ACPITables(machine).files).tables()["APIC"])
    #expect(FirmwareLoader.number(madt[36..<40]) == 0xFEE0_0000)
    var entries: [[UInt8]] = []
    var next = 44
    while next < madt.count {
      entries.append(Array(madt[next..<next + Int(madt[next + 1])]))
      next += Int(madt[next + 1])
    }
    #expect(entries.filter { $0[0] == 0 }.map { $0[3] } == (0..<UInt8(cpus)).map { $0 })
    #expect(entries.filter { $0[0] == 1 } == [[1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]])
    #expect(
      entries.filter { $0[0] == 2 }.map { [$0[3], $0[4], $0[8]] } == [
        [0, 2, 0], [5, 5, 13], [9, 9, 13], [10, 10, 13], [11, 11, 13],
      ])
    #expect(entries.filter { $0[0] == 4 } == [[4, 6, 0xFF, 0, 0, 1]])
  }

  @Test func absentProcessorsAreListedLastAndNotEnabled() throws {
    var machine = Self.bare
    machine.absentCPUs = 1
    let madt = try #require(try FirmwareLoader(ACPITables(machine).files).tables()["APIC"])
    #expect(Array(madt[44..<60]) == [0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0])
  }

  @Test(.enabled(if: IASL.isInstalled, "iasl is missing: install acpica-tools"), arguments: [full, bare])
  func iaslDisassemblesAndRecompilesEveryTable(machine: ACPIMachine) throws {
    for (name, table) in try FirmwareLoader(ACPITables(machine).files).tables() where name != "FACS" {
      let compiled = try IASL.compile(try IASL.disassemble(table, name), name)
      // The header names the compiler.
      #expect(compiled.dropFirst(36) == table.dropFirst(36), "\(name)")
    }
  }

  @Test func interruptRoutingAgreesWithTheBoardsWiring() {
    for slot in 0..<32 {
      for pin in 0..<4 {
        let sink = RecordingInterrupts()
        let fabric = InterruptFabric(sink: sink)
        for pirq in 0..<4 { fabric.route(pirq: pirq, to: 16 + pirq) }
        fabric.intx(slot: slot, pin: pin + 1).set(true)
        #expect((0..<4).filter { sink.level(16 + $0) } == [DSDT.link(slot: slot, pin: pin)])
      }
    }
  }

  @Test(.enabled(if: IASL.isInstalled, "iasl is missing: install acpica-tools"))
  func dsdtReadsAsTheMachine() throws {
    let dsdt = try #require(try FirmwareLoader(ACPITables(Self.full).files).tables()["DSDT"])
    let source = try IASL.disassemble(dsdt, "DSDT")
    for expected in [
      "EisaId (\"PNP0A03\")", "0x20000000,         // Range Minimum", "0xFEBFFFFF,         // Range Maximum",
      "0x000A0000,         // Range Minimum", "Processor (CP3F, 0x3F, 0x00000000, 0x00)", "\"QEMU0001\"",
      "\"QEMU0002\"",
      "EisaId (\"PNP0103\")", "Device (COM4)", "Name (\\_S5, Package (0x04)",
    ] { #expect(source.contains(expected), "\(expected)") }
    // Slot 1's INTA# is on LNKA and slot 3's INTB# on LNKD.
    let words = source.split { $0.isWhitespace || $0 == "," }.joined(separator: " ")
    #expect(words.contains("Package (0x04) { 0x0001FFFF Zero LNKA Zero }"))
    #expect(words.contains("Package (0x04) { 0x0003FFFF One LNKD Zero }"))
    let bare = try #require(try FirmwareLoader(ACPITables(Self.bare).files).tables()["DSDT"])
    let bareSource = try IASL.disassemble(bare, "DSDT")
    for absent in ["COM1", "PNP0103", "PNP0303", "PNP0B00", "QEMU000", "CP01"] {
      #expect(!bareSource.contains(absent), "\(absent)")
    }
  }
}

/// Intel's ACPI compiler as a second opinion.
enum IASL {
  struct Failed: Error { let output: String }

  static let path = "/usr/bin/iasl"
  static var isInstalled: Bool { FileManager.default.isExecutableFile(atPath: path) }

  static func disassemble(_ table: [UInt8], _ name: String) throws -> String {
    try inDirectory { directory in
      try Data(table).write(to: directory.appending(path: "\(name).aml"))
      let output = try run(["-d", "\(name).aml"], in: directory)
      let file = directory.appending(path: "\(name).dsl")
      guard let source = try? String(contentsOf: file, encoding: .utf8) else { throw Failed(output: output) }
      return source
    }
  }

  /// The compiled table; throws unless the compiler counts no errors.
  static func compile(_ source: String, _ name: String) throws -> [UInt8] {
    try inDirectory { directory in
      try Data(source.utf8).write(to: directory.appending(path: "\(name).dsl"))
      let output = try run(["-oa", "\(name).dsl"], in: directory)
      guard output.contains(" 0 Errors") else { throw Failed(output: output) }
      return Array(try Data(contentsOf: directory.appending(path: "\(name).aml")))
    }
  }

  private static func inDirectory<Result>(_ body: (URL) throws -> Result) throws -> Result {
    let directory = FileManager.default.temporaryDirectory.appending(path: "vmrun-iasl-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: directory) }
    return try body(directory)
  }

  private static func run(_ arguments: [String], in directory: URL) throws -> String {
    let process = Process()
    let pipe = Pipe()
    process.executableURL = URL(filePath: path)
    process.arguments = arguments
    process.currentDirectoryURL = directory
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let output = try pipe.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    return String(decoding: output, as: UTF8.self)
  }
}
