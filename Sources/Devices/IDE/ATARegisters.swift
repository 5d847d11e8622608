/// The command block registers by their offset from the block's base (ATA/ATAPI-4 §7.2).
enum ATARegister: UInt8, Sendable {
  case data
  /// Error when read, Features when written.
  case error
  case sectorCount
  case lbaLow
  case lbaMid
  case lbaHigh
  case device
  /// Status when read, Command when written.
  case status
}

/// The Status register (ATA/ATAPI-4 §7.15.6).
struct ATAStatus: OptionSet, Sendable {
  let rawValue: UInt8
  static let error = ATAStatus(rawValue: 1 << 0)
  static let dataRequest = ATAStatus(rawValue: 1 << 3)
  static let seekComplete = ATAStatus(rawValue: 1 << 4)
  static let deviceFault = ATAStatus(rawValue: 1 << 5)
  static let ready = ATAStatus(rawValue: 1 << 6)
  static let busy = ATAStatus(rawValue: 1 << 7)
}

/// The Error register (ATA/ATAPI-4 §7.10.6 and the outputs of each command).
struct ATAError: OptionSet, Sendable {
  let rawValue: UInt8
  static let aborted = ATAError(rawValue: 1 << 2)
  static let idNotFound = ATAError(rawValue: 1 << 4)
  /// Uncorrectable data, when reading.
  static let uncorrectable = ATAError(rawValue: 1 << 6)
  /// The medium is write-protected, when writing.
  static let writeProtected = ATAError(rawValue: 1 << 6)
}

/// The Device Control register (ATA/ATAPI-6 §7.8).
struct ATADeviceControl: OptionSet, Sendable {
  let rawValue: UInt8
  /// nIEN: the device does not drive INTRQ.
  static let interruptDisable = ATADeviceControl(rawValue: 1 << 1)
  /// SRST.
  static let softwareReset = ATADeviceControl(rawValue: 1 << 2)
  /// HOB: reads give the previous contents of the LBA and count registers.
  static let highOrderByte = ATADeviceControl(rawValue: 1 << 7)
}

/// Bits of the Device register.
enum ATADeviceBits {
  /// DEV: device 1 is selected.
  static let unit: UInt8 = 1 << 4
  /// LBA: the address registers hold an LBA, not cylinder, head and sector.
  static let lba: UInt8 = 1 << 6
  static let head: UInt8 = 0x0F
}

/// Command codes (ATA/ATAPI-4 §8, 48-bit ones ATA/ATAPI-6 §8).
enum ATACommand: UInt8, Sendable {
  case nop = 0x00
  case deviceReset = 0x08
  case readSectors = 0x20
  case readSectorsNoRetry = 0x21
  case readSectorsExt = 0x24
  case readDMAExt = 0x25
  case readNativeMaxExt = 0x27
  case readMultipleExt = 0x29
  case writeSectors = 0x30
  case writeSectorsNoRetry = 0x31
  case writeSectorsExt = 0x34
  case writeDMAExt = 0x35
  case writeMultipleExt = 0x39
  case readVerify = 0x40
  case readVerifyNoRetry = 0x41
  case readVerifyExt = 0x42
  case executeDiagnostic = 0x90
  case initializeParameters = 0x91
  case packet = 0xA0
  case identifyPacketDevice = 0xA1
  case readMultiple = 0xC4
  case writeMultiple = 0xC5
  case setMultiple = 0xC6
  case readDMA = 0xC8
  case readDMANoRetry = 0xC9
  case writeDMA = 0xCA
  case writeDMANoRetry = 0xCB
  case standbyImmediate = 0xE0
  case idleImmediate = 0xE1
  case standby = 0xE2
  case idle = 0xE3
  case checkPowerMode = 0xE5
  case sleep = 0xE6
  case flushCache = 0xE7
  case flushCacheExt = 0xEA
  case identifyDevice = 0xEC
  case setFeatures = 0xEF
  case readNativeMax = 0xF8

  /// The command that a byte means; power commands have a second code each (ATA-2 §7, table 11).
  init?(code: UInt8) {
    switch code {
    case 0x94: self = .standbyImmediate
    case 0x95: self = .idleImmediate
    case 0x96: self = .standby
    case 0x97: self = .idle
    case 0x98: self = .checkPowerMode
    case 0x99: self = .sleep
    default: self.init(rawValue: code)
    }
  }
}
