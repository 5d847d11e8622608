import struct X86.CPUModel

/// What kind of machine the guest sees, in Xen's and EC2's sense.
public enum Mode: String, Sendable, Encodable, CaseIterable {
  case hvm
  case pv
  case pvhvm
}

/// Which engine the user asked for.
public enum Accelerator: String, Sendable, Encodable, CaseIterable {
  case kvm
  case soft
  case auto
}

/// How much isolation the user insists on.
public enum SandboxLevel: String, Sendable, Encodable, CaseIterable {
  /// Every layer the host offers; a missing one is named on stderr.
  case on
  /// A missing layer ends the run.
  case strict
  case off
}

/// A medium the firmware may boot from.
public enum BootMedium: String, Sendable, Encodable, CaseIterable {
  case disk
  case cdrom
}

/// When a guest write reaches the medium.
public enum CacheMode: String, Sendable, Encodable, CaseIterable {
  /// The host caches; a guest flush is an fdatasync.
  case writeback
  /// Every write is followed by an fdatasync.
  case writethrough
  /// The host does not cache (O_DIRECT); a guest flush is an fdatasync.
  case none
  /// A guest flush does nothing: the image may be lost when the host goes down.
  case unsafe
}

/// The format of an image's bytes.
public enum ImageFormat: String, Sendable, Encodable, CaseIterable {
  /// The bytes of the disk and nothing else.
  case raw
  /// QEMU's copy-on-write format, versions 2 and 3.
  case qcow2
  /// What the image's first bytes say when it is opened.
  case auto
}

/// Which files behind an image may be opened.
public enum BackingPolicy: Sendable, Encodable, Equatable {
  /// None: an image that needs one is refused.
  case off
  /// Those that the image and the files behind it name.
  case on
  /// This one.
  case file(String)
}

/// How much a disk may do in a second; nil: as much as it can.
public struct BlockRateLimits: Sendable, Encodable, Equatable {
  public var requests: UInt64?
  public var bytes: UInt64?

  public init(requests: UInt64? = nil, bytes: UInt64? = nil) {
    self.requests = requests
    self.bytes = bytes
  }
}

/// What a disk or CD-ROM drive is attached to.
public enum BlockInterface: String, Sendable, Encodable, CaseIterable {
  case ide
  case virtio
  /// A virtio SCSI controller.
  case scsi

  /// What a hard disk gets where nothing else was chosen.
  public static func standard(for mode: Mode) -> BlockInterface { mode == .hvm ? .ide : .virtio }
}

/// A host file or block device that a disk device uses.
public struct BlockSpec: Sendable, Encodable, Equatable {
  /// The name devices refer to it by: `disk0`, `cdrom0`.
  public var id: String
  public var path: String
  public var format: ImageFormat
  /// The format was found by looking at the image: a guest may not make a raw image look like another one.
  public var formatIsProbed: Bool
  public var backing: BackingPolicy
  public var readOnly: Bool
  public var cache: CacheMode
  /// Writes go to a temporary overlay; the file is opened read-only.
  public var snapshot: Bool
  public var limits: BlockRateLimits
  /// What its drive is attached to where no device of the user's names it; nil: what the mode prefers, and IDE for a
  /// CD-ROM drive.
  public var interface: BlockInterface?

  public init(
    id: String, path: String, format: ImageFormat = .auto, formatIsProbed: Bool = false, backing: BackingPolicy = .off,
    readOnly: Bool = false, cache: CacheMode = .writeback, snapshot: Bool = false,
    limits: BlockRateLimits = BlockRateLimits(), interface: BlockInterface? = nil
  ) {
    self.id = id
    self.path = path
    self.format = format
    self.formatIsProbed = formatIsProbed
    self.backing = backing
    self.readOnly = readOnly
    self.cache = cache
    self.snapshot = snapshot
    self.interface = interface
    self.limits = limits
  }
}

/// Where the bytes of a serial port go to and come from. Encoded as its description.
public enum CharacterEndpoint: Sendable, Equatable, Encodable, LosslessStringConvertible {
  case stdio
  /// Output only; the file is created or truncated.
  case file(String)
  /// A listening Unix stream socket at the path; one client at a time.
  case unix(String)
  case pty
  case null

