import Boards
import Buses
import DeviceKit
import Devices
import GuestMemory
import LinuxSystem
import MachineModel
import Sandbox

/// The process that holds all device models and image formats. It is this program again, started by the launcher with
/// `argument` and one socket, and ends with it.
public enum DeviceProcessMain {
  /// The first argument that says so.
  public static let argument = "--internal-device-process"
  static let channelDescriptor: CInt = 3

  /// Runs until the launcher says that the machine has ended, or is gone.
  public static func run() -> Never {
    ignore(SignalNumber.brokenPipe)
    ignore(SignalNumber.fileSizeExceeded)
    let channel = Channel(owning: Descriptor(owning: channelDescriptor))
    guard let (message, payload, descriptors) = channel.receive() else { endProcessNow(125) }
    do {
      if message == .closeImages {
        try UnclosedImages.closeAll(payload, descriptors, channel: channel)
        endProcessNow(0)
      }
      if message == .listEntries {
        try EntryListing.serve(payload, descriptors, channel: channel)
        endProcessNow(0)
      }
      guard message == .configure else { endProcessNow(125) }
      let handoff = try Handoff(wireBytes: payload)
      let machine = try DeviceMachine(handoff, descriptors, channel: channel)
      // Threads use it until the process has ended, which so comes before its release, whatever fails.
      withExtendedLifetime(machine) {
        do { try machine.serve() } catch { try? channel.send(.failed, Array("\(error)".utf8)) }
        endProcessNow(125)
      }
    } catch {
      try? channel.send(.failed, Array("\(error)".utf8))
    }
    endProcessNow(125)
  }
}

/// Everything that lives in the device process.
private final class DeviceMachine: Sendable {
  private let channel: Channel
  private let page: MachinePage
  private let interrupts: InterruptEvents
  private let resources: DeviceResources
  private let events: ChannelEvents
  private let devices: [Device]
  private let board: Board
  private let memory: Mapping
  private let deviceMemory: Mapping
  private let timers: TimerThread
  private let workers: WorkerThreads
  private let boot: DirectBoot?
  private let firmwareKernel: FirmwareKernel?
  /// How long bus servers poll, in TSC cycles.
  private let spin: UInt64
  /// What the sandbox lacks on this host.
  private let missing: [String]

  /// How long the host may take to accept what serial ports still hold at the end.
  private static let outputGrace: UInt64 = 1_000_000_000

