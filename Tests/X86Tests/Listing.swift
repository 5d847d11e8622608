import Glibc

/// One instruction of an objdump listing.
struct ListingLine {
  let address: UInt64
  let bytes: [UInt8]
  /// Mnemonic and operands as objdump writes them.
  let text: String
}

/// What objdump makes of some code.
struct Listing {
  /// objdump's arguments: file, architecture, range.
  let arguments: String

  static var isAvailable: Bool { access("/usr/bin/objdump", X_OK) == 0 }

  /// Calls with each instruction, in order.
  func forEachLine(_ body: (ListingLine) -> Void) {
    guard let pipe = popen("/usr/bin/objdump -M intel,intel64 -w --insn-width=16 \(arguments) 2>/dev/null", "r") else { return }
    defer { pclose(pipe) }
    var buffer: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { free(buffer) }
    while true {
      let count = getline(&buffer, &capacity, pipe)
      guard count > 0, let buffer else { return }
      let line = UnsafeRawBufferPointer(start: buffer, count: count)
      if let parsed = Self.parse(line) { body(parsed) }
    }
  }

  /// `   26000:\tff 35 ea cf 1a 00    \tpush   QWORD PTR …`
  private static func parse(_ line: UnsafeRawBufferPointer) -> ListingLine? {
    var index = 0
    while index < line.count, line[index] == 0x20 { index += 1 }
    var address: UInt64 = 0
    while index < line.count, let digit = hexDigit(line[index]) {
      address = address << 4 | UInt64(digit)
      index += 1
    }
    guard index + 1 < line.count, line[index] == 0x3A, line[index + 1] == 0x09 else { return nil }
    index += 2
    var bytes: [UInt8] = []
    while index + 2 < line.count, let high = hexDigit(line[index]), let low = hexDigit(line[index + 1]) {
      bytes.append(high << 4 | low)
      index += 3
    }
    while index < line.count, line[index] == 0x20 { index += 1 }
    guard index < line.count, line[index] == 0x09 else { return nil }
    let text = String(decoding: line[(index + 1)...], as: UTF8.self)
    return ListingLine(address: address, bytes: bytes, text: text)
  }

  private static func hexDigit(_ character: UInt8) -> UInt8? {
    switch character {
    case 0x30...0x39: character - 0x30
    case 0x61...0x66: character - 0x61 + 10
    default: nil
    }
  }
}
