/// The value of a device property: what `--device MODEL,key=value` gives after parsing.
public enum PropertyValue: Sendable, Equatable, Encodable {
  case boolean(Bool)
  case integer(UInt64)
  case string(String)

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .boolean(let value): try container.encode(value)
    case .integer(let value): try container.encode(value)
    case .string(let value): try container.encode(value)
    }
  }
}
