/// A network card as `--net …,model=` names it.
public enum NetworkCard: String, Sendable, Encodable, CaseIterable {
  case e1000
  case rtl8139
  case virtio

  /// The device model of the registry.
  public func deviceModel(in mode: Mode) -> String {
    guard self == .virtio else { return rawValue }
    return mode == .pv ? "virtio-net-device" : "virtio-net-pci"
  }

  /// What a network gets where nothing else was chosen.
  public static func standard(for mode: Mode) -> NetworkCard { mode == .hvm ? .e1000 : .virtio }
}

/// What is at the other end of a guest's network card.
public enum NetworkEndpoint: Sendable, Equatable, Encodable {
  /// Address translation by vmrun itself: the guest reaches what the user reaches.
  case user(forwards: [PortForward])
  /// A TAP interface of the host that vmrun attaches to.
  case tap(interface: String, queues: Int)
  /// TAP queues that whoever started vmrun has opened, by descriptor number.
  case tapDescriptors([Int32])
  case unix(UnixNetwork)
}

/// Frames over a Unix socket.
public struct UnixNetwork: Sendable, Equatable, Encodable {
  public enum Kind: String, Sendable, Encodable, CaseIterable {
    /// Each frame after its length in four bytes, most significant first.
    case stream
    /// A datagram for each frame.
    case dgram
  }

  public var kind: Kind
  /// The peer's socket, or vmrun's own where it listens.
  public var path: String
  /// vmrun makes the socket and waits for the peer.
  public var listens: Bool
  /// Where a datagram socket that does not listen gets its answers; nil: an address that the host chooses.
  public var local: String?

  public init(kind: Kind = .stream, path: String, listens: Bool = false, local: String? = nil) {
    self.kind = kind
    self.path = path
    self.listens = listens
    self.local = local
  }
}

/// A network that a card of the guest is connected to.
public struct NetworkSpec: Sendable, Encodable, Equatable {
  /// The name devices refer to it by: `net0`.
  public var id: String
  public var endpoint: NetworkEndpoint
  /// nil: what the mode has, or a device of the user's.
  public var card: NetworkCard?
  /// The card's address.
  public var mac: MACAddress
  /// Host file that gets a copy of every frame in pcap format.
  public var capture: String?
  /// Nobody asked for it: where the host cannot have it, the card has no link.
  public var isDefault: Bool

  public init(
    id: String, endpoint: NetworkEndpoint, card: NetworkCard? = nil, mac: MACAddress, capture: String? = nil,
    isDefault: Bool = false
  ) {
    self.id = id
    self.endpoint = endpoint
    self.card = card
    self.mac = mac
    self.capture = capture
    self.isDefault = isDefault
  }
}
