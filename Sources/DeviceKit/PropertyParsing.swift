import MachineModel

/// A `HEAD[,key=value…]` argument taken apart. `,,` is a comma within a part.
public struct KeyValueList: Sendable, Equatable {
  public struct Item: Sendable, Equatable {
    public let key: String
    /// nil: the part has no `=`.
    public let value: String?
  }

  public let head: String
  public let items: [Item]

  public init(_ text: String) {
    var parts = [""]
    var rest = text[...]
    while let character = rest.popFirst() {
      if character != "," {
        parts[parts.count - 1].append(character)
      } else if rest.first == "," {
        rest.removeFirst()
        parts[parts.count - 1].append(",")
      } else {
        parts.append("")
      }
    }
    head = parts[0]
    items = parts.dropFirst().map { part in
      guard let equals = part.firstIndex(of: "=") else { return Item(key: part, value: nil) }
      return Item(key: String(part[..<equals]), value: String(part[part.index(after: equals)...]))
    }
  }
}

/// What is wrong with a `--device` argument and what to write instead, in one line.
public enum PropertyError: Error, Equatable, Sendable, CustomStringConvertible {
  case noModel
  case unknownModel(String, nearest: String?)
  case unknownOption(model: String, option: String, nearest: String?, known: [String])
  case repeated(model: String, option: String)
  /// `expected` says what the value must be: `a number from 0 to 1`.
  case missingValue(model: String, option: String, expected: String)
  case wrongType(model: String, option: String, value: String, expected: String)
  case outOfRange(model: String, option: String, value: String, expected: String)

  public var description: String {
    switch self {
    case .noModel:
      "no device named; '--device help' lists them"
    case .unknownModel(let name, let nearest):
      if let nearest {
        "unknown device '\(name)', did you mean '\(nearest)'? '--device help' lists all"
      } else {
        "unknown device '\(name)'; '--device help' lists all"
      }
    case .unknownOption(let model, let option, let nearest, let known):
      "\(model) has no option '\(option)'" + (nearest.map { ", did you mean '\($0)'? It has " } ?? "; it has ")
        + known.joined(separator: ", ")
    case .repeated(let model, let option):
      "\(model) option '\(option)' is given twice"
    case .missingValue(let model, let option, let expected):
      "\(model) option '\(option)' has no value; write \(option)=VALUE with \(expected)"
    case .wrongType(let model, let option, let value, let expected):
      "\(model) option '\(option)' is '\(value)'; it must be \(expected)"
    case .outOfRange(let model, let option, let value, let expected):
      "\(model) option '\(option)' is '\(value)', out of range; it must be \(expected)"
    }
  }
}

extension Registry {
  /// Parses the argument of `--device`: a model's name and options. Values are typed and checked, defaults are
  /// filled in; options that were not given and have no default are absent. Every model also has `id`, which is
  /// `defaultID` where it is not given.
  public func device(parsing text: String, defaultID: String) throws(PropertyError) -> DeviceSpec {
    let list = KeyValueList(text)
    let model = try model(required: list.head)
    var values = try (model.options + [.id]).values(parsing: list.items, owner: model.name)
    var id = defaultID
    if case .string(let name)? = values.removeValue(forKey: OptionSpec.id.name) { id = name }
    return DeviceSpec(model: model.name, id: id, properties: values)
  }

  /// The options of a device, with the defaults of its model where the spec gives none.
  public func properties(of spec: DeviceSpec) -> Properties {
    Properties((model(named: spec.model)?.options.defaults ?? [:]).merging(spec.properties) { $1 })
  }

  /// The model of that name, or the error that names the nearest.
  public func model(required name: String) throws(PropertyError) -> DeviceModel {
    guard !name.isEmpty else { throw .noModel }
    guard let model = model(named: name) else {
      throw .unknownModel(name, nearest: nearestName(to: name, among: models.map(\.name)))
    }
    return model
  }
}

extension [OptionSpec] {
  /// The options that have a default, at that value.
  var defaults: [String: PropertyValue] {
    Dictionary(compactMap { option in option.defaultValue.map { (option.name, $0) } }) { $1 }
  }

  /// Types and checks `key=value` items against these options and fills in defaults. `owner` is what errors name.
  public func values(
    parsing items: [KeyValueList.Item], owner: String
  ) throws(PropertyError) -> [String: PropertyValue] {
    var values: [String: PropertyValue] = [:]
    for item in items {
      guard let option = first(where: { $0.name == item.key }) else {
        let known = map(\.name)
        throw .unknownOption(
          model: owner, option: item.key, nearest: nearestName(to: item.key, among: known), known: known)
      }
      guard let text = item.value, !text.isEmpty else {
        throw .missingValue(model: owner, option: item.key, expected: option.kind.expected)
      }
      let value = try option.value(parsing: text, model: owner)
      guard values.updateValue(value, forKey: item.key) == nil else {
        throw .repeated(model: owner, option: item.key)
      }
    }
    return defaults.merging(values) { $1 }
  }
}

