/// Reads a script into statements. What it does not understand ends the statement, not the script: a menu is worth more
/// than an error in a part that a boot does not need.
struct GRUBParser {
  private let tokens: [GRUBToken]
  private var position = 0
  private var depth = 0

  private enum Word {
    static let ifWord = Array("if".utf8)
    static let then = Array("then".utf8)
    static let elif = Array("elif".utf8)
    static let elseWord = Array("else".utf8)
    static let fi = Array("fi".utf8)
    static let forWord = Array("for".utf8)
    static let inWord = Array("in".utf8)
    static let whileWord = Array("while".utf8)
    static let until = Array("until".utf8)
    static let doWord = Array("do".utf8)
    static let done = Array("done".utf8)
    static let function = Array("function".utf8)
  }

  static func parse(_ bytes: [UInt8]) throws(BootImageError) -> [GRUBStatement] {
    var parser = GRUBParser(GRUBLexer.tokens(of: bytes))
    var statements: [GRUBStatement] = []
    while parser.position < parser.tokens.count {
      statements += try parser.list(until: [])
      // A word or brace that closes nothing.
      parser.position += 1
    }
    return statements
  }

  private init(_ tokens: [GRUBToken]) { self.tokens = tokens }

  private var current: GRUBToken? { position < tokens.count ? tokens[position] : nil }

  private var reserved: [UInt8]? {
    guard case .word(let word)? = current else { return nil }
    return word.plain
  }

  private mutating func accept(_ word: [UInt8]) -> Bool {
    guard reserved == word else { return false }
    position += 1
    return true
  }

  private mutating func skipSeparators() { while current == .separator { position += 1 } }

  /// Statements up to one of these words, a closing brace or the end; none of these is taken.
  private mutating func list(until ends: [[UInt8]]) throws(BootImageError) -> [GRUBStatement] {
    depth += 1
    defer { depth -= 1 }
    guard depth <= BootLimits.depth * 2 else {
      throw BootImageError(.limit, "its blocks are nested too deeply")
    }
    var statements: [GRUBStatement] = []
    while true {
      skipSeparators()
      guard let token = current, token != .close else { return statements }
      if let word = reserved, ends.contains(word) { return statements }
      let start = position
      if let statement = try statement() { statements.append(statement) }
      if position == start { position += 1 }
    }
  }

  private mutating func statement() throws(BootImageError) -> GRUBStatement? {
    switch reserved {
    case Word.ifWord: return try conditional()
    case Word.forWord: return try forLoop()
    case Word.whileWord, Word.until:
      let isUntil = reserved == Word.until
      position += 1
      let condition = try list(until: [Word.doWord])
      return .whileLoop(condition: condition, body: try loopBody(), isUntil: isUntil)
    case Word.function: return try function()
    default: return try command()
    }
  }

  private mutating func conditional() throws(BootImageError) -> GRUBStatement {
    var branches: [GRUBBranch] = []
    var otherwise: [GRUBStatement] = []
    repeat {
      position += 1
      let condition = try list(until: [Word.then])
      _ = accept(Word.then)
      branches.append(
        GRUBBranch(condition: condition, body: try list(until: [Word.elif, Word.elseWord, Word.fi])))
    } while reserved == Word.elif
    if accept(Word.elseWord) { otherwise = try list(until: [Word.fi]) }
    _ = accept(Word.fi)
    return .conditional(branches, otherwise: otherwise)
  }

  private mutating func forLoop() throws(BootImageError) -> GRUBStatement? {
    position += 1
    guard let name = reserved else { return nil }
    position += 1
    _ = accept(Word.inWord)
    let words = words()
    skipSeparators()
    return .forLoop(variable: String(decoding: name, as: UTF8.self), words: words, body: try loopBody())
  }

  private mutating func loopBody() throws(BootImageError) -> [GRUBStatement] {
    _ = accept(Word.doWord)
    let body = try list(until: [Word.done])
    _ = accept(Word.done)
    return body
  }

  private mutating func function() throws(BootImageError) -> GRUBStatement? {
    position += 1
    guard let name = reserved else { return nil }
    position += 1
    skipSeparators()
    return .function(name: String(decoding: name, as: UTF8.self), body: try block() ?? [])
  }

  private mutating func command() throws(BootImageError) -> GRUBStatement? {
    let words = words()
    let block = try block()
    return words.isEmpty && block == nil ? nil : .command(words, block: block)
  }

  private mutating func words() -> [GRUBWord] {
    var words: [GRUBWord] = []
    while case .word(let word)? = current {
      words.append(word)
      position += 1
    }
    return words
  }

  private mutating func block() throws(BootImageError) -> [GRUBStatement]? {
    guard current == .open else { return nil }
    position += 1
    let statements = try list(until: [])
    if current == .close { position += 1 }
    return statements
  }
}
