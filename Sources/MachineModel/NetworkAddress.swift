/// An Ethernet address (IEEE 802-2014 §8), written `52:54:00:12:34:56`. Encoded as its description.
public struct MACAddress: Sendable, Hashable, Encodable, LosslessStringConvertible {
  /// Six octets in the order of the wire.
  public let octets: [UInt8]

  /// nil unless there are six octets.
  public init?(_ octets: [UInt8]) {
    guard octets.count == 6 else { return nil }
    self.octets = octets
  }

  /// Parses six pairs of hexadecimal digits with colons between them.
  public init?(_ description: String) {
    let parts = description.split(separator: ":", omittingEmptySubsequences: false)
    let octets = parts.compactMap { part in
      part.utf8.count == 2 && part.allSatisfy(\.isHexDigit) ? UInt8(part, radix: 16) : nil
    }
    guard parts.count == 6 else { return nil }
    self.init(octets)
  }

  /// A locally administered address that is the same each time for the same machine: 52:54:00, then 24 bits of a hash of
  /// `name` (FNV-1a, folded), then `index` added.
  public init(machine name: String, index: Int) {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    let low = (hash ^ hash >> 24 ^ hash >> 48) &+ UInt64(truncatingIfNeeded: index)
    octets = [0x52, 0x54, 0x00] + [16, 8, 0].map { UInt8(truncatingIfNeeded: low >> $0) }
  }

  public var description: String {
    octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
  }

  /// Whether it addresses a group of stations: bit 0 of the first octet.
  public var isMulticast: Bool { octets[0] & 1 != 0 }

  public func encode(to encoder: any Encoder) throws { try encodeDescription(description, encoder) }
}

/// An IPv4 address, written `127.0.0.1`.
public struct IPv4Address: Sendable, Hashable, LosslessStringConvertible {
  /// Most significant octet first.
  public let value: UInt32

  public init(_ value: UInt32) { self.value = value }

  public init?(_ description: String) {
    let parts = description.split(separator: ".", omittingEmptySubsequences: false)
    let octets = parts.compactMap { part in
      1...3 ~= part.utf8.count && part.utf8.allSatisfy { 0x30...0x39 ~= $0 } ? UInt8(part) : nil
    }
    guard parts.count == 4, octets.count == 4 else { return nil }
    value = octets.reduce(0) { $0 << 8 | UInt32($1) }
  }

  /// Every address of the host (INADDR_ANY).
  public static let any = IPv4Address(0)

  public var description: String { [24, 16, 8, 0].map { "\(value >> $0 & 0xFF)" }.joined(separator: ".") }
}

/// A port of the host that leads into the guest: `tcp:127.0.0.1:2222-:22`. Encoded as its description.
public struct PortForward: Sendable, Hashable, Encodable, LosslessStringConvertible {
  public enum Transport: String, Sendable, CaseIterable {
    case tcp
    case udp
  }

  public let transport: Transport
  /// Where the host listens; `any` where it was left out.
  public let hostAddress: IPv4Address
  /// 1–65535.
  public let hostPort: UInt16
  /// nil: the address that DHCP gives the guest.
  public let guestAddress: IPv4Address?
  /// 1–65535.
  public let guestPort: UInt16

  /// Parses `tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT`.
  public init?(_ description: String) {
    let ends = description.split(separator: "-", omittingEmptySubsequences: false)
    guard ends.count == 2 else { return nil }
    let host = ends[0].split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    let guest = ends[1].split(separator: ":", omittingEmptySubsequences: false).map(String.init)
    guard host.count == 3, guest.count == 2, let transport = Transport(rawValue: host[0]),
      let hostAddress = host[1].isEmpty ? .any : IPv4Address(host[1]), let hostPort = UInt16(host[2]), hostPort > 0,
      guest[0].isEmpty || IPv4Address(guest[0]) != nil, let guestPort = UInt16(guest[1]), guestPort > 0
    else { return nil }
    self.transport = transport
    self.hostAddress = hostAddress
    self.hostPort = hostPort
    guestAddress = IPv4Address(guest[0])
    self.guestPort = guestPort
  }

  public var description: String {
    let host = hostAddress == .any ? "" : hostAddress.description
    return "\(transport.rawValue):\(host):\(hostPort)-\(guestAddress?.description ?? ""):\(guestPort)"
  }

  public func encode(to encoder: any Encoder) throws { try encodeDescription(description, encoder) }
}

private func encodeDescription(_ description: String, _ encoder: any Encoder) throws {
  var container = encoder.singleValueContainer()
  try container.encode(description)
}
