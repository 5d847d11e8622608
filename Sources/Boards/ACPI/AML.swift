/// A piece of ACPI Machine Language (ACPI 6.4 §20.2): a term, or several in a row.
struct AML: Sendable, Equatable {
  let bytes: [UInt8]

  init(bytes: [UInt8]) { self.bytes = bytes }

  /// Terms one after the other.
  init(_ terms: [AML]) { bytes = terms.flatMap(\.bytes) }

  /// Opcodes (§20.2); two bytes where the first is ExtOpPrefix.
  enum Opcode {
    static let zero: [UInt8] = [0x00]
    static let one: [UInt8] = [0x01]
    static let name: [UInt8] = [0x08]
    static let bytePrefix: [UInt8] = [0x0A]
    static let wordPrefix: [UInt8] = [0x0B]
    static let dwordPrefix: [UInt8] = [0x0C]
    static let stringPrefix: [UInt8] = [0x0D]
    static let qwordPrefix: [UInt8] = [0x0E]
    static let scope: [UInt8] = [0x10]
    static let buffer: [UInt8] = [0x11]
    static let package: [UInt8] = [0x12]
    static let method: [UInt8] = [0x14]
    static let local0: UInt8 = 0x60
    static let arg0: UInt8 = 0x68
    static let store: [UInt8] = [0x70]
    static let and: [UInt8] = [0x7B]
    static let or: [UInt8] = [0x7D]
    static let createDWordField: [UInt8] = [0x8A]
    static let lNot: [UInt8] = [0x92]
    static let lEqual: [UInt8] = [0x93]
    static let lLess: [UInt8] = [0x95]
    static let ifOp: [UInt8] = [0xA0]
    static let elseOp: [UInt8] = [0xA1]
    static let returnOp: [UInt8] = [0xA4]
    static let opRegion: [UInt8] = [0x5B, 0x80]
    static let field: [UInt8] = [0x5B, 0x81]
    static let device: [UInt8] = [0x5B, 0x82]
    static let processor: [UInt8] = [0x5B, 0x83]
  }

  /// A path of the namespace (§20.2.2): `_HID`, `\_SB.PCI0`, `^LNKA`. Segments are padded with underscores to four
  /// characters and cut there.
  struct NameString: Sendable, ExpressibleByStringLiteral, ExpressibleByStringInterpolation {
    let bytes: [UInt8]

    init(stringLiteral text: String) {
      let prefix = text.utf8.prefix { $0 == UInt8(ascii: "\\") || $0 == UInt8(ascii: "^") }
      let segments = text.utf8.dropFirst(prefix.count).split(separator: UInt8(ascii: ".")).prefix(255)
      let path: [UInt8] =
        switch segments.count {
        case 0: [0x00]
        case 1: []
        case 2: [0x2E]
        default: [0x2F, UInt8(segments.count)]
        }
      bytes = Array(prefix) + path + segments.flatMap { Self.segment($0) }
    }

    /// Letters and the number's last two hexadecimal digits, as in `CP0A`.
    init(_ letters: String, _ number: Int) {
      let digits = Array("0123456789ABCDEF".utf8)
      let two = [digits[number >> 4 & 0xF], digits[number & 0xF]]
      self.init(stringLiteral: letters + String(decoding: two, as: UTF8.self))
    }

    private static func segment(_ characters: Substring.UTF8View.SubSequence) -> [UInt8] {
      Array((Array(characters) + Array("____".utf8)).prefix(4))
    }
  }

  /// The length of a package (§20.2.4): one to four bytes that count themselves and the `count` bytes after them.
  static func pkgLength(covering count: Int) -> [UInt8] {
    for extra in 0...3 {
      let total = count + 1 + extra
      let limit = extra == 0 ? 1 << 6 : 1 << (4 + 8 * extra)
      if total < limit { return pkgLength(total, extra: extra) }
    }
    return pkgLength(1 << 28 - 1, extra: 3)
  }

  /// The same encoding for a number that does not count itself: the bits of a field unit.
  static func pkgLength(bits count: Int) -> [UInt8] {
    for extra in 0...3 where count < (extra == 0 ? 1 << 6 : 1 << (4 + 8 * extra)) {
      return pkgLength(count, extra: extra)
    }
    return pkgLength(1 << 28 - 1, extra: 3)
  }

  private static func pkgLength(_ value: Int, extra: Int) -> [UInt8] {
    guard extra > 0 else { return [UInt8(truncatingIfNeeded: value)] }
    let lead = UInt8(extra << 6 | value & 0xF)
    return [lead] + (0..<extra).map { UInt8(truncatingIfNeeded: value >> (4 + 8 * $0)) }
  }

  static func packaged(_ opcode: [UInt8], _ body: [UInt8]) -> AML {
    AML(bytes: opcode + pkgLength(covering: body.count) + body)
  }

  // MARK: Data objects (§20.2.3)

  static func integer(_ value: UInt64) -> AML {
    switch value {
    case 0: AML(bytes: Opcode.zero)
    case 1: AML(bytes: Opcode.one)
    case ...0xFF: AML(bytes: Opcode.bytePrefix + value.littleEndianBytes.prefix(1))
    case ...0xFFFF: AML(bytes: Opcode.wordPrefix + value.littleEndianBytes.prefix(2))
    case ...0xFFFF_FFFF: AML(bytes: Opcode.dwordPrefix + value.littleEndianBytes.prefix(4))
    default: AML(bytes: Opcode.qwordPrefix + value.littleEndianBytes)
    }
  }

  static func string(_ text: String) -> AML { AML(bytes: Opcode.stringPrefix + text.utf8 + [0]) }

