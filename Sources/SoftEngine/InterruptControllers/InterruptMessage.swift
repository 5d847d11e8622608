/// How an interrupt message acts on its target (SDM vol. 3 §11.6.1, ICR bits 10:8).
enum DeliveryMode: UInt8, Sendable {
  case fixed, lowestPriority, smi, reserved, nmi, initialize, startup, external

  /// The mode in bits 10:8 of an LVT entry, the ICR, a redirection entry or MSI data.
  init(bits: UInt32) { self = Self(rawValue: UInt8(truncatingIfNeeded: bits >> 8) & 7) ?? .reserved }
}

/// What travels from an I/O APIC, a local APIC or an MSI write to local APICs (SDM vol. 3 §11.6, §11.11).
struct InterruptMessage: Sendable, Equatable {
  /// Physical destination of every local APIC; an xAPIC sender's 0xFF is widened to it.
  static let broadcast = UInt32.max

  var vector: UInt8
  var mode: DeliveryMode
  var isLevel = false
  var isLogical = false
  /// Physical or logical ID of the targets, or `broadcast`.
  var destination: UInt32

  /// Widens an 8-bit destination.
  static func destination(xAPIC id: UInt8) -> UInt32 { id == 0xFF ? broadcast : UInt32(id) }

  init(vector: UInt8, mode: DeliveryMode, isLevel: Bool = false, isLogical: Bool = false, destination: UInt32) {
    self.vector = vector
    self.mode = mode
    self.isLevel = isLevel
    self.isLogical = isLogical
    self.destination = destination
  }

  /// The message that a write of `data` to `address` in 0xFEExxxxx is (SDM vol. 3 §11.11).
  init(msiAddress address: UInt64, data: UInt32) {
    self.init(
      vector: UInt8(truncatingIfNeeded: data), mode: DeliveryMode(bits: data), isLevel: data & 1 << 15 != 0,
      isLogical: address & 1 << 2 != 0,
      destination: Self.destination(xAPIC: UInt8(truncatingIfNeeded: address >> 12)))
  }
}

/// A register access that the processor answers with #GP(0).
public struct GeneralProtection: Error, Sendable, Equatable {
  public init() {}
}

/// One bit for each of the 256 vectors: IRR, ISR or TMR (SDM vol. 3 §11.8.4).
struct VectorSet: Sendable, Equatable {
  private var words: SIMD4<UInt64> = .zero

  subscript(vector: UInt8) -> Bool {
    get { words[Int(vector >> 6)] >> UInt64(vector & 63) & 1 != 0 }
    set {
      let bit: UInt64 = 1 << UInt64(vector & 63)
      if newValue { words[Int(vector >> 6)] |= bit } else { words[Int(vector >> 6)] &= ~bit }
    }
  }

  /// The vector of highest priority.
  var highest: UInt8? {
    for index in stride(from: 3, through: 0, by: -1) where words[index] != 0 {
      return UInt8(truncatingIfNeeded: index << 6 | (63 - words[index].leadingZeroBitCount))
    }
    return nil
  }

  /// 64 vectors of the set, 0 ≤ `index` < 4.
  func word(_ index: Int) -> UInt64 { words[index & 3] }

  /// Register 0–7: 32 vectors.
  func register(_ index: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: words[index >> 1 & 3] >> (index & 1 == 0 ? 0 : 32))
  }
}
