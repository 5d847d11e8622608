import CSandbox
import CSeccomp

struct PolicyParser {
  let policy: String
  private var line = 0
  private var rules: [Policy.Rule] = []
  /// The rules' calls.
  private var numbers: [CInt] = []

  init(policy: String) { self.policy = policy }

  // In bytes: this runs at every start, and to find characters, or to make a string of each word, takes longer than all else.
  mutating func parse(_ text: String) throws(PolicyError) -> [Policy.Rule] {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      line += 1
      let content = rest.prefix { $0 != UInt8(ascii: "\n") }
      rest = rest[content.endIndex...].dropFirst()
      let text = content.prefix { $0 != UInt8(ascii: "#") }
      var words = Words(text)
      guard let label = words.next() else { continue }
      let rule = try rule(label, &words, reason: Words(content[text.endIndex...].dropFirst()).text)
      // By their numbers: to look at every rule before each other one takes longer than to read them.
      for index in numbers.indices where numbers[index] == rule.number {
        let earlier = rules[index]
        // An unconditional rule makes every other one for its call meaningless.
        if earlier.conditions.isEmpty || rule.conditions.isEmpty || earlier.conditions == rule.conditions {
          throw error(.overlaps(line: earlier.line))
        }
      }
      rules.append(rule)
      numbers.append(rule.number)
    }
    return rules
  }

  private func rule(
    _ label: ArraySlice<UInt8>, _ words: inout Words, reason: String
  ) throws(PolicyError) -> Policy.Rule {
    guard label.last == UInt8(ascii: ":"), let verb = words.next() else { throw error(.noAction) }
    let call = String(decoding: label.dropLast(), as: UTF8.self)
    let number = seccomp_syscall_resolve_name_arch(seccomp_arch_native(), call)
    guard number >= 0 else { throw error(.unknownCall(call)) }
    let action: Policy.Action
    if verb.isWord("allow") {
      action = .allow
    } else if verb.isWord("errno") {
      guard let name = words.next() else { throw error(.noAction) }
      guard name.first == UInt8(ascii: "E"), let value = constant(String(decoding: name, as: UTF8.self)),
        1...4095 ~= value
      else {
        throw error(.notAnErrno(String(decoding: name, as: UTF8.self)))
      }
      action = .errno(CInt(value))
    } else {
      throw error(.unknownAction(String(decoding: verb, as: UTF8.self)))
    }
    var conditions: [Policy.Condition] = []
    let clause = words
    if let word = words.next() {
      guard word.isWord("if") else { throw error(.badCondition(clause.text)) }
      var goesOn = true
      while goesOn {
        let condition = try condition(&words, &goesOn)
        guard !conditions.contains(where: { $0.argument == condition.argument }) else {
          throw error(.argumentTwice(condition.argument))
        }
        conditions.append(condition)
      }
    }
    guard !reason.isEmpty else { throw error(.noReason) }
    return Policy.Rule(
      line: line, call: call, number: number, action: action, conditions: conditions, reason: reason)
  }

  /// `argN OP VALUE` or `argN & MASK == VALUE`; `goesOn` is whether `and` follows.
  private func condition(_ words: inout Words, _ goesOn: inout Bool) throws(PolicyError) -> Policy.Condition {
    let start = words
    var wrong: PolicyError { error(.badCondition(start.text)) }
    guard let name = words.next(), name.count == 4, name.dropLast().isWord("arg"),
      let digit = name.last, UInt8(ascii: "0")...UInt8(ascii: "5") ~= digit, var operation = words.next()
    else { throw wrong }
    var mask: UInt64?
    if operation.isWord("&") {
      guard let word = words.next(), let next = words.next() else { throw wrong }
      mask = try number(word)
      operation = next
    }
    guard let comparison = Policy.Comparison(rawValue: String(decoding: operation, as: UTF8.self)),
      let last = words.next()
    else { throw wrong }
    if let and = words.next() {
      guard and.isWord("and") else { throw wrong }
    } else {
      goesOn = false
    }
    let argument = Int(digit - UInt8(ascii: "0"))
    guard let mask else {
      let value: Policy.Value = last.isWord("OWN_PID") ? .ownProcess : .number(try number(last))
      return Policy.Condition(argument: argument, mask: nil, comparison: comparison, value: value)
    }
    let value = try number(last)
    // A value outside the mask could never be equal.
    guard comparison == .equal, value & ~mask == 0 else { throw wrong }
    return Policy.Condition(argument: argument, mask: mask, comparison: comparison, value: .number(value))
  }

  /// Constants and numbers joined by `|`.
  private func number(_ text: ArraySlice<UInt8>) throws(PolicyError) -> UInt64 {
    var result: UInt64 = 0
    var rest = text
    while true {
      let part = rest.prefix { $0 != UInt8(ascii: "|") }
      let name = String(decoding: part, as: UTF8.self)
      let literal = name.hasPrefix("0x") ? UInt64(name.dropFirst(2), radix: 16) : UInt64(name)
      guard let value = literal ?? constant(name) else { throw error(.unknownConstant(name)) }
      result |= value
      guard part.endIndex < rest.endIndex else { return result }
      rest = rest[part.endIndex...].dropFirst()
    }
  }

  private func constant(_ name: String) -> UInt64? {
    var value: UInt64 = 0
    return csandbox_constant(name, &value) ? value : nil
  }

  private func error(_ problem: PolicyError.Problem) -> PolicyError {
    PolicyError(policy: policy, line: line, problem: problem)
  }
}

/// What is left of a line.
private struct Words {
  private var rest: ArraySlice<UInt8>

  init(_ rest: ArraySlice<UInt8>) { self.rest = rest }

  mutating func next() -> ArraySlice<UInt8>? {
    rest = rest.drop(while: Self.isBlank)
    guard !rest.isEmpty else { return nil }
    let word = rest.prefix { !Self.isBlank($0) }
    rest = rest[word.endIndex...]
    return word
  }

  /// Without the blanks around it.
  var text: String {
    let start = rest.drop(while: Self.isBlank)
    let end = start.lastIndex { !Self.isBlank($0) }.map(start.index(after:)) ?? start.startIndex
    return String(decoding: start[..<end], as: UTF8.self)
  }

  private static func isBlank(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
  }
}

extension ArraySlice<UInt8> {
  fileprivate func isWord(_ word: String) -> Bool { elementsEqual(word.utf8) }
}
