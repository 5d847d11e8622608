/// Registers by their offset in both BARs (RTL8139C(L) datasheet 1.4, chapter 5; section numbers in this folder are that
/// datasheet's).
enum RTL8139Register {
  static let identifier = 0x00..<0x06
  static let multicast = 0x08..<0x10
  static let transmitStatus = 0x10..<0x20
  static let transmitAddress = 0x20..<0x30
  static let receiveStart = 0x30..<0x34
  static let command = 0x37
  /// CAPR: 16 bytes before where software reads next.
  static let readPointer = 0x38..<0x3A
  /// CBR: where the card writes next.
  static let writePointer = 0x3A..<0x3C
  static let interruptMask = 0x3C..<0x3E
  static let interruptStatus = 0x3E..<0x40
  static let transmitConfiguration = 0x40..<0x44
  static let receiveConfiguration = 0x44..<0x48
  static let timerCount = 0x48..<0x4C
  static let missed = 0x4C..<0x50
  static let eeprom = 0x50
  static let config0 = 0x51
  static let config1 = 0x52
  static let timerInterrupt = 0x54..<0x58
  static let mediaStatus = 0x58
  static let config3 = 0x59
  static let config4 = 0x5A
  static let multipleInterrupt = 0x5C..<0x5E
  static let revision = 0x5E
  static let transmitSummary = 0x60..<0x62
  static let basicControl = 0x62..<0x64
  static let basicStatus = 0x64..<0x66
  static let advertisement = 0x66..<0x68
  static let partnerAbility = 0x68..<0x6A
  static let expansion = 0x6A..<0x6C
}

/// CR, §5.4.
enum RTL8139Command {
  static let bufferEmpty: UInt8 = 1 << 0
  static let transmit: UInt8 = 1 << 2
  static let receive: UInt8 = 1 << 3
  static let reset: UInt8 = 1 << 4
}

/// IMR and ISR, §5.5 and §5.6.
enum RTL8139Interrupt {
  static let receiveOK: UInt16 = 1 << 0
  static let transmitOK: UInt16 = 1 << 2
  static let transmitError: UInt16 = 1 << 3
  static let receiveOverflow: UInt16 = 1 << 4
  static let linkChange: UInt16 = 1 << 5
  static let timeout: UInt16 = 1 << 14
  static let systemError: UInt16 = 1 << 15
  static let implemented: UInt16 = 0xE07F
}

/// TSD, §5.2.
enum RTL8139TransmitStatus {
  static let size: UInt32 = 0x1FFF
  /// The card has moved the frame out of memory, or has no frame.
  static let own: UInt32 = 1 << 13
  static let underrun: UInt32 = 1 << 14
  static let ok: UInt32 = 1 << 15
  static let aborted: UInt32 = 1 << 30
  static let writable: UInt32 = 0x003F_3FFF
}

/// TCR, §5.7.
enum RTL8139TransmitConfiguration {
  /// Software brings the CRC.
  static let noCRC: UInt32 = 1 << 16
  static let loopback: UInt32 = 0b11 << 17
  static let writable: UInt32 = 0x0307_0FF0
  /// The hardware version of an RTL8139C.
  static let version: UInt32 = 0x7400_0000
}

/// RCR, §5.8.
enum RTL8139ReceiveConfiguration {
  static let acceptAll: UInt32 = 1 << 0
  static let acceptMatch: UInt32 = 1 << 1
  static let acceptMulticast: UInt32 = 1 << 2
  static let acceptBroadcast: UInt32 = 1 << 3
  static let noWrap: UInt32 = 1 << 7
}

/// Status in front of a received packet, §5.1.
enum RTL8139ReceiveStatus {
  static let ok: UInt16 = 1 << 0
  static let broadcast: UInt16 = 1 << 13
  static let match: UInt16 = 1 << 14
  static let multicast: UInt16 = 1 << 15
}
