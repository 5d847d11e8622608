import Backends
import BootImage
import LinuxSystem
import MachineModel
import Sandbox

/// What `--list-entries` prints: the entries of the first disk's boot configuration. A device process reads them, in its
/// sandbox; the launcher opens the image and prints the answer.
struct EntryListing: WireCodable, Sendable {
  private var sandbox: SandboxLevel
  private var spec: BlockSpec
  private var geometry: ImageGeometry
  private var backing: [BackingFile]

  /// It reads little, but an image may lie on a slow network.
  private static let patience: UInt64 = 60_000_000_000
  /// Bytes of a message.
  private static let piece = 64 << 10

  /// The listing of the disk. Throws `LaunchError`, or the outcome where the process was ended.
  static func text(of disk: BlockSpec, sandbox: SandboxLevel) throws -> String {
    var spec = disk
    (spec.readOnly, spec.snapshot) = (true, false)
    let opened = try OpenedImage.open(spec)
    spec.formatIsProbed = spec.format == .auto
    spec.format = opened.format
    let listing = EntryListing(sandbox: sandbox, spec: spec, geometry: opened.geometry, backing: opened.backing)
    let numbers = try opened.takeDescriptors()
    let files = ([numbers.image] + numbers.backing).map { SharedDescriptor(Descriptor(owning: $0)) }

    let (near, far) = try DatagramSocket.pair()
    let channel = Channel(owning: Descriptor(owning: near))
    let theirs = Descriptor(owning: far)
    let child = try DeviceProcess.spawn(
      arguments: ["vmrun", DeviceProcessMain.argument], descriptors: [theirs.raw], isolated: sandbox != .off)
    defer {
      child.kill()
      _ = try? child.status(wait: true)
    }
    _ = consume theirs
    // The compiler lets go of an array, and of the descriptors, after its last use, where only their numbers are left.
    try withExtendedLifetime(files) {
      try channel.send(.listEntries, listing.wireBytes, descriptors: files.map { $0.descriptor.raw })
    }
    var text: [UInt8] = []
    while true {
      var entries = [PollEntry(channel.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(patience))
      guard !entries[0].ready.isEmpty, let answer = channel.receive() else {
        throw LaunchError("\(disk.path): the process that reads its boot configuration has ended")
      }
      switch answer.message {
      case .entries where text.count < 16 << 20: text += answer.payload
      case .finished: return printable(String(decoding: text, as: UTF8.self), keeping: ["\n", "\t"])
      case .failed: throw LaunchError(printable(String(decoding: answer.payload, as: UTF8.self)))
      default: throw LaunchError("\(disk.path): the process that reads its boot configuration gave no answer")
      }
    }
  }

  /// The life of that process.
  static func serve(_ payload: [UInt8], _ descriptors: [CInt], channel: Channel) throws {
    let files = descriptors.map { SharedDescriptor(Descriptor(owning: $0)) }
    let listing = try EntryListing(wireBytes: payload)
    if listing.sandbox != .off {
      let missing = try Lockdown.enter(channel: channel.raw)
      if listing.sandbox == .strict, let first = missing.first { throw LaunchError("--sandbox strict: \(first)") }
      try SystemCallFilter(try BuiltInPolicy.device.policy()).install(on: .process)
    }
    guard let image = files.first, files.count == 1 + listing.backing.count else {
      throw LaunchError("too few descriptors")
    }
    let backend = try FileBlockBackend(
      image: image.descriptor.duplicate(), overlay: nil, backing: Array(zip(listing.backing, files.dropFirst())),
      spec: listing.spec, geometry: listing.geometry)
    let configuration: BootConfiguration
    do throws(BootImageError) {
      configuration = try BootImage(BlockDisk(backend)).configuration()
    } catch {
      throw LaunchError("\(listing.spec.path): \(error)")
    }
    var text = Array(configuration.listing.utf8)[...]
    while !text.isEmpty {
      try channel.send(.entries, Array(text.prefix(piece)))
      text = text.dropFirst(piece)
    }
    try channel.send(.finished)
  }
}

extension EntryListing {
  func write(to wire: inout WireWriter) { wire.put(sandbox, spec, geometry, backing) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(sandbox: try wire.get(), spec: try wire.get(), geometry: try wire.get(), backing: try wire.get())
  }
}
