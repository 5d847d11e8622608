import DeviceKit
import LinuxSystem
import Sandbox
import Synchronization

/// Sends machine events to the launcher.
///
/// A reset that was asked for is not asked for again before it happens, and of the ways to end only the first counts:
/// one access of many items could otherwise fill the channel and hold its vCPU up, which the launcher waits for.
final class ChannelEvents: MachineEvents {
  private struct Sent {
    var reset = false
    var end = false
    var marks = 0
  }

  /// A guest that marks time in a loop shall not fill the terminal.
  private static let maximumMarks = 100

  private let socket: CInt
  private let page: MachinePage
  private let timing: Timing?
  private let sent = Mutex(Sent())

  /// `socket` stays open as long as this lives.
  init(socket: CInt, page: MachinePage, timing: Timing?) {
    self.socket = socket
    self.page = page
    self.timing = timing
  }

  func post(_ event: MachineEvent) {
    sent.withLock { sent in
      switch event {
      case .powerOff: sent.end = sent.end || send(.powerOffEvent)
      case .exit(let status): sent.end = sent.end || send(.exitEvent, [status])
      case .marked:
        guard let timing, sent.marks < Self.maximumMarks else { return }
        sent.marks += 1
        timing.step("the guest's mark \(sent.marks)")
      case .panicked: sent.end = sent.end || send(.panickedEvent)
      case .reset: sent.reset = sent.reset || send(.resetEvent)
      case .legacyReplacement(let enabled): _ = send(.legacyReplacementEvent, [enabled ? 1 : 0])
      }
    }
  }

  /// The launcher has stopped the vCPUs and overtakes whatever they said before.
  func machineResets() { sent.withLock { $0 = Sent(marks: $0.marks) } }

  private func send(_ message: ChannelMessage, _ payload: [UInt8] = []) -> Bool {
    guard (try? DatagramSocket.send([message.rawValue] + payload, on: socket)) != nil else { return false }
    // The vCPU that caused it waits for the launcher to act.
    page.countEvent()
    return true
  }
}
