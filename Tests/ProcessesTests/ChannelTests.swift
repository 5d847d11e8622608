import Backends
import DeviceKit
import LinuxSystem
import MachineModel
import Sandbox
import Testing

@testable import Processes

/// The two ends of a channel.
private func channels() throws -> (launcher: Channel, device: Channel) {
  let (near, far) = try DatagramSocket.pair()
  return (Channel(owning: Descriptor(owning: near)), Channel(owning: Descriptor(owning: far)))
}

private func isReadable(_ channel: Channel) -> Bool {
  var entries = [PollEntry(channel.raw, .readable)]
  waitForDescriptors(&entries, milliseconds: 0)
  return !entries[0].ready.isEmpty
}

@Suite struct ChannelTests {
  @Test func aHandoffArrivesAsItWasSent() throws {
    var spec = MachineSpec(cpus: 3, memory: 64 << 20, timeout: 5, sandbox: .strict)
    spec.blocks = [BlockSpec(id: "disk0", path: "/a \"b\"\n/ü.img", readOnly: true, cache: .none, snapshot: true)]
    spec.characters = [CharacterSpec(id: "serial0", endpoint: .unix("/run/x"))]
    let endpoints: [NetworkEndpoint] = [
      .user(forwards: [PortForward("tcp:127.0.0.1:2222-:22")].compactMap { $0 }), .tap(interface: "vm0", queues: 4),
      .tapDescriptors([3, 4]), .unix(UnixNetwork(kind: .dgram, path: "/a", local: "/b")),
    ]
    spec.networks = endpoints.enumerated().map { index, endpoint in
      NetworkSpec(
        id: "net\(index)", endpoint: endpoint, card: .virtio, mac: MACAddress(machine: "a", index: index),
        capture: "/c.pcap")
    }
    spec.devices = [
      DeviceSpec(model: "ide-hd", id: "hd", properties: ["drive": .string("disk0"), "unit": .integer(.max)])
    ]
    let handoff = Handoff(
      spec: spec, sandbox: .strict, spin: .max, deviceMemory: 1 << 40,
      blocks: [.init(geometry: ImageGeometry(size: 1 << 62, alignment: 4096), hasOverlay: true)],
      characters: [.init(kind: .listener, hasInput: false, hasOutput: true)], networks: [],
      files: ["firmware", "vgabios"],
      terminal: [0, 255, 7])
    let (launcher, device) = try channels()
    let event = try SharedEvent()
    try launcher.send(.configure, try handoff.encoded(), descriptors: [event.raw, event.raw])
    let (message, payload, descriptors) = try #require(device.receive())
    for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
    #expect(message == .configure)
    #expect(descriptors.count == 2)
    let decoded = try Handoff.decode(payload)
    #expect(decoded.spec == spec)
    #expect(decoded.spin == .max)
    #expect(decoded.blocks.map(\.geometry) == handoff.blocks.map(\.geometry))
    #expect(decoded.blocks.map(\.hasOverlay) == [true])
    #expect(decoded.characters.map(\.kind) == [.listener])
    #expect(decoded.files == handoff.files)
    #expect(decoded.terminal == [0, 255, 7])
  }

  @Test func whatBreaksTheProtocolIsTheEndOfTheConversation() throws {
    let (launcher, device) = try channels()
    try device.socket.send([0])
    #expect(launcher.receive() == nil)
    try device.socket.send([200, 1, 2])
    #expect(launcher.receive() == nil)
    try device.socket.send([UInt8](repeating: ChannelMessage.failed.rawValue, count: ChannelMessage.limit + 1))
    #expect(launcher.receive() == nil)
    _ = consume device
    #expect(launcher.receive() == nil)
  }
}

@Suite struct ChannelEventsTests {
  private let launcher: Channel
  private let device: Channel
  private let page: MachinePage
  private let events: ChannelEvents

  init() throws {
    (launcher, device) = try channels()
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)))
    page = try MachinePage(memory, vcpus: 1, initialize: true)
    events = ChannelEvents(socket: device.raw, page: page, timing: nil)
  }

  private func received() -> [[UInt8]] {
    var messages: [[UInt8]] = []
    while isReadable(launcher), let (message, payload, _) = launcher.receive() {
      messages.append([message.rawValue] + payload)
    }
    return messages
  }

  /// An engine may carry a guest's `rep outsb` as one access of 4096 items, which the launcher waits for.
  @Test func aFloodOfEventsIsOneOfEachKind() {
    for _ in 0..<4096 {
      events.post(.reset)
      events.post(.exit(3))
      events.post(.panicked)
      events.post(.powerOff)
    }
    #expect(received() == [[ChannelMessage.resetEvent.rawValue], [ChannelMessage.exitEvent.rawValue, 3]])
    #expect(page.postedEvents == 2)
  }

  @Test func afterTheResetEventsCountAgain() {
    events.post(.reset)
    events.post(.powerOff)
    events.machineResets()
    events.post(.reset)
    events.post(.panicked)
    #expect(
      received().map { $0[0] } == [
        ChannelMessage.resetEvent.rawValue, ChannelMessage.powerOffEvent.rawValue, ChannelMessage.resetEvent.rawValue,
        ChannelMessage.panickedEvent.rawValue,
      ])
  }

  @Test func everyChangeOfLegacyReplacementIsTold() {
    for enabled in [true, false, true] { events.post(.legacyReplacement(enabled)) }
    #expect(received() == [1, 0, 1].map { [ChannelMessage.legacyReplacementEvent.rawValue, $0] })
    #expect(page.postedEvents == 3)
    #expect(page.attention == 3)
  }
}

@Suite struct OutcomeTests {
  @Test func eachEndHasItsStatus() {
    let statuses: [(Outcome, UInt8)] = [
      (.poweredOff, 0), (.exited(0), 0), (.exited(77), 77), (.panicked, 121), (.resetRefused, 122), (.tripleFault, 123),
      (.timedOut, 124), (.failed("x"), 125), (.sandboxViolation("openat"), 126), (.quit, 130), (.signalled(15), 143),
      (.signalled(1), 129),
    ]
    for (outcome, status) in statuses { #expect(outcome.status.code == status) }
    #expect(Outcome.sandboxViolation("openat").message?.contains("openat") == true)
    #expect(Outcome.poweredOff.message == nil)
  }
}
