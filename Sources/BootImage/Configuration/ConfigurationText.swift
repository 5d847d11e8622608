/// The lines of a configuration file, without ends of line and the blanks around them.
func configurationLines(_ bytes: [UInt8]) -> [String] {
  bytes.split(omittingEmptySubsequences: false) { $0 == 0x0A }.map { line in
    String(decoding: trimmed(line), as: UTF8.self)
  }
}

/// Whether it is a space, a tab or a carriage return.
func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D }

func trimmed(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
  var bytes = bytes
  while let last = bytes.last, isBlank(last) { bytes.removeLast() }
  return bytes.drop(while: isBlank)
}

extension String {
  /// The first word, and what follows the blanks behind it.
  var headAndRest: (head: String, rest: String) {
    let bytes = trimmed(Array(utf8)[...])
    let head = bytes.prefix { !isBlank($0) }
    return (String(decoding: head, as: UTF8.self), String(decoding: trimmed(bytes[head.endIndex...]), as: UTF8.self))
  }

  var words: [String] {
    utf8.split(whereSeparator: isBlank).map { String(decoding: $0, as: UTF8.self) }
  }

  /// Lower-case letters of ASCII.
  var asciiLowercased: String {
    String(decoding: utf8.map { 0x41...0x5A ~= $0 ? $0 | 0x20 : $0 }, as: UTF8.self)
  }
}

/// Whether `name` matches a pattern of `*`, `?` and `[set]` (glob(7)), ASCII letters of either case alike if said so.
/// Takes at most as many steps as both lengths multiplied.
func matchesGlob(_ name: String, _ pattern: String) -> Bool {
  let name = Array(name.utf8)
  let pattern = Array(pattern.utf8)
  var (n, p) = (0, 0)
  var star: (p: Int, n: Int)?
  while n < name.count {
    if p < pattern.count, pattern[p] == UInt8(ascii: "*") {
      star = (p, n)
      p += 1
    } else if p < pattern.count, let next = matchesOne(name[n], pattern, p) {
      n += 1
      p = next
    } else if let last = star {
      star = (last.p, last.n + 1)
      (p, n) = (last.p + 1, last.n + 1)
    } else {
      return false
    }
  }
  return pattern[p...].allSatisfy { $0 == UInt8(ascii: "*") }
}

/// Where the pattern goes on if its element at `index` matches the byte.
private func matchesOne(_ byte: UInt8, _ pattern: [UInt8], _ index: Int) -> Int? {
  switch pattern[index] {
  case UInt8(ascii: "?"): return index + 1
  case UInt8(ascii: "["):
    guard let end = pattern[min(index + 2, pattern.count)...].firstIndex(of: UInt8(ascii: "]")) else { break }
    var set = pattern[(index + 1)..<end]
    let isNegated = set.first == UInt8(ascii: "!") || set.first == UInt8(ascii: "^")
    if isNegated { set.removeFirst() }
    var found = false
    while let low = set.popFirst() {
      var high = low
      if set.count >= 2, set.first == UInt8(ascii: "-") {
        set.removeFirst()
        high = set.removeFirst()
      }
      if low <= byte, byte <= high { found = true }
    }
    return found != isNegated ? end + 1 : nil
  case UInt8(ascii: "\\") where index + 1 < pattern.count:
    return pattern[index + 1] == byte ? index + 2 : nil
  default: break
  }
  return pattern[index] == byte ? index + 1 : nil
}
