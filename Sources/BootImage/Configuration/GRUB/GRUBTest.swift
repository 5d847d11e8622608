/// The expressions of `test` and `[`: `!`, `-a`, `-o`, parentheses, comparisons of strings and numbers, tests of files.
struct GRUBTest {
  private var words: ArraySlice<String>
  private let kind: (String) throws(BootImageError) -> PathKind?
  private var depth = 0

  /// `kind` says what a path is.
  static func evaluate(
    _ words: some Collection<String>, kind: @escaping (String) throws(BootImageError) -> PathKind?
  ) throws(BootImageError) -> Bool {
    var test = GRUBTest(words: Array(words)[...], kind: kind)
    return try test.disjunction()
  }

  private init(words: ArraySlice<String>, kind: @escaping (String) throws(BootImageError) -> PathKind?) {
    self.words = words
    self.kind = kind
  }

  private func word(_ distance: Int) -> String? {
    let index = words.startIndex + distance
    return index < words.endIndex ? words[index] : nil
  }

  private mutating func disjunction() throws(BootImageError) -> Bool {
    var value = try conjunction()
    while word(0) == "-o" {
      words.removeFirst()
      let next = try conjunction()
      value = value || next
    }
    return value
  }

  private mutating func conjunction() throws(BootImageError) -> Bool {
    var value = try primary()
    while let next = word(0), next != "-o", next != ")" {
      if next == "-a" { words.removeFirst() }
      guard word(0) != nil else { break }
      let other = try primary()
      value = value && other
    }
    return value
  }

  private mutating func primary() throws(BootImageError) -> Bool {
    depth += 1
    defer { depth -= 1 }
    guard depth <= BootLimits.depth else { throw BootImageError(.limit, "a test is nested too deeply") }
    guard let first = words.first else { return false }
    if let right = word(2), let operation = word(1), let value = Self.compare(first, operation, right) {
      words.removeFirst(3)
      return value
    }
    if first == "!" {
      words.removeFirst()
      let value = try primary()
      return !value
    }
    if first == "(" {
      words.removeFirst()
      let value = try disjunction()
      if word(0) == ")" { words.removeFirst() }
      return value
    }
    if let operand = word(1), let value = try unary(first, operand) {
      words.removeFirst(2)
      return value
    }
    words.removeFirst()
    return !first.isEmpty
  }

  private func unary(_ operation: String, _ operand: String) throws(BootImageError) -> Bool? {
    switch operation {
    case "-n": return !operand.isEmpty
    case "-z": return operand.isEmpty
    case "-e": return try kind(operand) != nil
    case "-d": return try kind(operand) == .directory
    case "-f":
      if case .file? = try kind(operand) { return true }
      return false
    case "-s": return try kind(operand) == .file(isEmpty: false)
    default: return nil
    }
  }

  private static func compare(_ left: String, _ operation: String, _ right: String) -> Bool? {
    switch operation {
    case "=", "==": return left == right
    case "!=": return left != right
    case "<": return left.utf8.lexicographicallyPrecedes(right.utf8)
    case ">": return right.utf8.lexicographicallyPrecedes(left.utf8)
    case "<=": return !right.utf8.lexicographicallyPrecedes(left.utf8)
    case ">=": return !left.utf8.lexicographicallyPrecedes(right.utf8)
    case "-eq": return number(left) == number(right)
    case "-ne": return number(left) != number(right)
    case "-lt": return number(left) < number(right)
    case "-le": return number(left) <= number(right)
    case "-gt": return number(left) > number(right)
    case "-ge": return number(left) >= number(right)
    case "-plt": return prefixed(left, right) { $0 < $1 }
    case "-pgt": return prefixed(left, right) { $0 > $1 }
    default: return nil
    }
  }

  private static func number(_ text: String) -> Int { Int(text) ?? 0 }

  /// Compares the numbers that follow a common prefix.
  private static func prefixed(_ left: String, _ right: String, _ compare: (Int, Int) -> Bool) -> Bool {
    let common = zip(left.utf8, right.utf8).prefix { $0 == $1 && !(0x30...0x39 ~= $0) }.count
    return compare(
      number(String(Substring(left.utf8.dropFirst(common)))), number(String(Substring(right.utf8.dropFirst(common)))))
  }
}
