/// The processor a guest sees: a microarchitecture level, with features added or taken away (`--cpu v2,+aes`).
public struct CPUModel: Sendable, Equatable {
  public enum Level: String, Sendable, CaseIterable, Comparable {
    /// x86-64's baseline.
    case v1
    /// With SSE4.2, POPCNT and CMPXCHG16B.
    case v2
    /// All that the software CPU does.
    case max

    public static func < (a: Level, b: Level) -> Bool { a.order < b.order }
    private var order: Int { self == .v1 ? 0 : self == .v2 ? 1 : 2 }
  }

  /// Why a text names no processor.
  public struct ParseError: Error, Sendable, CustomStringConvertible {
    public let description: String
  }

  /// Whether CPUID shows each of `CPUFeature.table`.
  private var isShown: [Bool]
  /// As `--cpu` takes it.
  public let description: String

  public static let max = CPUModel(level: .max)

  public init(level: Level) {
    description = level.rawValue
    isShown = CPUFeature.table.map { $0.level <= level }
  }

  /// `LEVEL[,+FEATURE|,-FEATURE]…`; a feature that goes takes along those that need it.
  public init(parsing text: String) throws(ParseError) {
    var words = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    guard let level = Level(rawValue: words.removeFirst()) else {
      let names = Level.allCases.map(\.rawValue).joined(separator: ", ")
      throw ParseError(description: "the model must be one of \(names), then ,+feature or ,-feature")
    }
    isShown = CPUFeature.table.map { $0.level <= level }
    description = text
    for word in words {
      let name = word.dropFirst().map { $0 == "." || $0 == "-" ? "_" : String($0) }.joined()
      guard word.hasPrefix("+") || word.hasPrefix("-"), let feature = CPUFeature(rawValue: name) else {
        throw ParseError(
          description: "'\(word)' is no feature; write + or - and one of "
            + CPUFeature.allCases.map(\.rawValue).joined(separator: " "))
      }
      if word.hasPrefix("-") {
        remove(feature)
      } else {
        insert(feature)
      }
    }
  }

  /// The model without some features and those that need them.
  public func removing(_ features: [CPUFeature]) -> CPUModel {
    var model = self
    for feature in features { model.remove(feature) }
    return model
  }

  /// What CPUID shows.
  public var features: [CPUFeature] { rows.map(\.feature) }

  public func has(_ feature: CPUFeature) -> Bool { isShown[CPUFeature.place(of: feature)] }

  /// What the decoder lets through.
  public var instructions: InstructionAttributes {
    rows.reduce(into: []) { $0.formUnion($1.instructions) }
  }

  /// The feature bits of a register of a leaf.
  public func bits(leaf: UInt32, subleaf: UInt32 = 0, _ register: CPUIDRegister) -> UInt32 {
    rows.reduce(0) { bits, row in
      let flag = row.flag
      guard flag.leaf == leaf, flag.subleaf == subleaf, flag.register == register else { return bits }
      return bits | 1 << flag.bit
    }
  }

  /// Where CPUID shows each feature.
  public var flags: [CPUFeature.Flag] { rows.map(\.flag) }

  private var rows: [CPUFeature.Row] {
    zip(CPUFeature.table, isShown).compactMap { row, isShown in isShown ? row : nil }
  }

  private mutating func insert(_ feature: CPUFeature) {
    let place = CPUFeature.place(of: feature)
    isShown[place] = true
    for needed in CPUFeature.table[place].needs where !has(needed) { insert(needed) }
  }

  private mutating func remove(_ feature: CPUFeature) {
    isShown[CPUFeature.place(of: feature)] = false
    for row in CPUFeature.table where row.needs.contains(feature) && has(row.feature) { remove(row.feature) }
  }
}

extension CPUModel: Encodable {
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// Numbers that CPUID gives of every model.
public enum CPUIdentity {
  /// Family 6, model 2CH, stepping 2 (Westmere): the last of Intel's generations without AVX. `docs/decisions.md` says
  /// why.
  public static let signature: UInt32 = 0x0002_06C2
  public static let physicalAddressBits = 46
  public static let linearAddressBits = 48
  public static let brand = "vmrun software CPU"
}
