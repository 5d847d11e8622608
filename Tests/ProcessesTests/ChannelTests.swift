import Backends
import DeviceKit
import LinuxSystem
import MachineModel
import Sandbox
import Testing
import X86

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
  /// Every field differs from its default.
  private static func handoff() throws -> Handoff {
    var spec = MachineSpec(
      mode: .pvhvm, accelerator: .soft, cpus: 3, cpu: try CPUModel(parsing: "max,-sse3"), memory: 64 << 20,
      firmware: "/bios", bootOrder: [.cdrom], vsock: VsockSpec(guestID: 7, path: "/run/v"), reboot: false, timeout: 5,
      sandbox: .strict, screenText: "/s", trace: TraceSpec(events: [.io, .interrupts], path: "/t"), timing: true)
    spec.boot = BootSpec(
      kernel: .descriptor(5), ramdisks: [.standardInput, .path("/i")], arguments: "quiet \"ü\"", entry: "2")
    spec.blocks = [
      BlockSpec(
        id: "disk0", path: "/a \"b\"\n/ü.img", format: .qcow2, formatIsProbed: true, backing: .file("/base"),
        readOnly: true, cache: .none, snapshot: true, limits: BlockRateLimits(requests: 1, bytes: .max),
        interface: .scsi), BlockSpec(id: "disk1", path: "", backing: .on),
    ]
    spec.characters = [CharacterSpec(id: "serial0", endpoint: .unix("/run/x"))]
    let endpoints: [NetworkEndpoint] = [
      .user(forwards: [PortForward("tcp:127.0.0.1:2222-:22")].compactMap { $0 }), .tap(interface: "vm0", queues: 4),
      .tapDescriptors([3, -4]), .unix(UnixNetwork(kind: .dgram, path: "/a", listens: true, local: "/b")),
    ]
    spec.networks = endpoints.enumerated().map { index, endpoint in
      NetworkSpec(
        id: "net\(index)", endpoint: endpoint, card: .virtio, mac: MACAddress(machine: "a", index: index),
        capture: "/c.pcap", isDefault: true)
    }
    spec.devices = [
      DeviceSpec(
        model: "ide-hd", id: "hd",
        properties: ["drive": .string("disk0"), "unit": .integer(.max), "on": .boolean(true)])
    ]
    return Handoff(
      spec: spec, sandbox: .strict, spin: .max, deviceMemory: 1 << 40,
      blocks: [.init(geometry: ImageGeometry(size: 1 << 62, alignment: 4096), hasOverlay: true)],
      characters: [.init(kind: .listener, hasInput: false, hasOutput: true)], networks: [],
      files: ["firmware", "vgabios"], boot: .init(hasKernel: true, names: ["k", "i"], unpacks: true), timing: 9,
      terminal: [0, 255, 7])
  }

  @Test func aHandoffArrivesAsItWasSent() throws {
    let handoff = try Self.handoff()
    let (launcher, device) = try channels()
    let event = try SharedEvent()
    try launcher.send(.configure, handoff.wireBytes, descriptors: [event.raw, event.raw])
    let (message, payload, descriptors) = try #require(device.receive())
    for descriptor in descriptors { _ = Descriptor(owning: descriptor) }
    #expect(message == .configure)
    #expect(descriptors.count == 2)
    let decoded = try Handoff(wireBytes: payload)
    #expect(decoded.spec == handoff.spec)
    #expect(decoded.sandbox == .strict)
    #expect(decoded.spin == .max)
    #expect(decoded.deviceMemory == 1 << 40)
    #expect(decoded.blocks.map(\.geometry) == handoff.blocks.map(\.geometry))
    #expect(decoded.blocks.map(\.hasOverlay) == [true])
    #expect(decoded.characters.map(\.kind) == [.listener])
    #expect(decoded.characters.map(\.hasOutput) == [true])
    #expect(decoded.files == handoff.files)
    #expect(decoded.boot?.names == ["k", "i"])
    #expect(decoded.boot?.unpacks == true)
    #expect(decoded.timing == 9)
    #expect(decoded.terminal == [0, 255, 7])
  }

  @Test func aHandoffThatIsCutShortOrTooLongIsRefused() throws {
    let bytes = try Self.handoff().wireBytes
    for count in bytes.indices {
      #expect(throws: WireError()) { try Handoff(wireBytes: Array(bytes.prefix(count))) }
    }
    #expect(throws: WireError()) { try Handoff(wireBytes: bytes + [0]) }
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
