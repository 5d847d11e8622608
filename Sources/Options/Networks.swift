import DeviceKit
import MachineModel

extension VMRunCommand {
  /// What every `--net` but `none` takes.
  private static let cardOptions = [
    OptionSpec("model", .choice(NetworkCard.allCases.map(\.rawValue)), "Network card; the mode's own otherwise"),
    OptionSpec("mac", .macAddress, "Address of the card"),
    OptionSpec("pcap", .string(maximumLength: 4096), "File for a copy of every frame"),
  ]
  private static let tapOptions = [
    OptionSpec("ifname", .string(maximumLength: 15), "Interface of the host"),
    OptionSpec("queues", .integer(1...16), default: .integer(1), "Pairs of queues"),
    OptionSpec("fd", .string(maximumLength: 255), "Open TAP queues by descriptor number, with colons between them"),
  ]
  private static let unixOptions = [
    OptionSpec("path", .string(maximumLength: 107), "Socket"),
    OptionSpec(
      "type", .choice(UnixNetwork.Kind.allCases.map(\.rawValue)), default: .string("stream"), "Kind of socket"),
    OptionSpec("listen", .boolean, default: .boolean(false), "Make the socket and wait for the peer"),
    OptionSpec("local", .string(maximumLength: 107), "Own address of a datagram socket"),
  ]

  /// What `--net` gives, or the default: one user network where there is a card for it.
  func networks(_ registry: Registry) throws(UsageError) -> [NetworkSpec] {
    if net.contains("none") {
      guard net.count == 1 else { throw UsageError("--net none: takes no other --net beside it") }
      return []
    }
    let name = images.first ?? disk.first.map { KeyValueList($0).head } ?? cdrom.first ?? ""
    func address(_ index: Int) -> MACAddress { MACAddress(machine: name, index: index) }
    guard !net.isEmpty else {
      let mode = try chosenMode()
      let card = NetworkCard.standard(for: mode)
      guard registry.model(named: card.deviceModel(in: mode)) != nil else { return [] }
      return [NetworkSpec(id: "net0", endpoint: .user(forwards: []), mac: address(0), isDefault: true)]
    }
    var networks: [NetworkSpec] = []
    for text in net {
      networks.append(try networkSpec(text, id: "net\(networks.count)", mac: address(networks.count)))
    }
    return networks
  }

  private func networkSpec(_ text: String, id: String, mac: MACAddress) throws(UsageError) -> NetworkSpec {
    let list = KeyValueList(text)
    var items = list.items
    var forwards: [PortForward] = []
    let options: [OptionSpec]
    switch list.head {
    case "user":
      options = []
      for item in items where item.key == "hostfwd" {
        guard let forward = item.value.flatMap({ PortForward($0) }) else {
          throw UsageError(
            "--net", text,
            "hostfwd must be tcp or udp:[ADDRESS]:PORT-[ADDRESS]:PORT, such as hostfwd=tcp:127.0.0.1:2222-:22")
        }
        guard !forwards.contains(forward) else { throw UsageError("--net", text, "\(forward) is given twice") }
        forwards.append(forward)
      }
      items.removeAll { $0.key == "hostfwd" }
    case "tap": options = Self.tapOptions
    case "unix": options = Self.unixOptions
    default: throw UsageError("--net", text, "must be user, tap, unix or none, and then options with commas")
    }
    let properties: Properties
    do {
      properties = Properties(try (options + Self.cardOptions).values(parsing: items, owner: "a \(list.head) network"))
    } catch { throw UsageError("--net", text, "\(error)") }
    let endpoint: NetworkEndpoint
    switch list.head {
    case "tap": endpoint = try tap(properties, given: items.map(\.key), text)
    case "unix": endpoint = .unix(try unix(properties, text))
    default: endpoint = .user(forwards: forwards)
    }
    return NetworkSpec(
      id: id, endpoint: endpoint, card: properties.string("model").flatMap(NetworkCard.init),
      mac: properties.macAddress() ?? mac, capture: properties.string("pcap"))
  }

  private func tap(_ properties: Properties, given: [String], _ text: String) throws(UsageError) -> NetworkEndpoint {
    switch (properties.string("ifname"), properties.string("fd")) {
    case (let name?, nil):
      guard name.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x2F && $0 != 0x7F }) else {
        throw UsageError("--net", text, "ifname cannot be the name of an interface")
      }
      return .tap(interface: name, queues: Int(properties.integer("queues") ?? 1))
    case (nil, let numbers?):
      guard !given.contains("queues") else {
        throw UsageError("--net", text, "queues goes with ifname; give fd=N:N a number for each pair of queues")
      }
      let parts = numbers.split(separator: ":", omittingEmptySubsequences: false)
      let descriptors = parts.compactMap { part in Int32(part).flatMap { $0 > 2 ? $0 : nil } }
      guard descriptors.count == parts.count, descriptors.count <= 16, Set(descriptors).count == parts.count else {
        throw UsageError("--net", text, "fd must be one or more open descriptors above 2, such as fd=3 or fd=3:4")
      }
      return .tapDescriptors(descriptors)
    default: throw UsageError("--net", text, "needs either ifname=NAME or fd=N")
    }
  }

  private func unix(_ properties: Properties, _ text: String) throws(UsageError) -> UnixNetwork {
    guard let path = properties.string("path") else { throw UsageError("--net", text, "needs path=PATH") }
    let network = UnixNetwork(
      kind: properties.string("type").flatMap(UnixNetwork.Kind.init) ?? .stream, path: path,
      listens: properties.boolean("listen"), local: properties.string("local"))
    guard network.kind == .stream || !network.listens else {
      throw UsageError(
        "--net", text, "listen=on is for type=stream; with type=dgram each side has local= and the other's path=")
    }
    guard network.local == nil || network.kind == .dgram else {
      throw UsageError("--net", text, "local is the own address of type=dgram")
    }
    return network
  }
}
