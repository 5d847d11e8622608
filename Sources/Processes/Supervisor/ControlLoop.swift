import Engines
import LinuxSystem
import MachineModel
import Sandbox

/// Waits for whatever can end or change the run: the device process, vCPUs, signals, the user's keys, the time limit.
struct ControlLoop<Machine: VirtualMachine>: ~Copyable {
  private let running: RunningMachine<Machine>
  private let devices: DeviceProcessLink
  private let networks: NetworkProcesses
  private let signals: SignalDescriptor
  private var pump: InputPump?
  private let terminal: TerminalMode?
  private let spec: MachineSpec
  /// When the devices' reset has taken too long; nil while none is under way.
  private var resetDeadline: UInt64?

  /// Devices finish their requests before they reset, which takes as long as the host's disk does.
  private static var resetPatience: UInt64 { 120_000_000_000 }

  init(
    _ running: RunningMachine<Machine>, devices: DeviceProcessLink, networks: NetworkProcesses,
    signals: consuming SignalDescriptor,
    pump: consuming InputPump?, terminal: TerminalMode?, spec: MachineSpec
  ) {
    self.running = running
    self.devices = devices
    self.networks = networks
    self.signals = signals
    self.pump = pump
    self.terminal = terminal
    self.spec = spec
  }

  /// Starts the guest and runs it to its end.
  mutating func run() throws -> Outcome {
    let deadline = spec.timeout.map { monotonicNanoseconds() + $0 }
    try running.start()
    while true {
      let now = monotonicNanoseconds()
      if let deadline, now >= deadline { return finish(.timedOut) }
      if let resetDeadline, now >= resetDeadline {
        return finish(.failed("the devices did not finish the guest's reset: their disk requests do not end"))
      }
      var entries = [
        devices.channel.raw, devices.child.pidfd.raw, signals.descriptor.raw, running.reports.event.descriptor.raw,
        running.violations.event.raw,
      ].map { PollEntry($0, .readable) }
      let network = entries.count..<entries.count + networks.count
      entries += networks.interests
      let keys = entries.count
      entries += pump?.interests ?? []
      let wait = [deadline, resetDeadline].compactMap { $0 }.min().map { $0 - now }
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(wait))
      let ready = entries.map { !$0.ready.isEmpty }
      // The channel first: the guest's own end counts before that of the process which reported it.
      if ready[0] {
        guard let received = devices.message(within: 0) else { return devices.ending() }
        if let outcome = try act(on: received) { return outcome }
      } else if ready[1] {
        return devices.ending()
      }
      if ready[2], let signal = signals.next() {
        switch signal {
        case SignalNumber.continued: terminal?.enterRaw()
        // A device process that is gone is noticed by its channel.
        case SignalNumber.windowChanged: if let size = terminal?.size { try? devices.resize(size) }
        case SignalNumber.user2: try? devices.measureDisks()
        default: return finish(.signalled(signal))
        }
      }
      if ready[3], let report = running.reports.take() {
        switch report {
        case .tripleFault: return finish(.tripleFault)
        case .failure(let failure):
          let advice = spec.accelerator == .soft ? "" : "; --accel soft may run it"
          return finish(.failed("the guest cannot go on: \(running.complete(failure))\(advice)"))
        case .deviceProcessGone: return devices.ending()
        }
      }
      if ready[4] {
        // The vCPU is parked where it was, so the machine is not paused as it otherwise would be.
        return .sandboxViolation(running.violations.callName ?? "a system call", by: "a vCPU thread")
      }
      if let outcome = networks.act(on: ready[network]) { return finish(outcome) }
      if ready[keys...].contains(true), let commands = pump?.pump(hasInput: ready[keys]) {
        for command in commands {
          switch command {
          case .quit: return finish(.quit)
          case .help: StandardStream.report(EscapeFilter.help)
          }
        }
      }
    }
  }

  /// Acts on a message; an outcome ends the run.
  private mutating func act(on received: DeviceProcessLink.Received) throws -> Outcome? {
    if resetDeadline != nil, received.message.isEvent {
      // Posted by another vCPU before it stopped: the reset overtakes it.
      running.handled.add()
      return nil
    }
    let payload = received.payload
    switch received.message {
    case .powerOffEvent: return finish(.poweredOff)
    case .exitEvent: return finish(.exited(payload.first ?? 0))
    case .panickedEvent: return finish(.panicked)
    case .resetEvent:
      guard spec.reboot else { return finish(.resetRefused) }
      return beginReset()
    case .resetDone where resetDeadline != nil:
      resetDeadline = nil
      return try running.restart() ? nil : finish(.failed("a vCPU did not reset"))
    case .legacyReplacementEvent:
      running.setLegacyReplacement(payload.first == 1)
      running.handled.add()
      return nil
    case .connectSocket where payload.count == 8:
      connectSocket(payload)
      return nil
    case .failed: return .failed(String(decoding: payload, as: UTF8.self))
    default:
      if try running.connect(received) { return nil }
      return .failed("the device process sent message \(received.message.rawValue), which is not expected now")
    }
  }

  /// Connects to the socket of a port for the device process, which can open none. Of the path it chooses the number
  /// alone.
  private func connectSocket(_ payload: [UInt8]) {
    guard let vsock = spec.vsock, let port = UInt32(fourBytes: payload[4...]) else { return }
    let request = Array(payload[..<4])
    do {
      let socket = try UnixSocket.connectNonblocking(to: "\(vsock.path)_\(port)")
      try devices.channel.send(.connectedSocket, request, descriptors: [socket.raw])
    } catch {
      // Nobody listens. A device process that is gone is noticed by its channel.
      try? devices.channel.send(.connectedSocket, request)
    }
  }

  /// Stops the vCPUs and lets the devices reset, which answer with `resetDone`.
  private mutating func beginReset() -> Outcome? {
    guard running.pause() else { return finish(.failed("a vCPU did not stop for the guest's reset")) }
    guard (try? devices.channel.send(.reset)) != nil else { return devices.ending() }
    resetDeadline = monotonicNanoseconds() + Self.resetPatience
    return nil
  }

  /// Stops the guest, lets devices put data where it is safe, and writes the text screen where it was asked for.
  private func finish(_ outcome: Outcome) -> Outcome {
    // A vCPU that waits for a device which does not answer is left where it is.
    _ = running.pause(patience: 1_000_000_000)
    let screen = devices.finish(unless: signals)
    if let path = spec.screenText, let screen {
      do throws(SystemError) {
        try replaceFile(path, with: screen)
      } catch {
        StandardStream.report("vmrun: --screen-text \(error)")
      }
    }
    return outcome
  }
}
