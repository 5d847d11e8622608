import X86

// Fields in the order in which the types declare them.

extension Mode: WireCodable {}
extension Accelerator: WireCodable {}
extension SandboxLevel: WireCodable {}
extension BootMedium: WireCodable {}
extension CacheMode: WireCodable {}
extension ImageFormat: WireCodable {}
extension BlockInterface: WireCodable {}
extension NetworkCard: WireCodable {}
extension UnixNetwork.Kind: WireCodable {}
extension TraceEvent: WireCodable {}
extension CharacterEndpoint: WireCodable {}
extension PortForward: WireCodable {}
extension BootFile: WireCodable {}

extension MachineSpec: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(mode, accelerator, cpus, cpu.description, memory, firmware, bootOrder, boot, blocks, characters, networks)
    wire.put(vsock, devices, reboot, timeout, sandbox, screenText, trace, timing)
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self.init(
      mode: try wire.get(), accelerator: try wire.get(), cpus: try wire.get(), cpu: try Self.cpu(&wire),
      memory: try wire.get(), firmware: try wire.get(), bootOrder: try wire.get(), boot: try wire.get(),
      blocks: try wire.get(), characters: try wire.get(), networks: try wire.get(), vsock: try wire.get(),
      devices: try wire.get(), reboot: try wire.get(), timeout: try wire.get(), sandbox: try wire.get(),
      screenText: try wire.get(), trace: try wire.get(), timing: try wire.get())
  }

  private static func cpu(_ wire: inout WireReader) throws(WireError) -> CPUModel {
    let text: String = try wire.get()
    do throws(CPUModel.ParseError) { return try CPUModel(parsing: text) } catch { throw WireError() }
  }
}

extension BlockSpec: WireCodable {
  public func write(to wire: inout WireWriter) {
    wire.put(id, path, format, formatIsProbed, backing, readOnly, cache, snapshot, limits, interface)
  }

  public init(from wire: inout WireReader) throws(WireError) {
    self.init(
      id: try wire.get(), path: try wire.get(), format: try wire.get(), formatIsProbed: try wire.get(),
      backing: try wire.get(), readOnly: try wire.get(), cache: try wire.get(), snapshot: try wire.get(),
      limits: try wire.get(), interface: try wire.get())
  }
}

extension BackingPolicy: WireCodable {
  public func write(to wire: inout WireWriter) {
    switch self {
    case .off: wire.put(0 as UInt8)
    case .on: wire.put(1 as UInt8)
    case .file(let path): wire.put(2 as UInt8, path)
    }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    switch try wire.get() as UInt8 {
    case 0: self = .off
    case 1: self = .on
    case 2: self = .file(try wire.get())
    default: throw WireError()
    }
  }
}

extension BlockRateLimits: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(requests, bytes) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(requests: try wire.get(), bytes: try wire.get())
  }
}

extension CharacterSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(id, endpoint) }
  public init(from wire: inout WireReader) throws(WireError) { self.init(id: try wire.get(), endpoint: try wire.get()) }
}

extension VsockSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(guestID, path) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(guestID: try wire.get(), path: try wire.get())
  }
}

extension DeviceSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(model, id, properties) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(model: try wire.get(), id: try wire.get(), properties: try wire.get())
  }
}

extension PropertyValue: WireCodable {
  public func write(to wire: inout WireWriter) {
    switch self {
    case .boolean(let value): wire.put(0 as UInt8, value)
    case .integer(let value): wire.put(1 as UInt8, value)
    case .string(let value): wire.put(2 as UInt8, value)
    }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    switch try wire.get() as UInt8 {
    case 0: self = .boolean(try wire.get())
    case 1: self = .integer(try wire.get())
    case 2: self = .string(try wire.get())
    default: throw WireError()
    }
  }
}

extension NetworkSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(id, endpoint, card, mac, capture, isDefault) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(
      id: try wire.get(), endpoint: try wire.get(), card: try wire.get(), mac: try wire.get(),
      capture: try wire.get(), isDefault: try wire.get())
  }
}

extension MACAddress: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(octets) }
  public init(from wire: inout WireReader) throws(WireError) {
    guard let address = MACAddress(try wire.get() as [UInt8]) else { throw WireError() }
    self = address
  }
}

extension NetworkEndpoint: WireCodable {
  public func write(to wire: inout WireWriter) {
    switch self {
    case .user(let forwards): wire.put(0 as UInt8, forwards)
    case .tap(let interface, let queues): wire.put(1 as UInt8, interface, queues)
    case .tapDescriptors(let numbers): wire.put(2 as UInt8, numbers)
    case .unix(let socket): wire.put(3 as UInt8, socket)
    }
  }

  public init(from wire: inout WireReader) throws(WireError) {
    switch try wire.get() as UInt8 {
    case 0: self = .user(forwards: try wire.get())
    case 1: self = .tap(interface: try wire.get(), queues: try wire.get())
    case 2: self = .tapDescriptors(try wire.get())
    case 3: self = .unix(try wire.get())
    default: throw WireError()
    }
  }
}

extension UnixNetwork: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(kind, path, listens, local) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(kind: try wire.get(), path: try wire.get(), listens: try wire.get(), local: try wire.get())
  }
}

extension BootSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(kernel, ramdisks, arguments, entry) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(kernel: try wire.get(), ramdisks: try wire.get(), arguments: try wire.get(), entry: try wire.get())
  }
}

extension TraceSpec: WireCodable {
  public func write(to wire: inout WireWriter) { wire.put(events, path) }
  public init(from wire: inout WireReader) throws(WireError) { self.init(events: try wire.get(), path: try wire.get()) }
}
