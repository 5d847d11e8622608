import Engines

/// A start state as the device process tells it: a byte for its kind and numbers of eight bytes, low byte first.
extension StartState {
  private enum Kind {
    static let resetVector: UInt8 = 0
    static let protected: UInt8 = 1
    static let long: UInt8 = 2
  }

  var encoded: [UInt8] {
    switch self {
    case .resetVector: [Kind.resetVector]
    case .protected(let eip, let eax, let ebx, let esi, let gdt):
      Self.bytes(Kind.protected, [eip, eax, ebx, esi].map(UInt64.init) + [gdt])
    case .long(let rip, let rsi, let pageTables, let gdt): Self.bytes(Kind.long, [rip, rsi, pageTables, gdt])
    }
  }

  /// Nil: the message says nothing that can be understood. Any values are safe for the engine: a guest can reach them.
  init?(encoded bytes: [UInt8]) {
    guard let kind = bytes.first, bytes.count % 8 == 1 else { return nil }
    let values = stride(from: 1, to: bytes.count, by: 8).map { start in
      bytes[start..<start + 8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    }
    func short(_ index: Int) -> UInt32 { UInt32(truncatingIfNeeded: values[index]) }
    switch (kind, values.count) {
    case (Kind.resetVector, 0): self = .resetVector
    case (Kind.protected, 5):
      self = .protected(eip: short(0), eax: short(1), ebx: short(2), esi: short(3), gdt: values[4])
    case (Kind.long, 4): self = .long(rip: values[0], rsi: values[1], pageTables: values[2], gdt: values[3])
    default: return nil
    }
  }

  private static func bytes(_ kind: UInt8, _ values: [UInt64]) -> [UInt8] {
    [kind] + values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
  }
}
