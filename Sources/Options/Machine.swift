import DeviceKit
import MachineModel

import struct X86.CPUModel

extension VMRunCommand {
  /// The machine that the user described, with the devices that `--device` names and none of the board's own.
  public func machineSpec(registry: Registry) throws(UsageError) -> MachineSpec {
    let mode = try chosenMode()
    if mode == .pv { try checkWithoutFirmware() }
    let isEmpty =
      images.isEmpty && disk.isEmpty && cdrom.isEmpty && firmware == nil && device.isEmpty
      && kernel == nil
    guard !isEmpty else {
      // The discs of mode pv are not booted.
      let ways = mode == .pv ? "" : ", 'vmrun --cdrom install.iso'"
      throw UsageError(
        "no disk image given; try 'vmrun disk.img'\(ways) or 'vmrun --kernel vmlinuz', or 'vmrun --help'")
    }
    var spec = MachineSpec(
      mode: mode, accelerator: try accelerator(), cpus: try cpuCount(), cpu: try cpuModel(),
      memory: try memorySize(),
      blocks: try blocks(), characters: try characters(), networks: try networks(registry), vsock: try vsockSpec(),
      reboot: !noReboot,
      timeout: try timeLimit(),
      sandbox: try sandboxLevel(), screenText: try path("--screen-text", screenText), trace: try traceSpec(),
      timing: timing)
    if let firmware = try path("--firmware", firmware) { spec.firmware = firmware }
    spec.boot = try bootSpec()
    if let order = boot { spec.bootOrder = try bootOrder(order) }
    spec.devices = try devices(registry, spec)
    return spec
  }

  /// What concerns a firmware or a display has no place in mode pv.
  private func checkWithoutFirmware() throws(UsageError) {
    let given = [("--firmware", firmware), ("--boot", boot), ("--screen-text", screenText)]
    for (flag, value) in given {
      guard let value else { continue }
      throw UsageError(flag, value, "mode pv has no \(flag == "--screen-text" ? "display" : "firmware"); leave it out")
    }
  }

  func chosenMode() throws(UsageError) -> Mode { try word("--mode", mode) }
  private func accelerator() throws(UsageError) -> Accelerator { try word("--accel", accel) }
  func sandboxLevel() throws(UsageError) -> SandboxLevel { try word("--sandbox", sandbox) }
  func chosenLogLevel() throws(UsageError) -> LogLevel { try word("--log-level", logLevel) }

