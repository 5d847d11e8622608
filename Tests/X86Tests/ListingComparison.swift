import X86

/// Compares decoder and disassembler with a listing, instruction by instruction.
struct ListingComparison {
  let mode: DecodeMode
  let decoder = Decoder()
  var count = 0
  var lengthDifferences = 0
  var textDifferences = 0
  /// Instructions left out, by reason.
  var skipped: [String: Int] = [:]
  /// The first few differences of each mnemonic.
  var examples: [String: [String]] = [:]

  init(mode: DecodeMode) { self.mode = mode }

  mutating func run(_ listing: Listing) {
    listing.forEachLine { compare($0) }
  }

  var report: String {
    "\(count) instructions, \(lengthDifferences) lengths and \(textDifferences) texts differ; left out: "
      + skipped.sorted { $0.value > $1.value }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
  }

  mutating func compare(_ line: ListingLine) {
    let words = Self.words(line.text)
    guard let mnemonic = words.first else {
      skipped["prefixes alone", default: 0] += 1
      return
    }
    if let reason = Self.reasonToSkip(line, words) {
      skipped[reason, default: 0] += 1
      return
    }
    count += 1
    let code = line.bytes + [UInt8](repeating: 0, count: 15)
    let outcome = code.withUnsafeBytes { decoder.decode($0, mode: mode) }
    if let reason = Self.reasonToDiffer(outcome, line, words) {
      count -= 1
      skipped[reason, default: 0] += 1
      return
    }
    guard case .instruction(let instruction) = outcome else {
      lengthDifferences += 1
      note(mnemonic, "\(outcome)", line)
      return
    }
    if Int(instruction.length) != line.bytes.count {
      lengthDifferences += 1
      note(mnemonic, "length \(instruction.length)", line)
      return
    }
    let ours = Self.normal(Disassembler.text(instruction, at: line.address))
    let theirs = Self.normal(line.text)
    if ours != theirs {
      if let reason = Self.reasonForText(instruction, ours, theirs) {
        count -= 1
        skipped[reason, default: 0] += 1
        return
      }
      textDifferences += 1
      note(mnemonic, ours, line)
    }
  }

  private mutating func note(_ mnemonic: String, _ ours: String, _ line: ListingLine) {
    guard examples[mnemonic, default: []].count < 3 else { return }
    let bytes = line.bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    examples[mnemonic, default: []].append("\(bytes): \(Self.normal(line.text)) | \(ours)")
  }

  /// Prefixes without effect, which objdump writes before the mnemonic.
  private static let idlePrefixes: Set<String> = [
    "data16", "data32", "addr16", "addr32", "cs", "ds", "es", "ss", "fs", "gs", "repz", "repnz", "rep", "bnd",
    "notrack", "lock", "xacquire", "xrelease",
  ]

  private static func isPrefix(_ word: String) -> Bool { idlePrefixes.contains(word) || word.hasPrefix("rex") }

  private static func words(_ text: String) -> [String] {
    text.split(whereSeparator: { $0 == " " || $0 == "\n" || $0 == "\t" }).map(String.init).drop(while: isPrefix).map { $0 }
  }

  /// Instructions outside the supported set, by extension.
  private static let unsupported: [String: String] = {
    let extensions = [
      "TSX": "xbegin xend xabort xtest",
      "3DNow!": "femms pi2fw pi2fd pf2iw pf2id pfnacc pfpnacc pfcmpge pfmin pfrcp pfrsqrt pfsub pfadd pfcmpgt pfmax "
        + "pfrcpit1 pfrsqit1 pfsubr pfacc pfcmpeq pfmul pfrcpit2 pmulhrw pswapd pavgusb",
      "MPX": "bndldx bndstx bndmov bndcl bndcu bndcn bndmk",
      "VMX, SMX": "vmread vmwrite getsec vmclear vmptrld vmptrst vmxon invept invvpid vmlaunch vmresume vmxoff",
      "CET": "rdsspd rdsspq incsspd incsspq saveprevssp setssbsy",
      "RAO-INT, CMPccXADD": "aadd aand aor axor cmpbxadd cmpbexadd cmplxadd cmplexadd cmpnbxadd cmpnbexadd cmpnlxadd "
        + "cmpnlexadd cmpnoxadd cmpnpxadd cmpnsxadd cmpnzxadd cmpoxadd cmppxadd cmpsxadd cmpzxadd",
      "8087 and 80287 control": "fneni(8087 fndisi(8087 fnsetpm(287 frstpm(287",
    ]
    var reasons: [String: String] = [:]
    for (name, mnemonics) in extensions {
      for mnemonic in mnemonics.split(separator: " ") { reasons[String(mnemonic)] = name }
    }
    return reasons
  }()