  init(_ handoff: Handoff, _ descriptors: [CInt], channel: Channel) throws {
    let timing = handoff.timing.map { Timing(process: "devices", start: $0) }
    timing?.step("configured")
    let fixed = Handoff.fixedDescriptors
    guard descriptors.count >= fixed else {
      throw SystemError("recvmsg", "too few descriptors", errno: ErrorNumber.invalid)
    }
    let ram = Descriptor(owning: descriptors[0])
    let shared = Descriptor(owning: descriptors[1])
    let device = Descriptor(owning: descriptors[2])
    let layout = try PCMemoryLayout(memory: handoff.spec.memory)
    memory = try Mapping(sharingInHugePages: ram, count: Int(handoff.spec.memory))
    page = try MachinePage(shared, vcpus: handoff.spec.cpus, initialize: false)
    deviceMemory = try Mapping(sharing: device, count: Int(handoff.deviceMemory))

    let rings = DeviceResources.rings(handoff)
    if handoff.sandbox != .off {
      try Violation.report(to: page.violationWord)
      missing = try Lockdown.enter(channel: channel.raw)
      if handoff.sandbox == .strict, let first = missing.first {
        throw DeviceError("--sandbox strict: \(first)")
      }
    } else {
      missing = []
    }
    if let mode = handoff.terminal, let terminal = descriptors.last {
      try Lockdown.guardTerminal(terminal, mode: mode, channel: channel.raw)
    }
    if handoff.sandbox != .off {
      try SystemCallFilter(try BuiltInPolicy.device.policy()).install(on: .process)
    }

    timing?.step("sandbox closed")
    interrupts = try InterruptEvents(channel: channel, page: page)
    resources = try DeviceResources(handoff, descriptors[fixed...], rings: rings, channel: channel)
    let timers = TimerThread()
    let clock = HostClock()
    let queue = TimerQueue(clock: clock) { timers.wake() }
    self.timers = timers
    let ramBase = memory.base
    let regions = layout.ram.map { region in
      RAMRegion(
        guestAddress: region.guestAddress, count: Int(region.size), fileOffset: region.fileOffset,
        host: ramBase + Int(region.fileOffset))
    }
    self.channel = channel
    events = ChannelEvents(socket: channel.raw, page: page, timing: timing)
    workers = WorkerThreads(channel: channel, page: page, clock: clock, spin: handoff.spin)
    let guestMemory = GuestMemory(regions)
    let registers = SharedRegisterPool(page)
    spin = handoff.spin
    board = Board(
      memory: guestMemory, ports: .ports(postedRanges: SharedPostedRanges(page, ofPorts: true, registers)),
      mmio: .mmio(postedRanges: SharedPostedRanges(page, ofPorts: false, registers)),
      interrupts: InterruptFabric(sink: interrupts), timers: queue,
      events: events, mapper: SharedMemoryMapper(page),
      resources: resources, workers: workers, deviceMemory: deviceMemory.bytes)
    firmwareKernel = try Self.firmwareKernel(handoff, resources)
    try firmwareKernel?.offer(to: board.firmware)
    devices = try Recipe.assemble(handoff.spec, registry: catalog, on: board)
    timing?.step("devices made")
    boot = try Self.boot(handoff, resources, memory: guestMemory)
    try boot?.load(isFresh: true, channel: channel)
    if boot != nil { timing?.step("kernel loaded") }
    timing?.total("devices")
    resources.closeFiles()
  }

  /// Starts everything that calls devices, and says that the machine is ready.
  private func start() throws {
    for device in devices { device.start() }
    timers.run(board.timers)
    for (index, mailbox) in page.mailboxes.enumerated() {
      let server = MailboxServer(mailbox, spin: spin)
      _ = try HostThread("bus\(index)") { [ports = board.ports, mmio = board.mmio] in
        server.serve { request in Self.perform(request, ports: ports, mmio: mmio) }
        endProcessNow(125)
      }
    }
    try channel.send(.ready, missing.isEmpty ? [] : Array(missing.joined(separator: "\n").utf8))
  }

  /// The kernel that firmware is to start.
  private static func firmwareKernel(_ handoff: Handoff, _ resources: DeviceResources) throws -> FirmwareKernel? {
    let spec = handoff.spec
    guard spec.mode != .pv, handoff.boot?.hasKernel == true, let kernel = resources.bootFiles.first else { return nil }
    return FirmwareKernel(
      kernel: kernel, ramdisks: Array(resources.bootFiles.dropFirst()),
      machine: try Recipe.bootMachine(spec, arguments: spec.boot?.arguments ?? ""))
  }

  /// The kernel to be loaded; nil: firmware starts the machine.
  private static func boot(_ handoff: Handoff, _ resources: DeviceResources, memory: GuestMemory) throws -> DirectBoot?
  {
    let spec = handoff.spec
    guard spec.mode == .pv, let boot = handoff.boot else { return nil }
    let machine = try Recipe.bootMachine(spec, arguments: spec.boot?.arguments ?? "")
    if boot.hasKernel, let kernel = resources.bootFiles.first {
      let loader = KernelLoader(
        kernel: kernel, ramdisks: Array(resources.bootFiles.dropFirst()), machine: machine, unpacks: boot.unpacks)
      return DirectBoot(memory: memory) { loader }
    }
    guard let disk = spec.blocks.first.flatMap({ resources.block($0.id) }) else { return nil }
    let image = ImageBoot(spec, disk: disk, unpacks: boot.unpacks)
    return DirectBoot(memory: memory) { try image.loader() }
  }

