import LinuxSystem
import MachineModel
import Sandbox
import Synchronization
import UserNetwork

/// The process that holds the sockets of one `--net user`. It is this program again, started by the launcher with
/// `argument` and one socket, and ends with it or with the device process.
public enum NetworkProcessMain {
  /// The first argument that says so.
  public static let argument = "--internal-network-process"

  /// What the launcher tells it, beside a socket for frames and memory for the record of a forbidden call.
  struct Configuration: WireCodable, Sendable {
    var forwards: [PortForward]
    var sandbox: SandboxLevel
  }

  /// Where libslirp looks for name servers.
  private static let resolverFile = "/etc/resolv.conf"

  /// Runs until the launcher or the device process is gone.
  public static func run() -> Never {
    ignore(SignalNumber.brokenPipe)
    let channel = Channel(owning: Descriptor(owning: DeviceProcessMain.channelDescriptor))
    guard let (message, payload, descriptors) = channel.receive(), message == .configure, descriptors.count == 2 else {
      endProcessNow(125)
    }
    do {
      let configuration = try Configuration(wireBytes: payload)
      let record = try ViolationRecord(sharing: Descriptor(owning: descriptors[1]))
      let stack = try start(configuration, link: descriptors[0], record: record, channel)
      stack.run(channel: channel.raw)
      endProcessNow(0)
    } catch let error as UserNetworkError where error.isMissingLibrary {
      try? channel.send(.unavailable, Array("\(error)".utf8))
    } catch {
      try? channel.send(.failed, Array("\(error)".utf8))
    }
    endProcessNow(125)
  }

  private static func start(
    _ configuration: Configuration, link: CInt, record: borrowing ViolationRecord, _ channel: Channel
  ) throws -> UserNetworkStack {
    // Both need the host's files.
    try UserNetworkStack.load()
    let resolver = try? Descriptor.open(resolverFile, .readOnly).contents(limit: 64 << 10)
    var missing: [String] = []
    if configuration.sandbox != .off {
      try Violation.report(to: record.word)
      let role = Lockdown.Role.network(files: resolver.map { [resolverFile: $0] } ?? [:])
      missing = try Lockdown.enter(role, channel: channel.raw)
      if configuration.sandbox == .strict, let first = missing.first {
        throw LaunchError("--sandbox strict: \(first)")
      }
    }
    let stack = try UserNetworkStack(link: link)
    for forward in configuration.forwards { try stack.forward(forward) }
    if configuration.sandbox != .off {
      try SystemCallFilter(try BuiltInPolicy.network.policy()).install(on: .process)
    }
    try channel.send(.ready, Array(missing.joined(separator: "\n").utf8))
    return stack
  }
}

extension NetworkProcessMain.Configuration {
  func write(to wire: inout WireWriter) { wire.put(forwards, sandbox) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(forwards: try wire.get(), sandbox: try wire.get())
  }
}