  /// Why an instruction is not compared.
  private static func reasonToSkip(_ line: ListingLine, _ words: [String]) -> String? {
    let mnemonic = words[0]
    if line.text.contains("(bad)") || mnemonic == ".byte" { return "undefined" }
    let escapes: Set<UInt8> = [0xC4, 0xC5, 0x62, 0x8F]
    if mnemonic.hasPrefix("v") || mnemonic.hasPrefix("k"), !escapes.isDisjoint(with: line.bytes) { return "AVX, XOP" }
    return unsupported[mnemonic]
  }

  /// Why an outcome may be another than objdump's.
  private static func reasonToDiffer(_ outcome: DecodeResult, _ line: ListingLine, _ words: [String]) -> String? {
    switch outcome {
    case .undefined:
      if line.text.contains("lock") { return "LOCK not permitted: #UD" }
      if words[0] == "mov", words.count > 1, words[1].hasPrefix("cs,") || line.text.contains("?") {
        return "no such segment register: #UD"
      }
      if words[0] == "mov", line.bytes.contains(0x0F) { return "no such control or debug register: #UD" }
      if words[0].hasPrefix("sysret") || words[0] == "syscall" { return "AMD: SYSCALL outside 64-bit mode" }
    case .instruction(let instruction):
      if instruction.operation == .fwait, words[0].hasPrefix("f") { return "FWAIT joined to the next" }
      if instruction.operation == .nop, instruction.opcode != 0x90, words[0] != "nop" { return "a hint to newer CPUs" }
      if instruction.operation == .wbinvd, words[0] == "wbnoinvd" { return "a hint to newer CPUs" }
      if instruction.rex & 1 != 0, words[0] == "pause" { return "XCHG R8 with F3" }
      // objdump writes FWORD for m16:64, and a 16-bit source for MOVSXD with 66 and REX.W.
      if instruction.rex & 8 != 0, instruction.operands[0].size == 10 || line.text.contains("FWORD PTR") { return "m16:64" }
      if instruction.rex & 8 != 0, words[0] == "movsxd", line.text.contains("WORD PTR") { return "66 under REX.W" }
    default: break
    }
    return nil
  }

  /// Why a text may be another than objdump's.
  private static func reasonForText(_ instruction: Instruction, _ ours: String, _ theirs: String) -> String? {
    if instruction.operands[0].kind == .relative, instruction.operandSize == 2, instruction.operands[0].size == 1,
      ours.suffix(3) == theirs.suffix(3)
    {
      return "objdump does not wrap IP for short branches"
    }
    if instruction.segmentPrefix == 0x3E, ours.replacing("ds:", with: "") == theirs.replacing("ds:", with: "") {
      return "3E is NOTRACK to objdump and an override here"
    }
    return nil
  }

  /// Text without symbols, comments, and prefixes without effect.
  static func normal(_ text: String) -> String {
    var words: [String] = []
    for word in text.split(whereSeparator: { $0 == " " || $0 == "\n" || $0 == "\t" }) {
      if word.hasPrefix("#") { break }
      if word.hasPrefix("<") { break }
      words.append(String(word))
    }
    words = Array(words.drop(while: isPrefix))
    // objdump writes the target of a branch without 0x when the file has symbols.
    if words.count == 2, let first = words.first, first.hasPrefix("j") || first == "call" || first.hasPrefix("loop") {
      if words[1].hasPrefix("0x") { words[1].removeFirst(2) }
    }
    return words.joined(separator: " ")
  }
}
