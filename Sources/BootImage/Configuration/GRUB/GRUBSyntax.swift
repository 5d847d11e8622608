/// A GRUB script as it is written (GNU GRUB manual, "Writing full configuration files directly").
indirect enum GRUBStatement: Equatable {
  /// Words, the first of which names the command, and the block of a `menuentry` or `submenu`.
  case command([GRUBWord], block: [GRUBStatement]?)
  case conditional([GRUBBranch], otherwise: [GRUBStatement])
  case forLoop(variable: String, words: [GRUBWord], body: [GRUBStatement])
  /// `until` is a `while` that waits for success.
  case whileLoop(condition: [GRUBStatement], body: [GRUBStatement], isUntil: Bool)
  case function(name: String, body: [GRUBStatement])
}

struct GRUBBranch: Equatable {
  let condition: [GRUBStatement]
  let body: [GRUBStatement]
}

/// A word before its variables are expanded.
struct GRUBWord: Equatable {
  enum Part: Equatable {
    case text([UInt8])
    /// What is not quoted is split at blanks.
    case variable(String, isQuoted: Bool)
  }

  var parts: [Part] = []
  /// It stays a word where it is empty.
  var isQuoted = false

  /// Its text, if it has neither quotes nor variables.
  var plain: [UInt8]? {
    guard !isQuoted, parts.count == 1, case .text(let text)? = parts.first else { return nil }
    return text
  }

  mutating func append(_ byte: UInt8) {
    if case .text(var text)? = parts.last {
      parts.removeLast()
      text.append(byte)
      parts.append(.text(text))
    } else {
      parts.append(.text([byte]))
    }
  }
}

enum GRUBToken: Equatable {
  case word(GRUBWord)
  /// The end of a line, or `;`.
  case separator
  case open
  case close
}

/// Splits a script into words.
struct GRUBLexer {
  private let bytes: [UInt8]
  private var position = 0
  private var tokens: [GRUBToken] = []
  private var word: GRUBWord?

  static func tokens(of bytes: [UInt8]) -> [GRUBToken] {
    var lexer = GRUBLexer(bytes)
    lexer.run()
    return lexer.tokens
  }

  private init(_ bytes: [UInt8]) { self.bytes = bytes }

  private var current: UInt8? { position < bytes.count ? bytes[position] : nil }
  private func peek(_ distance: Int) -> UInt8? {
    position + distance < bytes.count ? bytes[position + distance] : nil
  }

  private mutating func run() {
    while let byte = current {
      position += 1
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): endWord()
      case UInt8(ascii: "\n"), UInt8(ascii: ";"), UInt8(ascii: "|"), UInt8(ascii: "&"): end(with: .separator)
      case UInt8(ascii: "{"): end(with: .open)
      case UInt8(ascii: "}"): end(with: .close)
      case UInt8(ascii: "#") where word == nil:
        while let next = current, next != UInt8(ascii: "\n") { position += 1 }
      case UInt8(ascii: "\\"): escape()
      case UInt8(ascii: "'"): singleQuoted()
      case UInt8(ascii: "\""): doubleQuoted()
      case UInt8(ascii: "$"): variable(isQuoted: false)
      default: add(byte)
      }
    }
    endWord()
  }

  private mutating func endWord() {
    if let word { tokens.append(.word(word)) }
    word = nil
  }

  private mutating func end(with token: GRUBToken) {
    endWord()
    tokens.append(token)
  }

  private mutating func add(_ byte: UInt8) {
    var extended = word ?? GRUBWord()
    word = nil
    extended.append(byte)
    word = extended
  }

  private mutating func quote() {
    if word == nil { word = GRUBWord() }
    word?.isQuoted = true
  }

  /// A backslash before an end of line takes it away, else the next byte is meant.
  private mutating func escape() {
    guard let next = current else { return }
    position += 1
    guard next != UInt8(ascii: "\n") else { return }
    quote()
    add(next)
  }

  private mutating func singleQuoted() {
    quote()
    while let byte = current {
      position += 1
      guard byte != UInt8(ascii: "'") else { return }
      add(byte)
    }
  }

  private mutating func doubleQuoted() {
    quote()
    while let byte = current {
      position += 1
      switch byte {
      case UInt8(ascii: "\""): return
      case UInt8(ascii: "\\"):
        guard let next = current else { return }
        switch next {
        case UInt8(ascii: "$"), UInt8(ascii: "\""), UInt8(ascii: "\\"):
          position += 1
          add(next)
        case UInt8(ascii: "\n"): position += 1
        default: add(byte)
        }
      case UInt8(ascii: "$"): variable(isQuoted: true)
      default: add(byte)
      }
    }
  }

  private mutating func variable(isQuoted: Bool) {
    let isBraced = current == UInt8(ascii: "{")
    let start = position + (isBraced ? 1 : 0)
    var end = start
    if let first = end < bytes.count ? bytes[end] : nil, "?@*#".utf8.contains(first) {
      end += 1
    } else {
      while end < bytes.count, Self.isName(bytes[end]) { end += 1 }
    }
    guard end > start, !isBraced || end < bytes.count && bytes[end] == UInt8(ascii: "}") else {
      return add(UInt8(ascii: "$"))
    }
    position = end + (isBraced ? 1 : 0)
    if word == nil { word = GRUBWord() }
    word?.parts.append(.variable(String(decoding: bytes[start..<end], as: UTF8.self), isQuoted: isQuoted))
  }

  static func isName(_ byte: UInt8) -> Bool {
    0x30...0x39 ~= byte || 0x41...0x5A ~= byte || 0x61...0x7A ~= byte || byte == UInt8(ascii: "_")
  }
}