  /// Parses what `--serial` takes: `stdio`, `file:PATH`, `unix:PATH`, `pty`, `null`.
  public init?(_ description: String) {
    switch description {
    case "stdio": self = .stdio
    case "pty": self = .pty
    case "null": self = .null
    default:
      guard let colon = description.firstIndex(of: ":") else { return nil }
      let path = String(description[description.index(after: colon)...])
      guard !path.isEmpty else { return nil }
      switch description[..<colon] {
      case "file": self = .file(path)
      case "unix": self = .unix(path)
      default: return nil
      }
    }
  }

  public var description: String {
    switch self {
    case .stdio: "stdio"
    case .file(let path): "file:\(path)"
    case .unix(let path): "unix:\(path)"
    case .pty: "pty"
    case .null: "null"
    }
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

public struct CharacterSpec: Sendable, Encodable, Equatable {
  /// The name devices refer to it by: `serial0`.
  public var id: String
  public var endpoint: CharacterEndpoint

  public init(id: String, endpoint: CharacterEndpoint) {
    self.id = id
    self.endpoint = endpoint
  }
}

/// The guest's sockets and where they are on the host.
public struct VsockSpec: Sendable, Encodable, Equatable {
  /// The guest's context identifier, from 3 on.
  public var guestID: UInt32
  /// The socket that host programs connect to; `_PORT` behind it is where the guest's connections go.
  public var path: String

  public init(guestID: UInt32, path: String) {
    self.guestID = guestID
    self.path = path
  }
}

/// One device of the machine: a model of the registry and its properties, all validated.
public struct DeviceSpec: Sendable, Encodable, Equatable {
  public var model: String
  public var id: String
  public var properties: [String: PropertyValue]

  public init(model: String, id: String, properties: [String: PropertyValue] = [:]) {
    self.model = model
    self.id = id
    self.properties = properties
  }
}

/// A whole machine and how to run it. `--dry-run` prints it; the device process is given it.
public struct MachineSpec: Sendable, Encodable, Equatable {
  public var mode: Mode
  public var accelerator: Accelerator
  /// vCPUs, 1–64.
  public var cpus: Int
  /// What each vCPU is under the software engine; KVM shows the host's processor.
  public var cpu: CPUModel
  /// Guest RAM in bytes, a multiple of 1 MiB.
  public var memory: UInt64
  /// Path of the firmware image that holds the reset vector.
  public var firmware: String
  public var bootOrder: [BootMedium]
  /// What is started without firmware, or in place of what firmware would find; nil: nothing but that.
  public var boot: BootSpec?
  public var blocks: [BlockSpec]
  public var characters: [CharacterSpec]
  public var networks: [NetworkSpec]
  public var vsock: VsockSpec?
  /// Every device in the order it is made: the board's own first.
  public var devices: [DeviceSpec]
  /// False: a guest reset ends the run with status 122.
  public var reboot: Bool
  /// Nanoseconds until the run ends with status 124; nil: never.
  public var timeout: UInt64?
  public var sandbox: SandboxLevel
  /// Host file that is given the text screen when the run ends.
  public var screenText: String?
  /// What the software engine writes for debugging; KVM cannot.
  public var trace: TraceSpec?
  /// Each step of the start is timed on standard error.
  public var timing: Bool

  public init(
    mode: Mode = .hvm, accelerator: Accelerator = .auto, cpus: Int = 1, cpu: CPUModel = .max,
    memory: UInt64 = 512 << 20,
    firmware: String = MachineSpec.defaultFirmware, bootOrder: [BootMedium] = [.disk, .cdrom], boot: BootSpec? = nil,
    blocks: [BlockSpec] = [], characters: [CharacterSpec] = [], networks: [NetworkSpec] = [], vsock: VsockSpec? = nil,
    devices: [DeviceSpec] = [], reboot: Bool = true,
    timeout: UInt64? = nil,
    sandbox: SandboxLevel = .on, screenText: String? = nil, trace: TraceSpec? = nil,
    timing: Bool = false
  ) {
    self.mode = mode
    self.accelerator = accelerator
    self.cpus = cpus
    self.cpu = cpu
    self.memory = memory
    self.firmware = firmware
    self.bootOrder = bootOrder
    self.boot = boot
    self.blocks = blocks
    self.characters = characters
    self.networks = networks
    self.vsock = vsock
    self.devices = devices
    self.reboot = reboot
    self.timeout = timeout
    self.sandbox = sandbox
    self.screenText = screenText
    self.trace = trace
    self.timing = timing
  }

  /// Where Debian's seabios package puts the 256 KiB BIOS.
  public static let defaultFirmware = "/usr/share/seabios/bios-256k.bin"
  public static let maximumCPUs = 64
}