  private func word<Word: CaseIterable & RawRepresentable<String>>(
    _ flag: String, _ value: String
  ) throws(UsageError) -> Word {
    guard let word = Word(rawValue: value) else {
      throw UsageError(flag, value, "must be one of \(Word.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    return word
  }

  private func cpuCount() throws(UsageError) -> Int {
    guard let count = Int(cpus), 1...MachineSpec.maximumCPUs ~= count else {
      throw UsageError("--cpus", cpus, "must be a number from 1 to \(MachineSpec.maximumCPUs)")
    }
    return count
  }

  private func cpuModel() throws(UsageError) -> CPUModel {
    do throws(CPUModel.ParseError) { return try CPUModel(parsing: cpu) } catch {
      throw UsageError("--cpu", cpu, error.description)
    }
  }

  private func memorySize() throws(UsageError) -> UInt64 {
    let text = memory
    guard let bytes = Quantity.bytes(text, unit: 1 << 20) else {
      throw UsageError("--memory", text, "not a size; write 512M or 2G")
    }
    guard 1 << 20...1 << 40 ~= bytes, bytes.isMultiple(of: 1 << 20) else {
      throw UsageError("--memory", text, "must be from 1M to 1T and a multiple of 1M")
    }
    return bytes
  }

  private func timeLimit() throws(UsageError) -> UInt64? {
    guard let text = timeout else { return nil }
    guard let nanoseconds = Quantity.nanoseconds(text) else {
      throw UsageError("--timeout", text, "not a time; write 30s, 5m, 1h or 500ms")
    }
    guard 1...UInt64(Int64.max) ~= nanoseconds else {
      throw UsageError("--timeout", text, "must be more than 0 and less than 292 years")
    }
    return nanoseconds
  }

  private func traceSpec() throws(UsageError) -> TraceSpec? {
    guard let text = trace else { return nil }
    let list = KeyValueList(text)
    var events: [TraceEvent] = []
    var file: String?
    for (key, value) in [(list.head, nil)] + list.items.map({ ($0.key, $0.value) }) {
      if key == "file", let value, file == nil {
        file = try path("--trace file", value)
      } else if value == nil, let event = TraceEvent(rawValue: key), !events.contains(event) {
        events.append(event)
      } else {
        let known = TraceEvent.allCases.map(\.rawValue).joined(separator: ", ")
        throw UsageError("--trace", text, "write \(known), each once, with commas, and file=PATH for a file")
      }
    }
    guard try accelerator() != .kvm else { throw UsageError("--trace", text, "needs --accel soft; KVM cannot") }
    return TraceSpec(events: events, path: file)
  }

  private func bootOrder(_ text: String) throws(UsageError) -> [BootMedium] {
    let letters: [Character: BootMedium] = ["c": .disk, "d": .cdrom]
    let words = text.split(separator: ",", omittingEmptySubsequences: false)
    var order = words.compactMap { BootMedium(rawValue: String($0)) }
    if order.count != words.count {
      order = text.compactMap { letters[$0] }
      guard order.count == text.count, !order.isEmpty else {
        throw UsageError("--boot", text, "must be disk, cdrom, disk,cdrom or cdrom,disk, or the letters c and d")
      }
    }
    guard Set(order).count == order.count else { throw UsageError("--boot", text, "names a medium twice") }
    return order
  }

  private func path(_ flag: String, _ value: String?) throws(UsageError) -> String? {
    guard let value else { return nil }
    guard !value.isEmpty, !value.utf8.contains(0) else { throw UsageError("\(flag): needs the path of a file") }
    return value
  }

  /// What `--disk PATH` takes after the path.
  static let diskOptions = [
    OptionSpec("format", .choice(ImageFormat.allCases.map(\.rawValue)), default: .string("auto"), "Image format"),
    OptionSpec(
      "backing", .string(maximumLength: 4095), default: .string("off"),
      "Files behind a qcow2 image: those that it names (on), none (off), or this path"),
    OptionSpec(
      "if", .choice(BlockInterface.allCases.map(\.rawValue)),
      "Interface that the disk is attached to; the default is ide in mode hvm and virtio in mode pvhvm"),
    OptionSpec("readonly", .boolean, default: .boolean(false), "Refuse guest writes and open the image read-only"),
    OptionSpec(
      "cache", .choice(CacheMode.allCases.map(\.rawValue)), default: .string("writeback"),
      "When a guest write reaches the medium"),
    OptionSpec("snapshot", .boolean, default: .boolean(false), "Keep writes in a temporary overlay"),
    OptionSpec("iops", .integer(1...1_000_000_000), "Requests a second at most"),
    OptionSpec("bps", .size(512...(1 << 50)), "Bytes a second at most"),
  ]

  /// What `--cdrom PATH` takes after the path.
  static let cdromOptions = [
    OptionSpec("if", .choice(["ide", "scsi"]), "Interface that the drive is attached to; the default is ide")
  ]

  func blocks() throws(UsageError) -> [BlockSpec] {
    guard images.count <= 1 else {
      throw UsageError("'\(images[1])': only one image is booted; give further disks with --disk")
    }
    var blocks: [BlockSpec] = []
    for image in images {
      guard let image = try path("disk image", image) else { continue }
      blocks.append(BlockSpec(id: "disk0", path: image, snapshot: snapshot))
    }
    for text in disk {
      let list = KeyValueList(text)
      guard let path = try path("--disk", list.head) else { continue }
      let properties: Properties
      do {
        properties = Properties(try Self.diskOptions.values(parsing: list.items, owner: "a disk"))
      } catch { throw UsageError("--disk", path, "\(error)") }
      blocks.append(
        BlockSpec(
          id: "disk\(blocks.count)", path: path,
          format: properties.string("format").flatMap(ImageFormat.init) ?? .auto,
          backing: Self.backing(properties.string("backing") ?? "off"),
          readOnly: properties.boolean("readonly"),
          cache: properties.string("cache").flatMap(CacheMode.init) ?? .writeback,
          snapshot: snapshot || properties.boolean("snapshot"),
          limits: BlockRateLimits(requests: properties.integer("iops"), bytes: properties.integer("bps")),
          interface: properties.string("if").flatMap(BlockInterface.init)))
    }
    for (index, text) in cdrom.enumerated() {
      let list = KeyValueList(text)
      guard let path = try path("--cdrom", list.head) else { continue }
      let properties: Properties
      do {
        properties = Properties(try Self.cdromOptions.values(parsing: list.items, owner: "a CD-ROM drive"))
      } catch { throw UsageError("--cdrom", path, "\(error)") }
      blocks.append(
        BlockSpec(
          id: "cdrom\(index)", path: path, readOnly: true,
          interface: properties.string("if").flatMap(BlockInterface.init)))
    }
    return blocks
  }

  private static func backing(_ text: String) -> BackingPolicy {
    switch text {
    case "off": .off
    case "on": .on
    default: .file(text)
    }
  }

  private func characters() throws(UsageError) -> [CharacterSpec] {
    if serial == ["none"] { return [] }
    var endpoints: [CharacterEndpoint] = []
    for text in serial {
      guard let endpoint = CharacterEndpoint(text) else {
        guard text != "none" else { throw UsageError("--serial none: takes no other --serial beside it") }
        throw UsageError("--serial", text, "must be stdio, file:PATH, unix:PATH, pty or null; or none for no port")
      }
      if endpoint != .pty, endpoint != .null, endpoints.contains(endpoint) {
        throw UsageError("--serial", text, "is taken by another serial port")
      }
      endpoints.append(endpoint)
    }
    if endpoints.isEmpty { endpoints = [.stdio] }
    return endpoints.enumerated().map { CharacterSpec(id: "serial\($0)", endpoint: $1) }
  }

  private static let vsockOptions = [
    OptionSpec("cid", .integer(3...0xFFFF_FFFE), default: .integer(3), "Context identifier of the guest"),
    OptionSpec("uds", .string(maximumLength: 96), "Unix socket"),
  ]

  private func vsockSpec() throws(UsageError) -> VsockSpec? {
    guard let text = vsock else { return nil }
    let properties: Properties
    do {
      properties = Properties(
        try Self.vsockOptions.values(parsing: KeyValueList("vsock," + text).items, owner: "vsock"))
    } catch { throw UsageError("--vsock", text, "\(error)") }
    guard let path = try path("--vsock uds", properties.string("uds")) else {
      throw UsageError("--vsock", text, "needs uds=PATH, the Unix socket on the host")
    }
    return VsockSpec(guestID: UInt32(clamping: properties.integer("cid") ?? 3), path: path)
  }

  private func devices(_ registry: Registry, _ spec: MachineSpec) throws(UsageError) -> [DeviceSpec] {
    var devices: [DeviceSpec] = []
    var names: Set<String> = []
    for text in device {
      let model = KeyValueList(text).head
      var number = 0
      while names.contains("\(model).\(number)") { number += 1 }
      let device: DeviceSpec
      do {
        device = try registry.device(parsing: text, defaultID: "\(model).\(number)")
      } catch { throw UsageError("--device", text, "\(error)") }
      guard names.insert(device.id).inserted else {
        throw UsageError("--device", text, "id '\(device.id)' is taken by another device")
      }
      try checkReferences(of: device, text, registry, spec)
      devices.append(device)
    }
    return devices
  }

  /// Disks and serial connections that a device names must be on the command line.
  private func checkReferences(
    of device: DeviceSpec, _ text: String, _ registry: Registry, _ spec: MachineSpec
  ) throws(UsageError) {
    for option in registry.model(named: device.model)?.options ?? [] {
      guard case .string(let name)? = device.properties[option.name] else { continue }
      let (present, flags) =
        switch option.kind {
        case .block: (spec.blocks.map(\.id), "--disk or --cdrom")
        case .character: (spec.characters.map(\.id), "--serial")
        case .network: (spec.networks.map(\.id), "--net")
        default: ([name], "")
        }
      guard !present.contains(name) else { continue }
      let known = present.isEmpty ? "there is none" : "there is " + present.joined(separator: ", ")
      throw UsageError("--device", text, "no '\(name)' for \(option.name); \(known), add it with \(flags)")
    }
  }
}
