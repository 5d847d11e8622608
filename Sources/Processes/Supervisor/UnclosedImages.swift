import Backends
import LinuxSystem
import Logging
import MachineModel
import Sandbox

/// The images that a device process which did not finish has left as they were: written to, and not closed.
///
/// The launcher has kept them open, and with that locked. Another process in the same sandbox opens and closes them,
/// which gives back clusters that nothing refers to; the launcher itself reads none of their bytes.
struct UnclosedImages: Sendable {
  /// What the process is told.
  struct Handoff: WireCodable, Sendable {
    var sandbox: SandboxLevel
    var specs: [BlockSpec] = []
    var geometries: [ImageGeometry] = []
  }

  private var handoff: Handoff
  private var descriptors: [SharedDescriptor] = []
  /// A large image's tables are read, and its last writes may still be on their way to the host's disk.
  private static let patience: UInt64 = 60_000_000_000

  init(sandbox: SandboxLevel) { handoff = Handoff(sandbox: sandbox) }

  var isEmpty: Bool { descriptors.isEmpty }

  /// Remembers an image that has something to close.
  mutating func add(_ spec: BlockSpec, _ geometry: ImageGeometry, _ image: borrowing Descriptor) throws(SystemError) {
    guard spec.format == .qcow2, !spec.readOnly, !spec.snapshot else { return }
    descriptors.append(SharedDescriptor(try image.duplicate()))
    handoff.specs.append(spec)
    handoff.geometries.append(geometry)
  }

  /// Closes the images; a line for the user where that fails, as the next run will do it.
  func close(_ log: Logger) {
    guard !isEmpty else { return }
    do {
      let (near, far) = try DatagramSocket.pair()
      let channel = Channel(owning: Descriptor(owning: near))
      let theirs = Descriptor(owning: far)
      let child = try DeviceProcess.spawn(
        arguments: ["vmrun", DeviceProcessMain.argument], descriptors: [theirs.raw], isolated: handoff.sandbox != .off)
      defer {
        child.kill()
        _ = try? child.status(wait: true)
      }
      _ = consume theirs
      try channel.send(
        .closeImages, handoff.wireBytes, descriptors: descriptors.map { $0.descriptor.raw })
      var entries = [PollEntry(channel.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: pollMilliseconds(Self.patience))
      guard !entries[0].ready.isEmpty, let answer = channel.receive(), answer.message == .finished else {
        return log.warning("the disk images were not closed; the next run does that")
      }
    } catch {
      log.warning("the disk images were not closed (\(error)); the next run does that")
    }
  }

  /// The life of that process.
  static func closeAll(_ payload: [UInt8], _ descriptors: [CInt], channel: Channel) throws {
    let images = descriptors.map { SharedDescriptor(Descriptor(owning: $0)) }
    let handoff = try Handoff(wireBytes: payload)
    if handoff.sandbox != .off {
      _ = try Lockdown.enter(channel: channel.raw)
      try SystemCallFilter(try BuiltInPolicy.device.policy()).install(on: .process)
    }
    for (image, (spec, geometry)) in zip(images, zip(handoff.specs, handoff.geometries)) {
      do throws(ImageError) {
        try FileBlockBackend.close(abandoned: image, spec: spec, geometry: geometry)
      } catch {
        StandardStream.report("vmrun: \(error)")
      }
    }
    try channel.send(.finished)
  }
}

extension UnclosedImages.Handoff {
  func write(to wire: inout WireWriter) { wire.put(sandbox, specs, geometries) }
  init(from wire: inout WireReader) throws(WireError) {
    self.init(sandbox: try wire.get(), specs: try wire.get(), geometries: try wire.get())
  }
}