  @inline(__always)
  private static func perform(_ request: MailboxRequest, ports: AddressSpace, mmio: AddressSpace) {
    guard let width = AccessWidth(rawValue: UInt8(truncatingIfNeeded: request.width)) else { return }
    let data = request.data
    guard data.count == request.width else {
      switch request.operation {
      case .portRead: ports.readString(request.address, width, into: data)
      case .portWrite: ports.writeString(request.address, width, from: UnsafeRawBufferPointer(data))
      case .memoryRead: mmio.readString(request.address, width, into: data)
      case .memoryWrite: mmio.writeString(request.address, width, from: UnsafeRawBufferPointer(data))
      case .flush: break
      }
      return
    }
    switch request.operation {
    case .portRead: store(ports.read(request.address, width), width, data)
    case .portWrite: ports.write(request.address, width, load(width, data))
    case .memoryRead: store(mmio.read(request.address, width), width, data)
    case .memoryWrite: mmio.write(request.address, width, load(width, data))
    case .flush: break
    }
  }

  @inline(__always)
  private static func store(_ value: UInt64, _ width: AccessWidth, _ data: UnsafeMutableRawBufferPointer) {
    switch width {
    case .byte: data.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
    case .word: data.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
    case .dword: data.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
    case .qword: data.storeBytes(of: value, as: UInt64.self)
    }
  }

  @inline(__always)
  private static func load(_ width: AccessWidth, _ data: UnsafeMutableRawBufferPointer) -> UInt64 {
    switch width {
    case .byte: UInt64(data.load(as: UInt8.self))
    case .word: UInt64(data.load(as: UInt16.self))
    case .dword: UInt64(data.load(as: UInt32.self))
    case .qword: data.load(as: UInt64.self)
    }
  }

  /// Answers the launcher and the guest's ends of interrupt, and starts workers, until the launcher is gone.
  func serve() throws {
    try start()
    let fixed = [channel.raw, interrupts.resampled.raw]
    var entries = (fixed + workers.events).map { PollEntry($0, .readable) }
    while true {
      waitForDescriptors(&entries)
      for index in fixed.count..<entries.count where !entries[index].ready.isEmpty {
        // Its own thread waits for it from now on.
        entries[index].descriptor = -1
        try workers.start(index - fixed.count)
      }
      if !entries[1].ready.isEmpty { interrupts.resample() }
      guard !entries[0].ready.isEmpty else { continue }
      guard let (message, payload, descriptors) = channel.receive() else {
        // The launcher was killed; where it ended by itself it has said so before.
        Lockdown.restoreTerminal()
        resources.drain(nanoseconds: 0)
        return
      }
      switch message {
      case .reset:
        events.machineResets()
        do {
          // Its files may have changed.
          try firmwareKernel?.offer(to: board.firmware)
          for device in devices { device.reset() }
          try boot?.load(isFresh: false, channel: channel)
        } catch {
          try? channel.send(.failed, Array("\(error)".utf8))
          continue
        }
        try? channel.send(.resetDone)
      case .finish:
        try? channel.send(.finishing)
        for device in devices { device.drain() }
        resources.drain(nanoseconds: Self.outputGrace)
        try? channel.send(.finished, Array(textScreen().utf8))
        endProcessNow(0)
      case .measureDisks: resources.measureDisks()
      case .connectedSocket: resources.connected(payload, descriptors)
      case .windowSize:
        guard payload.count == 4 else { return }
        resources.resizeTerminal(
          columns: UInt16(payload[0]) | UInt16(payload[1]) << 8, rows: UInt16(payload[2]) | UInt16(payload[3]) << 8)
      default: return
      }
    }
  }

  /// The text screen of the machine's display, a line each; empty in graphics modes.
  private func textScreen() -> String {
    let lines = board.sockets.find(screenSocket, as: (any Screen).self)?.textScreen()
    return (lines ?? []).map { $0 + "\n" }.joined()
  }
}
