import Backends

/// The ports of a connection.
struct VsockPorts: Hashable, Sendable {
  let host: UInt32
  let guest: UInt32
}

/// A connection between a port of the host's and one of the guest's: its state, its credit in both directions (virtio
/// 1.2 §5.10.6.3) and what waits to go either way.
// Safety: belongs to the device's worker; others only carry it.
final class VsockConnection: @unchecked Sendable {
  /// Bytes that the guest may send before the host has taken them.
  static let bufferSize = 64 << 10
  /// Bytes that are read from the host at a time.
  static let chunk = 16 << 10

  enum State {
    /// The host has been asked for a stream.
    case connecting
    /// The guest has been asked.
    case requested
    case established
  }

  /// Packets without data that wait for the guest's buffers.
  struct Notices: OptionSet {
    let rawValue: UInt8
    static let request = Notices(rawValue: 1 << 0)
    static let response = Notices(rawValue: 1 << 1)
    static let creditUpdate = Notices(rawValue: 1 << 2)
    static let creditRequest = Notices(rawValue: 1 << 3)
    static let shutdown = Notices(rawValue: 1 << 4)
  }

  let ports: VsockPorts
  var stream: (any VsockStream)?
  var state: State
  var notices: Notices = []
  /// It is in the list of those that may have something for the guest.
  var isListed = false

  // To the guest.
  /// Read from the host and not yet sent.
  private(set) var incoming: ArraySlice<UInt8> = []
  var hostMayHaveMore = true
  private var hostHasEnded = false
  private var guestBuffer: UInt32 = 0
  private var guestForwarded: UInt32 = 0
  private var sent: UInt32 = 0
  private var hasAskedForCredit = false

  // From the guest.
  /// Sent by the guest and not yet taken by the host.
  private var outgoing: ArraySlice<UInt8> = []
  /// What the guest has ended (`VsockHeader.Shutdown`).
  private(set) var guestEnds: UInt32 = 0
  private var forwarded: UInt32 = 0
  private var toldForwarded: UInt32 = 0
  private var hasEndedSending = false
  private var hostTakesNoMore = false

  init(_ ports: VsockPorts, state: State, stream: (any VsockStream)? = nil) {
    self.ports = ports
    self.state = state
    self.stream = stream
  }

  // MARK: Credit

  /// Bytes that the guest has room for.
  var credit: Int {
    let used = sent &- guestForwarded
    return used <= guestBuffer ? Int(guestBuffer - used) : 0
  }

  func noteCredit(_ header: VsockHeader) {
    guestBuffer = header.bufferSize
    guestForwarded = header.forwarded
    if credit > 0 { hasAskedForCredit = false }
  }

  /// The header of a packet for the guest.
  func header(_ operation: UInt16) -> VsockHeader {
    var header = VsockHeader()
    header.sourcePort = ports.host
    header.destinationPort = ports.guest
    header.operation = operation
    header.bufferSize = UInt32(Self.bufferSize)
    header.forwarded = forwarded
    toldForwarded = forwarded
    return header
  }

  // MARK: To the guest

  /// Whether there is data that the guest has room for, read from the host if need be.
  func fetch() -> Bool {
    guard state == .established, guestEnds & VsockHeader.Shutdown.receive == 0 else { return false }
    if incoming.isEmpty, hostMayHaveMore, !hostHasEnded, let stream {
      // What arrives from here on is reported again.
      hostMayHaveMore = false
      let bytes = [UInt8](unsafeUninitializedCapacity: Self.chunk) { buffer, count in
        switch stream.receive(into: UnsafeMutableRawBufferPointer(buffer)) {
        case .bytes(let received): count = min(received, buffer.count)
        case .nothing: count = 0
        case .end:
          count = 0
          hostHasEnded = true
          notices.insert(.shutdown)
        }
      }
      if !bytes.isEmpty { hostMayHaveMore = true }
      incoming = bytes[...]
    }
    guard !incoming.isEmpty else { return false }
    if credit == 0, !hasAskedForCredit {
      hasAskedForCredit = true
      notices.insert(.creditRequest)
    }
    return credit > 0
  }

  /// Data is on its way to the guest.
  func noteSent(_ count: Int) {
    sent &+= UInt32(truncatingIfNeeded: count)
    incoming = incoming.dropFirst(count)
  }

  // MARK: From the guest

  /// Takes the data of a packet for the host. False: the guest had no credit for that.
  func take(_ chain: DescriptorChain, _ count: Int) -> Bool {
    guard count <= Self.bufferSize - outgoing.count else { return false }
    var skip = VsockHeader.size
    var left = count
    for run in chain.readable where left > 0 {
      if skip >= run.count {
        skip -= run.count
        continue
      }
      let part = UnsafeRawBufferPointer(rebasing: run[skip..<min(run.count, skip + left)])
      left -= part.count
      skip = 0
      // Straight from the guest's memory where nothing waits.
      let taken = outgoing.isEmpty ? give(part) : 0
      if taken < part.count { outgoing += part[taken...] }
    }
    return true
  }

  /// Gives the host what waits for it, and then ends its reading where the guest sends no more.
  func flush() {
    while !outgoing.isEmpty {
      let taken = outgoing.withUnsafeBytes { give($0) }
      guard taken > 0 else { return }
      outgoing = outgoing.dropFirst(taken)
    }
    outgoing = []
    if guestEnds & VsockHeader.Shutdown.send != 0, !hasEndedSending {
      hasEndedSending = true
      stream?.endSending()
    }
  }

  private func give(_ bytes: UnsafeRawBufferPointer) -> Int {
    guard let stream, !bytes.isEmpty else { return bytes.count }
    guard let taken = stream.send(bytes) else {
      if !hostTakesNoMore { notices.insert(.shutdown) }
      hostTakesNoMore = true
      return bytes.count
    }
    forwarded &+= UInt32(truncatingIfNeeded: taken)
    if forwarded &- toldForwarded >= UInt32(Self.bufferSize / 2) { notices.insert(.creditUpdate) }
    return taken
  }

  /// What the host has ended, in the flags of a shutdown.
  var hostEnds: UInt32 {
    (hostHasEnded ? VsockHeader.Shutdown.send : 0) | (hostTakesNoMore ? VsockHeader.Shutdown.receive : 0)
  }

  func noteShutdown(_ flags: UInt32) { guestEnds |= flags & VsockHeader.Shutdown.both }

  /// The guest has ended both directions, and the host has everything.
  var isOver: Bool { guestEnds == VsockHeader.Shutdown.both && outgoing.isEmpty }
}
