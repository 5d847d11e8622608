import CPU

/// fw_cfg, by its ports.
enum FirmwareConfig {
  static func select(_ key: UInt16) { outw(0x510, key) }
  static func readByte() -> UInt8 { inb(0x511) }

  static func readBigEndian(bytes: Int) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<bytes { value = value << 8 | UInt32(readByte()) }
    return value
  }

  /// FW_CFG_NB_CPUS.
  static var processors: UInt32 {
    select(0x05)
    let low = readByte()
    return UInt32(low) | UInt32(readByte()) << 8
  }

  struct File {
    var key: UInt16
    var size: UInt32
  }

  /// FW_CFG_FILE_DIR: a count, then 64 bytes each of size, key, reserved and name.
  static func file(_ name: StaticString) -> File? {
    select(0x19)
    for _ in 0..<min(readBigEndian(bytes: 4), 256) {
      let size = readBigEndian(bytes: 4)
      let key = readBigEndian(bytes: 2)
      _ = readBigEndian(bytes: 2)
      var same = true
      for index in 0..<56 {
        let byte = readByte()
        if index < name.utf8CodeUnitCount {
          same = same && byte == name.utf8Start[index]
        } else if index == name.utf8CodeUnitCount {
          same = same && byte == 0
        }
      }
      if same { return File(key: UInt16(truncatingIfNeeded: key), size: size) }
    }
    return nil
  }
}
