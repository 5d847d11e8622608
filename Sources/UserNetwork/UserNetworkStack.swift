import Backends
import CSlirp
import LinuxSystem
import MachineModel

/// Why there is no user network: one line that says what to do.
public struct UserNetworkError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  /// libslirp is not there: a run that did not ask for a network can do without.
  public let isMissingLibrary: Bool

  init(_ description: String, isMissingLibrary: Bool = false) {
    self.description = description
    self.isMissingLibrary = isMissingLibrary
  }
}

/// A guest's network that ends in sockets of this process: libslirp's TCP/IP stack between a socket that carries frames
/// and the host. Used by one thread.
// Safety: the stack holds an unretained pointer to this object, which is never freed: its process ends with it.
public final class UserNetworkStack {
  private var stack: OpaquePointer?
  private let link: CInt
  private var output: FrameQueue
  private let input: UnsafeMutableRawBufferPointer
  private let lengths: UnsafeMutableBufferPointer<UInt32>

  /// Frames that wait for the device process, in bytes, from which on the stack reads nothing more from the host.
  private static let highWater = 1 << 20
  private static let stride = 66_048

  /// Whether the dynamic linker's cache has libslirp, so that `load` may be expected to find it. Much faster than that.
  public static let isInstalled = cslirp_is_installed()

  /// Loads libslirp, with the rights that this takes.
  public static func load() throws(UserNetworkError) {
    guard let reason = cslirp_load() else { return }
    throw UserNetworkError(
      "libslirp cannot be loaded (\(String(cString: reason))); install it with: apt install libslirp0",
      isMissingLibrary: true)
  }

  /// Makes the stack on a datagram socket that somebody else owns. `load` comes before it.
  public init(link: CInt) throws(UserNetworkError) {
    self.link = link
    output = FrameQueue()
    input = .allocate(byteCount: FrameIO.batch * Self.stride, alignment: 64)
    lengths = .allocate(capacity: FrameIO.batch)
    lengths.initialize(repeating: 0)
    let context = Unmanaged.passUnretained(self).toOpaque()
    stack = cslirp_create(
      { context, frame, size in
        guard let context, let frame else { return }
        let stack = Unmanaged<UserNetworkStack>.fromOpaque(context).takeUnretainedValue()
        stack.output.append(UnsafeRawBufferPointer(start: frame, count: size))
      }, context)
    guard stack != nil else { throw UserNetworkError("libslirp refused its configuration") }
  }

  /// Listens on a port of the host.
  public func forward(_ forward: PortForward) throws(UserNetworkError) {
    let error = cslirp_forward(
      stack, forward.transport == .udp ? 1 : 0, forward.hostAddress.value, forward.hostPort,
      forward.guestAddress?.value ?? 0, forward.guestPort)
    guard error != 0 else { return }
    let advice =
      switch error {
      case ErrorNumber.addressInUse: "; give another port or end the program that has it"
      case ErrorNumber.accessDenied: "; give a port from 1024 on (sysctl net.ipv4.ip_unprivileged_port_start)"
      case ErrorNumber.addressNotAvailable: "; give an address that this host has"
      default: ""
      }
    throw UserNetworkError("hostfwd=\(forward): \(SystemError("bind", errno: error).reason)\(advice)")
  }

  /// Carries frames until `channel` or the device process hangs up.
  public func run(channel: CInt) {
    while true {
      var entries = [
        pollfd(fd: link, events: Int16(POLLIN) | (output.isEmpty ? 0 : Int16(POLLOUT)), revents: 0),
        pollfd(fd: channel, events: Int16(POLLIN), revents: 0),
      ]
      guard cslirp_wait(stack, &entries, 2, output.count >= Self.highWater) == 0, entries[1].revents == 0 else {
        return
      }
      guard output.send(on: link) else { return }
      guard entries[0].revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 else { continue }
      guard receive() else { return }
    }
  }

  /// Takes what the guest has sent; false: the device process is gone.
  private func receive() -> Bool {
    // A bounded number of rounds, so that a flood from the guest does not keep sockets waiting.
    for _ in 0..<8 {
      switch FrameIO.receiveDatagrams(into: input, stride: Self.stride, lengths: lengths, from: link) {
      case .done(let count):
        for index in 0..<count {
          let length = Int(lengths[index])
          guard length > 0 else { return false }
          guard length <= Self.stride else { continue }
          let start = index * Self.stride
          cslirp_input(stack, input.baseAddress.map { $0 + start }, length)
        }
        guard output.send(on: link) else { return false }
        if count < FrameIO.batch { return true }
      case .again: return true
      case .closed, .failed: return false
      }
    }
    return true
  }
}
