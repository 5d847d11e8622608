import DeviceKit
import MachineModel
import Options
import Testing

@Suite struct NetworkOptionTests {
  struct Case: Sendable, CustomTestStringConvertible {
    let line: String
    let endpoint: NetworkEndpoint
    let change: @Sendable (inout NetworkSpec) -> Void
    var testDescription: String { line }

    init(
      _ line: String, _ endpoint: NetworkEndpoint, _ change: @escaping @Sendable (inout NetworkSpec) -> Void = { _ in }
    ) {
      self.line = line
      self.endpoint = endpoint
      self.change = change
    }
  }

  @Test(arguments: [
    Case("user", .user(forwards: [])),
    Case("user,model=virtio,mac=52:54:00:AB:cd:ef,pcap=a,,b.pcap", .user(forwards: [])) {
      $0.card = .virtio
      $0.mac = MACAddress("52:54:00:ab:cd:ef")!
      $0.capture = "a,b.pcap"
    },
    Case(
      "user,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::5353-10.0.2.99:53",
      .user(forwards: [PortForward("tcp:127.0.0.1:2222-:22")!, PortForward("udp:0.0.0.0:5353-10.0.2.99:53")!])),
    Case("tap,ifname=vm0", .tap(interface: "vm0", queues: 1)),
    Case("tap,ifname=vm0,queues=16,model=e1000", .tap(interface: "vm0", queues: 16)) { $0.card = .e1000 },
    Case("tap,fd=7", .tapDescriptors([7])),
    Case("tap,fd=7:9", .tapDescriptors([7, 9])),
    Case("unix,path=/tmp/passt.socket", .unix(UnixNetwork(path: "/tmp/passt.socket"))),
    Case("unix,path=s,listen=on", .unix(UnixNetwork(path: "s", listens: true))),
    Case("unix,path=s,type=dgram,local=t", .unix(UnixNetwork(kind: .dgram, path: "s", local: "t"))),
  ])
  func aNetworkIsWhatItsOptionsSay(_ entry: Case) {
    var expected = NetworkSpec(id: "net0", endpoint: entry.endpoint, mac: MACAddress(machine: "a.img", index: 0))
    entry.change(&expected)
    #expect(machine("a.img --net \(entry.line)")?.networks == [expected])
  }

  @Test func severalNetworksHaveNamesAndAddressesOfTheirOwn() {
    let networks = machine("a.img --net user --net unix,path=s --net tap,ifname=t")?.networks ?? []
    #expect(networks.map(\.id) == ["net0", "net1", "net2"])
    #expect(Set(networks.map(\.mac)).count == 3)
    #expect(networks.allSatisfy { !$0.isDefault })
  }

  /// The registry of these tests has no network card.
  @Test func withoutACardThereIsNoDefaultNetwork() {
    #expect(machine("a.img")?.networks == [])
    #expect(machine("a.img --net none")?.networks == [])
  }

  @Test func theDefaultIsAUserNetworkForTheModesOwnCard() {
    let card = DeviceModel(name: "e1000", summary: "card", bus: .pci) {
      (id: String, _: Properties, _: Board) throws(DeviceError) -> Device in Device(id: id)
    }
    func networks(_ arguments: [String]) -> [NetworkSpec]? {
      let environment = Environment(
        registry: Registry(registry.models + [card]), resolve: { spec, _ in spec }, run: { _, _ in .poweredOff },
        sandboxPolicy: { "" })
      guard case .run(let spec, _) = VMRunCommand.request(arguments, in: environment) else { return nil }
      return spec.networks
    }
    let mac = MACAddress(machine: "a.img", index: 0)
    #expect(
      networks(["a.img"]) == [NetworkSpec(id: "net0", endpoint: .user(forwards: []), mac: mac, isDefault: true)])
    #expect(networks(["--disk", "a.img,cache=none"])?.first?.mac == mac)
    #expect(networks(["a.img", "--net", "none"]) == [])
  }

  @Test(arguments: [
    ("usr", "user, tap, unix or none"), ("user --net none", "no other --net"),
    ("user,hostfwd=tcp:2222-:22", "hostfwd must be"), ("user,hostfwd=tcp::0-:22", "hostfwd must be"),
    ("user,hostfwd=tcp::65536-:22", "hostfwd must be"), ("user,hostfwd=icmp::1-:1", "hostfwd must be"),
    ("user,hostfwd=tcp:127.0.0.256:1-:1", "hostfwd must be"), ("user,hostfwd=tcp:127.1:1-:1", "hostfwd must be"),
    ("user,hostfwd", "hostfwd must be"), ("user,hostfwd=tcp::1-:1,hostfwd=tcp:0.0.0.0:1-:1", "given twice"),
    ("user,model=ne2k", "e1000, rtl8139 or virtio"), ("user,mac=52:54:00:12:34", "such as 52:54:00:12:34:56"),
    ("user,mac=53:54:00:12:34:56", "one station"), ("user,mac=+1:54:00:12:34:56", "one station"),
    ("user,ifname=vm0", "no option 'ifname'"), ("tap", "either ifname=NAME or fd=N"),
    ("tap,ifname=a,fd=3", "either ifname=NAME or fd=N"), ("tap,ifname=a234567890123456", "15 characters"),
    ("tap,ifname=a/b", "name of an interface"), ("tap,ifname=a,queues=17", "from 1 to 16"),
    ("tap,fd=2", "open descriptors above 2"), ("tap,fd=3:3", "open descriptors above 2"),
    ("tap,fd=x", "open descriptors above 2"), ("tap,fd=3,queues=1", "goes with ifname"),
    ("unix", "needs path=PATH"), ("unix,path=s,type=seqpacket", "stream or dgram"),
    ("unix,path=s,local=t", "own address of type=dgram"),
    ("unix,path=s,listen=on,local=t", "own address of type=dgram"),
    ("unix,path=s,type=dgram,listen=on", "listen=on is for type=stream"),
    ("unix,path=s,type=dgram,listen=on,local=t", "listen=on is for type=stream"),
  ])
  func aWrongNetworkIsAUsageErrorThatSaysWhatToWrite(_ options: String, _ advice: String) {
    guard case .failure(let status, let message) = request("a.img --net \(options)") else {
      Issue.record("accepted")
      return
    }
    #expect(status == .usage)
    #expect(message.contains(advice), "\(message)")
    #expect(!message.contains("\n"))
  }

  @Test func addressesAreWrittenAsTheyAreRead() {
    for text in ["52:54:00:12:34:56", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
      #expect(MACAddress(text)?.description == text)
    }
    for text in ["0.0.0.0", "10.0.2.15", "255.255.255.255"] { #expect(IPv4Address(text)?.description == text) }
    for text in ["tcp:127.0.0.1:2222-:22", "udp::1-10.0.2.99:65535"] {
      #expect(PortForward(text)?.description == text)
    }
  }

  @Test func aMachinesOwnAddressIsLocalStableAndNotAGroups() {
    let address = MACAddress(machine: "disk.img", index: 0)
    #expect(address == MACAddress(machine: "disk.img", index: 0))
    #expect(address != MACAddress(machine: "disk2.img", index: 0))
    #expect(address.octets[0] & 0b11 == 0b10)
    #expect(!address.isMulticast)
  }
}
