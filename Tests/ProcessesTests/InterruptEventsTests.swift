import Buses
import LinuxSystem
import Sandbox
import Testing

@testable import Processes

@Suite struct InterruptEventsTests {
  private let launcher: Channel
  private let events: InterruptEvents
  private let page: MachinePage

  init() throws {
    let (near, far) = try DatagramSocket.pair()
    launcher = Channel(owning: Descriptor(owning: near))
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)), isSealed: true)
    page = try MachinePage(memory, vcpus: 1, initialize: true)
    events = try InterruptEvents(channel: Channel(owning: Descriptor(owning: far)), page: page)
  }

  /// What the launcher is asked to connect next.
  private func asked() throws -> (message: ChannelMessage, payload: [UInt8], events: [SharedEvent])? {
    var entries = [PollEntry(launcher.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: 0)
    guard !entries[0].ready.isEmpty else { return nil }
    let (message, payload, descriptors) = try #require(launcher.receive())
    return (message, payload, descriptors.map(SharedEvent.init(owning:)))
  }

  @Test func anInputIsConnectedWhenItIsFirstUsedAndNoSignalIsLost() throws {
    #expect(try asked() == nil)
    events.pulse(4)
    events.pulse(4)
    let request = try #require(try asked())
    #expect(request.message == .connectEdge)
    #expect(request.payload == [4])
    #expect(request.events.map { $0.event.drain() } == [2])
    events.pulse(4)
    #expect(try asked() == nil)
    #expect(request.events.map { $0.event.drain() } == [1])
  }

  @Test func aLevelThatStaysTriggersAgainAtTheEndOfInterrupt() throws {
    events.setLevel(9, false)
    #expect(try asked() == nil)
    events.setLevel(9, true)
    let request = try #require(try asked())
    #expect(request.message == .connectLevel)
    #expect(request.payload == [9])
    try #require(request.events.count == 2)
    let (trigger, resample) = (request.events[0], request.events[1])
    #expect(trigger.event.drain() == 1)

    resample.event.signal()
    events.resample()
    #expect(trigger.event.drain() == 1)
    #expect(events.resampled.event.drain() == 0)

    events.setLevel(9, false)
    resample.event.signal()
    events.resample()
    #expect(trigger.event.drain() == 0)
  }

  @Test func aSourceWithSharedRegistersTriggersAgainWhileItsPinIsUp() throws {
    let memory = try Descriptor.memory(named: "page", size: UInt64(MachinePage.size(vcpus: 1)), isSealed: true)
    let page = try MachinePage(memory, vcpus: 1, initialize: true)
    let (near, far) = try DatagramSocket.pair()
    let launcher = Channel(owning: Descriptor(owning: near))
    let events = try InterruptEvents(channel: Channel(owning: Descriptor(owning: far)), page: page)
    let fabric = InterruptFabric(sink: events)
    let registers = page.registers[2]
    let line = fabric.intx(slot: 3, pin: 1, registers: registers)
    fabric.route(pirq: 2, to: 11)
    registers.setMask(1)
    registers.setCauses(1)
    #expect(registers.raisePin())
    line.set(true)
    let (message, payload, descriptors) = try #require(launcher.receive())
    let trigger = try #require(descriptors.map(SharedEvent.init(owning:)).first)
    #expect(message == .connectLevel && payload == [11] && trigger.event.drain() == 1)
    #expect(page.isAsserted(11) && !page.isAsserted(10))
    events.resample()
    #expect(trigger.event.drain() == 1)
    // A processor has read the causes; nobody told the device process.
    _ = registers.takeCauses()
    #expect(!page.isAsserted(11))
    events.resample()
    #expect(trigger.event.drain() == 0)
  }

  @Test func aMessageThatComesBeforeItsRouteIsInForceWaitsForTheLauncher() throws {
    let message = try #require(events.messageInterrupt())
    let request = try #require(try asked())
    #expect(request.message == .connectMessage && request.payload == [0, 0])
    let event = try #require(request.events.first)
    message.route(MSIMessage(address: 0xFEE0_0000, data: 0x41))
    #expect(page.attention == 1)
    message.signal()
    message.signal()
    #expect(event.event.drain() == 0)
    let (sequence, route) = try #require(page.connections.route(message: 0))
    #expect(route == SharedRoute(address: 0xFEE0_0000, data: 0x41))
    #expect(page.connections.applied(message: 0, sequence: sequence), "the launcher signals it")
    #expect(!page.connections.applied(message: 0, sequence: sequence), "once")
    message.signal()
    #expect(event.event.drain() == 1)
  }
}
