import GuestMemory
import TestKit

/// What firmware does with fw_cfg's table loader script, in RAM of a fake board.
struct FirmwareLoader {
  struct Malformed: Error, Equatable { let reason: String }

  let fake = FakeBoard(ramSize: 4 << 20)
  private let files: [String: [UInt8]]
  private(set) var addresses: [String: UInt64] = [:]
  private var nextHigh: UInt64 = 0x20_0000 + 16
  private var nextFSegment: UInt64 = 0xF_0000

  var memory: GuestMemory { fake.board.memory }

  init(_ files: [String: [UInt8]]) throws {
    self.files = files
    let script = try Self.require(files["etc/table-loader"], "no script")
    guard script.count % 128 == 0 else { throw Malformed(reason: "script of \(script.count) bytes") }
    for start in stride(from: 0, to: script.count, by: 128) { try execute(Array(script[start..<start + 128])) }
  }

  private mutating func execute(_ command: [UInt8]) throws {
    let file = Self.text(command[4..<60])
    switch Self.number(command[0..<4]) {
    case 1:
      let alignment = UInt64(Self.number(command[60..<64]))
      let bytes = try Self.require(files[file], "allocate \(file)")
      guard addresses[file] == nil, alignment.nonzeroBitCount == 1 else { throw Malformed(reason: "allocate \(file)") }
      if command[64] == 2 {
        addresses[file] = place(&nextFSegment, alignment, bytes.count)
        guard nextFSegment <= 0x10_0000 else { throw Malformed(reason: "F segment full") }
      } else {
        addresses[file] = place(&nextHigh, alignment, bytes.count)
      }
      try memory.write(addresses[file] ?? 0, bytes)
    case 2:
      let source = try Self.require(addresses[Self.text(command[60..<116])], "pointer to what is not loaded")
      let offset = Self.number(command[116..<120])
      let size = Int(command[120])
      let at = try range(file, offset, size)
      let old = Self.number(try memory.bytes(at, size)[...])
      try memory.write(at, (0..<size).map { UInt8(truncatingIfNeeded: (old + Int(source)) >> ($0 * 8)) })
    case 3:
      let start = Self.number(command[64..<68])
      let length = Self.number(command[68..<72])
      let sum = try memory.bytes(try range(file, start, length), length).reduce(0, &+)
      let at = try range(file, Self.number(command[60..<64]), 1)
      try memory.store(try memory.load(at, as: UInt8.self) &- sum, at: at)
    default: throw Malformed(reason: "command \(command[0])")
    }
  }

  private func place(_ next: inout UInt64, _ alignment: UInt64, _ count: Int) -> UInt64 {
    let address = (next + alignment - 1) & ~(alignment - 1)
    next = address + UInt64(count)
    return address
  }

  private func range(_ file: String, _ offset: Int, _ count: Int) throws -> UInt64 {
    let base = try Self.require(addresses[file], "\(file) is not loaded")
    guard offset + count <= files[file]?.count ?? 0 else { throw Malformed(reason: "\(file)+\(offset)") }
    return base + UInt64(offset)
  }

  static func number(_ bytes: ArraySlice<UInt8>) -> Int { bytes.reversed().reduce(0) { $0 << 8 | Int($1) } }
  static func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }

  static func require<Value>(_ value: Value?, _ reason: String) throws -> Value {
    guard let value else { throw Malformed(reason: reason) }
    return value
  }

  /// Finds the RSDP as an operating system does and follows it; tables by signature, with the DSDT and FACS.
  func tables() throws -> [String: [UInt8]] {
    let candidates = try stride(from: UInt64(0xE_0000), to: 0x10_0000, by: 16).filter { address in
      try memory.bytes(address, 8) == Array("RSD PTR ".utf8)
    }
    let rsdp = try memory.bytes(try Self.require(candidates.first, "no RSDP"), 20)
    guard rsdp.reduce(0, &+) == 0 else { throw Malformed(reason: "RSDP checksum") }
    let rsdt = try table(UInt64(Self.number(rsdp[16..<20])))
    var result = ["RSDT": rsdt]
    for start in stride(from: 36, to: rsdt.count, by: 4) {
      let table = try table(UInt64(Self.number(rsdt[start..<start + 4])))
      result[Self.text(table[0..<4])] = table
    }
    let fadt = try Self.require(result["FACP"], "no FADT")
    let dsdt = UInt64(Self.number(fadt[40..<44]))
    guard Self.number(fadt[140..<148]) == Int(dsdt) else { throw Malformed(reason: "two DSDTs") }
    result["DSDT"] = try table(dsdt)
    let facs = UInt64(Self.number(fadt[36..<40]))
    guard facs % 64 == 0 else { throw Malformed(reason: "FACS alignment") }
    result["FACS"] = try memory.bytes(facs, try memory.load(facs + 4, as: UInt32.self) == 64 ? 64 : 0)
    return result
  }

  private func table(_ address: UInt64) throws -> [UInt8] {
    let length = Int(try memory.load(address + 4, as: UInt32.self))
    let bytes = try memory.bytes(address, length)
    guard length >= 36, bytes.reduce(0, &+) == 0 else {
      throw Malformed(reason: "checksum of \(Self.text(bytes[0..<4]))")
    }
    return bytes
  }
}
