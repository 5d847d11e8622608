/// GRUB's environment block, `grubenv`: lines of NAME=VALUE behind a first line that says what it is.
enum GRUBEnvironmentBlock {
  private static let signature = Array("# GRUB Environment Block\n".utf8)

  /// nil: it is none.
  static func variables(_ bytes: [UInt8]) -> [(name: String, value: String)]? {
    guard bytes.starts(with: signature) else { return nil }
    var variables: [(name: String, value: String)] = []
    var line: [UInt8] = []
    var isEscaped = false
    func end() {
      if line.first != UInt8(ascii: "#"), let equals = line.firstIndex(of: UInt8(ascii: "=")) {
        variables.append(
          (String(decoding: line[..<equals], as: UTF8.self), String(decoding: line[(equals + 1)...], as: UTF8.self)))
      }
      line = []
    }
    for byte in bytes[signature.count...] {
      if isEscaped {
        line.append(byte)
        isEscaped = false
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
      } else if byte == UInt8(ascii: "\n") {
        end()
      } else {
        line.append(byte)
      }
    }
    end()
    return variables
  }
}
