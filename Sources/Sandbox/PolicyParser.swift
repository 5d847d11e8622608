import CSandbox
import CSeccomp

struct PolicyParser {
  let policy: String
  private var line = 0
  private var rules: [Policy.Rule] = []
  /// The rules' calls.
  private var numbers: [CInt] = []

  init(policy: String) { self.policy = policy }

  mutating func parse(_ text: String) throws(PolicyError) -> [Policy.Rule] {
    // As an array of bytes: this runs at every start, and finding characters takes longer than all else here.
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      line += 1
      let content = rest.prefix { $0 != UInt8(ascii: "\n") }
      rest = rest[content.endIndex...].dropFirst()
      let text = content.prefix { $0 != UInt8(ascii: "#") }
      let tokens = words(text)
      if tokens.isEmpty { continue }
      let reason = trimmed(content[text.endIndex...].dropFirst())
      let rule = try rule(tokens[...], reason: reason)
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

  private func rule(_ tokens: ArraySlice<String>, reason: String) throws(PolicyError) -> Policy.Rule {
    var tokens = tokens
    guard let label = tokens.popFirst(), label.last == ":", let verb = tokens.popFirst() else {
      throw error(.noAction)
    }
    let call = String(label.dropLast())
    let number = seccomp_syscall_resolve_name_arch(seccomp_arch_native(), call)
    guard number >= 0 else { throw error(.unknownCall(call)) }
    let action: Policy.Action
    switch verb {
    case "allow": action = .allow
    case "errno":
      guard let name = tokens.popFirst() else { throw error(.noAction) }
      guard name.first == "E", let value = constant(name), (1...4095).contains(value) else {
        throw error(.notAnErrno(name))
      }
      action = .errno(CInt(value))
    default: throw error(.unknownAction(verb))
    }
    var conditions: [Policy.Condition] = []
    if let word = tokens.popFirst() {
      guard word == "if" else { throw error(.badCondition(([word] + tokens).joined(separator: " "))) }
      for part in tokens.split(separator: "and", omittingEmptySubsequences: false) {
        let condition = try condition(part)
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

  /// `argN OP VALUE` or `argN & MASK == VALUE`.
  private func condition(_ tokens: ArraySlice<String>) throws(PolicyError) -> Policy.Condition {
    let words = Array(tokens)
    var wrong: PolicyError { error(.badCondition(words.joined(separator: " "))) }
    let isMasked = words.count == 5 && words[1] == "&"
    guard words.count == 3 || isMasked else { throw wrong }
    guard words[0].hasPrefix("arg"), let argument = Int(words[0].dropFirst(3)), words[0] == "arg\(argument)",
      (0...5).contains(argument), let comparison = Policy.Comparison(rawValue: words[words.count - 2])
    else { throw wrong }
    let last = words[words.count - 1]
    if !isMasked {
      let value: Policy.Value = last == "OWN_PID" ? .ownProcess : .number(try number(last))
      return Policy.Condition(argument: argument, mask: nil, comparison: comparison, value: value)
    }
    let (mask, value) = (try number(words[2]), try number(last))
    // A value outside the mask could never be equal.
    guard comparison == .equal, value & ~mask == 0 else { throw wrong }
    return Policy.Condition(argument: argument, mask: mask, comparison: comparison, value: .number(value))
  }

  /// Constants and numbers joined by `|`.
  private func number(_ text: String) throws(PolicyError) -> UInt64 {
    var result: UInt64 = 0
    for part in text.split(separator: "|", omittingEmptySubsequences: false) {
      let literal = part.hasPrefix("0x") ? UInt64(part.dropFirst(2), radix: 16) : UInt64(part)
      guard let value = literal ?? constant(String(part)) else { throw error(.unknownConstant(String(part))) }
      result |= value
    }
    return result
  }

  private func constant(_ name: String) -> UInt64? {
    var value: UInt64 = 0
    return csandbox_constant(name, &value) ? value : nil
  }

  private func words(_ text: ArraySlice<UInt8>) -> [String] {
    text.split(whereSeparator: isBlank).map { String(decoding: $0, as: UTF8.self) }
  }

  private func trimmed(_ text: ArraySlice<UInt8>) -> String {
    let start = text.drop(while: isBlank)
    let end = start.lastIndex { !isBlank($0) }.map(start.index(after:)) ?? start.startIndex
    return String(decoding: start[..<end], as: UTF8.self)
  }

  private func isBlank(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") || byte == UInt8(ascii: "\r")
  }

  private func error(_ problem: PolicyError.Problem) -> PolicyError {
    PolicyError(policy: policy, line: line, problem: problem)
  }
}