  /// A PNP identifier such as `PNP0A03` as a compressed EISA ID (§19.6.36): three letters of five bits and four
  /// hexadecimal digits, most significant byte first.
  static func eisaID(_ identifier: String) -> AML {
    let letters = identifier.utf8.prefix(3).reduce(UInt32(0)) { $0 << 5 | UInt32($1 &- 0x40) & 0x1F }
    let digits = UInt32(identifier.dropFirst(3), radix: 16) ?? 0
    return AML(bytes: Opcode.dwordPrefix + (letters << 16 | digits & 0xFFFF).byteSwapped.littleEndianBytes)
  }

  static func package(_ elements: [AML]) -> AML {
    packaged(Opcode.package, [UInt8(truncatingIfNeeded: elements.count)] + AML(elements).bytes)
  }

  static func buffer(_ contents: [UInt8]) -> AML {
    packaged(Opcode.buffer, integer(UInt64(contents.count)).bytes + contents)
  }

  // MARK: Namespace modifiers and named objects (§20.2.5.1, §20.2.5.2)

  static func name(_ name: NameString, _ value: AML) -> AML { AML(bytes: Opcode.name + name.bytes + value.bytes) }

  static func scope(_ name: NameString, _ terms: [AML]) -> AML {
    packaged(Opcode.scope, name.bytes + AML(terms).bytes)
  }

  static func device(_ name: NameString, _ terms: [AML]) -> AML {
    packaged(Opcode.device, name.bytes + AML(terms).bytes)
  }

  /// A processor without a register block; `id` is its ACPI processor ID in the MADT.
  static func processor(_ name: NameString, id: UInt8) -> AML {
    packaged(Opcode.processor, name.bytes + [id, 0, 0, 0, 0, 0])
  }

  /// `arguments` is 0–7.
  static func method(_ name: NameString, arguments: UInt8 = 0, serialized: Bool = false, _ terms: [AML]) -> AML {
    packaged(Opcode.method, name.bytes + [arguments & 7 | (serialized ? 8 : 0)] + AML(terms).bytes)
  }

  enum RegionSpace: UInt8, Sendable {
    case systemMemory = 0
    case systemIO = 1
    case pciConfig = 2
  }

  static func operationRegion(_ name: NameString, _ space: RegionSpace, offset: UInt64, length: UInt64) -> AML {
    AML(bytes: Opcode.opRegion + name.bytes + [space.rawValue] + integer(offset).bytes + integer(length).bytes)
  }

  enum FieldUnit: Sendable {
    case named(NameString, bits: Int)
    case reserved(bits: Int)
  }

  /// A field accessed by bytes, without the global lock, that preserves the other bits.
  static func byteField(_ region: NameString, _ units: [FieldUnit]) -> AML {
    let byteAccess: UInt8 = 1
    let list = units.flatMap { unit -> [UInt8] in
      switch unit {
      case .named(let name, let bits): name.bytes + pkgLength(bits: bits)
      case .reserved(let bits): [0] + pkgLength(bits: bits)
      }
    }
    return packaged(Opcode.field, region.bytes + [byteAccess] + list)
  }

  static func createDWordField(_ buffer: AML, byte index: UInt64, _ name: NameString) -> AML {
    AML(bytes: Opcode.createDWordField + buffer.bytes + integer(index).bytes + name.bytes)
  }

  // MARK: Statements and expressions (§20.2.5.3, §20.2.5.4)

  /// The value of a named object.
  static func path(_ name: NameString) -> AML { AML(bytes: name.bytes) }

  /// A method call; the method must be defined with as many arguments.
  static func call(_ name: NameString, _ arguments: [AML]) -> AML { AML(bytes: name.bytes + AML(arguments).bytes) }

  /// `Local0`–`Local7`.
  static func local(_ number: UInt8) -> AML { AML(bytes: [Opcode.local0 + number & 7]) }
  /// `Arg0`–`Arg6`.
  static func arg(_ number: UInt8) -> AML { AML(bytes: [Opcode.arg0 + number % 7]) }

  static func store(_ value: AML, to target: AML) -> AML { AML(bytes: Opcode.store + value.bytes + target.bytes) }

  /// `target` may be nil: the value is only returned.
  static func and(_ left: AML, _ right: AML, to target: AML? = nil) -> AML {
    AML(bytes: Opcode.and + left.bytes + right.bytes + (target?.bytes ?? Opcode.zero))
  }

  static func or(_ left: AML, _ right: AML, to target: AML? = nil) -> AML {
    AML(bytes: Opcode.or + left.bytes + right.bytes + (target?.bytes ?? Opcode.zero))
  }

  static func not(_ value: AML) -> AML { AML(bytes: Opcode.lNot + value.bytes) }
  static func equal(_ left: AML, _ right: AML) -> AML { AML(bytes: Opcode.lEqual + left.bytes + right.bytes) }
  static func less(_ left: AML, _ right: AML) -> AML { AML(bytes: Opcode.lLess + left.bytes + right.bytes) }

  static func `if`(_ predicate: AML, _ terms: [AML], else otherwise: [AML] = []) -> AML {
    let then = packaged(Opcode.ifOp, predicate.bytes + AML(terms).bytes)
    return otherwise.isEmpty ? then : AML([then, packaged(Opcode.elseOp, AML(otherwise).bytes)])
  }

  static func `return`(_ value: AML) -> AML { AML(bytes: Opcode.returnOp + value.bytes) }
}

extension FixedWidthInteger {
  /// The value's bytes, least significant first.
  var littleEndianBytes: [UInt8] { withUnsafeBytes(of: littleEndian, Array.init) }
}
