import Buses
import LinuxSystem
import Sandbox
import Synchronization

/// Interrupt inputs. Edges are posted where a processor of the engine's looks for them itself; otherwise inputs are eventfds,
/// at the other end of which the engine listens. One is made and given to the launcher when it is first needed, because
/// each that the engine listens to costs time when the machine starts and ends.
///
/// A level-triggered input is raised by its trigger and stays up until the guest's end of interrupt, which signals the
/// resample eventfd, or looks at the machine page itself; a source that is then still asserted triggers again. A source
/// that goes away before stays visible until that end of interrupt, which a guest sees at most as one spurious interrupt.
final class InterruptEvents: InterruptSink {
  /// The guest has ended an interrupt of some level-triggered input: to be waited for and answered by `resample`.
  let resampled: SharedEvent
  private let inputs: [Input]
  private let channel: Channel
  private let page: MachinePage
  private let messages = Mutex(0)

  private final class Input: Sendable {
    let edge = Mutex<SharedEvent?>(nil)
    let trigger = Mutex<SharedEvent?>(nil)
  }

  /// A vector of MSI-X: an eventfd whose route stands in the connection table.
  private final class Message: MessageInterrupt, @unchecked Sendable {
    private let index: Int
    private let event: SharedEvent
    private let page: MachinePage

    init(_ index: Int, _ event: SharedEvent, _ page: MachinePage) {
      self.index = index
      self.event = event
      self.page = page
    }

    override func route(_ message: MSIMessage) {
      page.connections.route(message: index, to: SharedRoute(address: message.address, data: message.data))
      page.raiseAttention()
    }

    override func signal() { if page.connections.admits(message: index) { event.event.signal() } }
  }

  init(channel: Channel, page: MachinePage) throws(SystemError) {
    self.channel = channel
    self.page = page
    resampled = try SharedEvent()
    inputs = (0..<InterruptFabric.inputCount).map { _ in Input() }
  }

  func pulse(_ input: Int) {
    guard !page.posted.post(input) else { return }
    inputs[input].edge.withLock { event in
      if event == nil { event = connect(.connectEdge, input) }
      event?.event.signal()
    }
  }

  func setLevel(_ input: Int, _ asserted: Bool) {
    page.setInput(input, asserted)
    if asserted { trigger(input) }
  }

  func trigger(_ input: Int) {
    inputs[input].trigger.withLock { event in
      if event == nil { event = connect(.connectLevel, input, resampled.raw) }
      event?.event.signal()
    }
  }

  /// The guest has ended an interrupt: inputs that are still asserted trigger again. To those whose interrupt has not
  /// ended that makes no difference.
  func resample() {
    _ = resampled.event.drain()
    for (index, input) in inputs.enumerated() where page.isAsserted(index) {
      input.trigger.withLock { $0?.event.signal() }
    }
  }

  func messageInterrupt() -> MessageInterrupt? {
    messages.withLock { count in
      guard count < ConnectionTable.messageCount, let event = try? SharedEvent(),
        (try? channel.send(.connectMessage, count.twoBytes, descriptors: [event.raw])) != nil
      else { return nil }
      count += 1
      return Message(count - 1, event, page)
    }
  }

  /// A new eventfd that the launcher connects to the input; what is signalled until then is not lost.
  private func connect(_ message: ChannelMessage, _ input: Int, _ further: CInt...) -> SharedEvent? {
    guard let event = try? SharedEvent() else { return nil }
    // Where the launcher is gone, so is the guest.
    try? channel.send(message, [UInt8(truncatingIfNeeded: input)], descriptors: [event.raw] + further)
    return event
  }
}

extension UInt32 {
  /// The number as a message carries it.
  var fourBytes: [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: self >> ($0 * 8)) } }

  /// nil unless there are four bytes.
  init?(fourBytes: ArraySlice<UInt8>) {
    guard fourBytes.count == 4 else { return nil }
    self = fourBytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
  }
}

extension Int {
  /// The low 16 bits as a message carries them.
  var twoBytes: [UInt8] { [UInt8(truncatingIfNeeded: self), UInt8(truncatingIfNeeded: self >> 8)] }
}
