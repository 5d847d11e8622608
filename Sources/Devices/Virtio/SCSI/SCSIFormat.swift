import DeviceKit

/// Numbers of the SCSI host device (virtio 1.2 §5.6).
enum SCSIFormat {
  /// LUN, identifier, task attribute, priority and CRN stand before the command (§5.6.6.1).
  static let requestHeader = 19
  /// Lengths, status and response stand before the sense data.
  static let responseHeader = 12
  static let defaultCommandSize = 32
  static let defaultSenseSize = 96
  /// Targets of the one channel.
  static let targets = 256

  enum Feature {
    static let change = VirtioFeatures(bit: 2)
  }

  enum Queue {
    static let control = 0
    static let event = 1
    static let firstRequest = 2
  }

  /// Fields of the configuration space (§5.6.4).
  enum Field {
    static let queues = 0
    static let segments = 4
    static let maximumSectors = 8
    static let commandsPerLUN = 12
    static let eventSize = 16
    static let senseSize = 20
    static let commandSize = 24
    static let maximumChannel = 28
    static let maximumTarget = 30
    static let maximumLUN = 32
    static let size = 36
  }

  /// Of requests and task management functions (§5.6.6.1, §5.6.6.2).
  enum Response: UInt8, Sendable {
    /// Also: the function is complete.
    case ok = 0
    case overrun = 1
    case badTarget = 3
    case functionRejected = 11
    case incorrectLUN = 12
  }

  /// Status of a command (SAM-5 §5.3).
  enum Status {
    static let good: UInt8 = 0x00
    static let checkCondition: UInt8 = 0x02
  }

  /// Kinds of control requests (§5.6.6.2).
  enum Control {
    static let taskManagement: UInt32 = 0
    static let asynchronousQuery: UInt32 = 1
    static let asynchronousSubscribe: UInt32 = 2
    static let taskManagementSize = 24
    static let asynchronousSize = 16
  }

  enum TaskManagement {
    static let abortTask: UInt32 = 0
    static let abortTaskSet: UInt32 = 1
    static let clearACA: UInt32 = 2
    static let clearTaskSet: UInt32 = 3
    static let nexusReset: UInt32 = 4
    static let unitReset: UInt32 = 5
    static let queryTask: UInt32 = 6
    static let queryTaskSet: UInt32 = 7
  }

  /// Events (§5.6.6.3).
  enum Event {
    static let parameterChange: UInt32 = 3
    static let size = 16
    /// CAPACITY DATA HAS CHANGED: code, and qualifier in the next byte.
    static let capacityChanged: UInt32 = 0x2A | 0x09 << 8
  }
}

/// An address of a request: one target of channel 0 and its logical unit (§5.6.6.1).
struct SCSIAddress: Sendable, Equatable {
  let target: Int
  let unit: Int

  /// nil: another form of address, which nothing here has.
  init?(_ bytes: ArraySlice<UInt8>) {
    let bytes = Array(bytes)
    guard bytes.count == 8, bytes[0] == 1, bytes[2] >> 6 <= 1, bytes[4...].allSatisfy({ $0 == 0 }) else { return nil }
    target = Int(bytes[1])
    unit = Int(bytes[2] & 0x3F) << 8 | Int(bytes[3])
  }

  init(target: Int) { (self.target, unit) = (target, 0) }

  var bytes: [UInt8] { [1, UInt8(truncatingIfNeeded: target), 0x40, 0, 0, 0, 0, 0] }
}
