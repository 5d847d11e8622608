import MachineModel

/// The bus that a device plugs into.
public enum BusKind: String, Sendable, CaseIterable {
  /// Fixed on the board.
  case system
  case isa
  case pci
  case ide
  /// Ports of a virtio console.
  case virtioSerial = "virtio-serial"
  case scsi
  /// A slot with registers in memory, on the board of mode pv.
  case virtioMMIO = "virtio-mmio"
}

/// One option of a device model.
public struct OptionSpec: Sendable {
  public enum Kind: Sendable, Equatable {
    /// `on` or `off`.
    case boolean
    /// A number in the range; decimal or 0x hexadecimal.
    case integer(ClosedRange<UInt64>)
    /// Bytes in the range, with K, M or G.
    case size(ClosedRange<UInt64>)
    case choice([String])
    /// Text of at most this many characters.
    case string(maximumLength: Int)
    /// The name of a disk (`disk0`, `cdrom0`).
    case block
    /// The name of a character connection (`serial0`).
    case character
    /// The name of a network (`net0`).
    case network
    /// An Ethernet address of one station: `52:54:00:12:34:56`.
    case macAddress
    /// PCI slot and function: `02.0`.
    case pciAddress
  }

  public let name: String
  public let kind: Kind
  /// nil: the option must be given, or the model finds its own value, as the summary says.
  public let defaultValue: PropertyValue?
  public let summary: String

  public init(_ name: String, _ kind: Kind, default defaultValue: PropertyValue? = nil, _ summary: String) {
    self.name = name
    self.kind = kind
    self.defaultValue = defaultValue
    self.summary = summary
  }
}

/// What a model needs of the host and its sandbox beyond the board.
public struct SandboxNeeds: Sendable {
  /// Bytes of memory that the guest can map.
  public var deviceMemory: @Sendable (Properties) -> UInt64
  /// Host files that are read once before the sandbox closes, by the name the device asks `HostResources.file` for.
  public var files: @Sendable (Properties) -> [String: HostFile]

  public struct HostFile: Sendable, Equatable {
    public let path: String
    /// The Debian package that has it.
    public let package: String
    public init(path: String, package: String) {
      self.path = path
      self.package = package
    }
  }

  public init(
    deviceMemory: @escaping @Sendable (Properties) -> UInt64 = { _ in 0 },
    files: @escaping @Sendable (Properties) -> [String: HostFile] = { _ in [:] }
  ) {
    self.deviceMemory = deviceMemory
    self.files = files
  }

  public static let none = SandboxNeeds()
}

/// The validated options of one device, defaults filled in.
public struct Properties: Sendable, Equatable {
  public let values: [String: PropertyValue]

  public init(_ values: [String: PropertyValue]) { self.values = values }

  public func integer(_ name: String) -> UInt64? {
    if case .integer(let value) = values[name] { value } else { nil }
  }
  public func boolean(_ name: String) -> Bool {
    if case .boolean(let value) = values[name] { value } else { false }
  }
  public func string(_ name: String) -> String? {
    if case .string(let value) = values[name] { value } else { nil }
  }
  public func macAddress(_ name: String = "mac") -> MACAddress? { string(name).flatMap { MACAddress($0) } }
  /// Slot and function of an option of kind `pciAddress`.
  public func pciAddress(_ name: String = "addr") -> (slot: Int, function: Int)? {
    guard let text = string(name) else { return nil }
    let parts = text.split(separator: ".")
    guard let first = parts.first, let slot = Int(first, radix: 16), slot < 32 else { return nil }
    guard parts.count > 1 else { return (slot, 0) }
    guard let function = Int(parts[1]), 0..<8 ~= function else { return nil }
    return (slot, function)
  }
}

/// An entry of the registry: a kind of device, its options and its maker.
public struct DeviceModel: Sendable {
  /// As `--device` names it: `ide-hd`.
  public let name: String
  /// One line, no full stop.
  public let summary: String
  public let bus: BusKind
  public let options: [OptionSpec]
  public let needs: SandboxNeeds
  /// Makes the device and plugs it into the board.
  public let make: @Sendable (_ id: String, _ properties: Properties, _ board: Board) throws(DeviceError) -> Device

  public init(
    name: String, summary: String, bus: BusKind, options: [OptionSpec] = [], needs: SandboxNeeds = .none,
    make: @escaping @Sendable (_ id: String, _ properties: Properties, _ board: Board) throws(DeviceError) -> Device
  ) {
    self.name = name
    self.summary = summary
    self.bus = bus
    self.options = options
    self.needs = needs
    self.make = make
  }
}

/// The device models that there are.
public struct Registry: Sendable {
  public let models: [DeviceModel]

  public init(_ models: [DeviceModel]) { self.models = models }

  public func model(named name: String) -> DeviceModel? { models.first { $0.name == name } }
}