extension OptionSpec {
  /// The option that every model has.
  public static let id = OptionSpec(
    "id", .string(maximumLength: 63), "Name of the device, unique in the machine; letters, digits, '.', '_' and '-'")

  /// The typed value of `text`; `model` is for the error.
  func value(parsing text: String, model: String) throws(PropertyError) -> PropertyValue {
    let wrongType = PropertyError.wrongType(model: model, option: name, value: text, expected: kind.expected)
    let outOfRange = PropertyError.outOfRange(model: model, option: name, value: text, expected: kind.expected)
    switch kind {
    case .boolean:
      switch text {
      case "on": return .boolean(true)
      case "off": return .boolean(false)
      default: throw wrongType
      }
    case .integer(let range):
      guard let digits = Self.digits(text) else { throw wrongType }
      guard let number = UInt64(digits.text, radix: digits.radix), range.contains(number) else { throw outOfRange }
      return .integer(number)
    case .size(let range):
      guard let bytes = Quantity.bytes(text) else { throw wrongType }
      guard range.contains(bytes) else { throw outOfRange }
      return .integer(bytes)
    case .choice(let choices):
      guard choices.contains(text) else { throw wrongType }
      return .string(text)
    case .string(let maximumLength):
      guard text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }) else { throw wrongType }
      guard text.count <= maximumLength else { throw outOfRange }
      guard name != Self.id.name || Self.isIdentifier(text) else { throw wrongType }
      return .string(text)
    case .macAddress:
      guard let address = MACAddress(text) else { throw wrongType }
      guard !address.isMulticast else { throw outOfRange }
      return .string(address.description)
    case .block, .character, .network:
      guard Self.isIdentifier(text) else { throw wrongType }
      return .string(text)
    case .pciAddress:
      let parts = text.split(separator: ".", omittingEmptySubsequences: false)
      guard 1...2 ~= parts.count, let slot = UInt64(parts[0], radix: 16),
        let function = parts.count == 2 ? UInt64(parts[1], radix: 16) : 0
      else { throw wrongType }
      guard slot < 32, function < 8 else { throw outOfRange }
      return .string((slot < 16 ? "0" : "") + String(slot, radix: 16) + ".\(function)")
    }
  }

  private static func digits(_ text: String) -> (text: Substring, radix: Int)? {
    let isHexadecimal = text.hasPrefix("0x") || text.hasPrefix("0X")
    let digits = isHexadecimal ? text.dropFirst(2) : text[...]
    guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && (isHexadecimal ? $0.isHexDigit : $0.isNumber) })
    else { return nil }
    return (digits, isHexadecimal ? 16 : 10)
  }

  /// A letter, then letters, digits, `.`, `_` and `-`.
  private static func isIdentifier(_ text: String) -> Bool {
    guard let first = text.first, first.isASCII, first.isLetter else { return false }
    return text.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) }
  }
}

extension OptionSpec.Kind {
  /// What a value must be, for messages and the manual: `a number from 0 to 1`.
  public var expected: String {
    switch self {
    case .boolean: "on or off"
    case .integer(let range): "a number from \(describe(range.lowerBound)) to \(describe(range.upperBound))"
    case .size(let range):
      "a size from \(Quantity.describe(bytes: range.lowerBound)) to \(Quantity.describe(bytes: range.upperBound))"
    case .choice(let choices):
      choices.count < 2
        ? choices.joined() : choices.dropLast().joined(separator: ", ") + " or " + choices[choices.count - 1]
    case .string(let maximumLength): "text of at most \(maximumLength) characters"
    case .block: "the name of a disk, such as disk0 or cdrom0"
    case .character: "the name of a serial connection, such as serial0"
    case .network: "the name of a network, such as net0"
    case .macAddress: "the Ethernet address of one station, such as 52:54:00:12:34:56"
    case .pciAddress: "a PCI slot from 00 to 1f and a function from 0 to 7, such as 03.0"
    }
  }

  /// How a value is written in a synopsis: `on|off`, `N`.
  public var placeholder: String {
    switch self {
    case .boolean: "on|off"
    case .integer: "N"
    case .size: "SIZE"
    case .choice(let choices): choices.joined(separator: "|")
    case .string: "TEXT"
    case .block: "DISK"
    case .character: "SERIAL"
    case .network: "NET"
    case .macAddress: "MAC"
    case .pciAddress: "SLOT.FUNCTION"
    }
  }

  /// A value as the user would write it.
  public func describe(_ value: PropertyValue) -> String {
    switch (self, value) {
    case (_, .boolean(let value)): value ? "on" : "off"
    case (.size, .integer(let value)): Quantity.describe(bytes: value)
    case (_, .integer(let value)): describe(value)
    case (_, .string(let value)): value
    }
  }

  /// Hexadecimal where the range ends at a power of two, as port and register ranges do.
  private func describe(_ value: UInt64) -> String {
    guard case .integer(let range) = self, range.upperBound > 0xFF else { return "\(value)" }
    let (end, _) = range.upperBound.addingReportingOverflow(range.upperBound & (0 &- range.upperBound))
    return end.nonzeroBitCount <= 1 ? "0x" + String(value, radix: 16) : "\(value)"
  }
}
