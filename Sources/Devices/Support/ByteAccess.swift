import Backends
import Buses
import DeviceKit

/// Answers an access of any width as that many byte accesses at ascending addresses: what an 8-bit device on
/// the ISA bus sees.
@inline(__always)
func readBytes(_ offset: UInt64, _ width: AccessWidth, _ read: (UInt64) -> UInt8) -> UInt64 {
  var value: UInt64 = 0
  for index in 0..<UInt64(width.bytes) { value |= UInt64(read(offset &+ index)) << (index * 8) }
  return value
}

/// Takes an access of any width as that many byte accesses at ascending addresses.
@inline(__always)
func writeBytes(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64, _ write: (UInt64, UInt8) -> Void) {
  for index in 0..<UInt64(width.bytes) { write(offset &+ index, UInt8(truncatingIfNeeded: value >> (index * 8))) }
}

extension Board {
  /// Claims I/O ports for a device, or for a part of one that answers by itself.
  func claim(
    ports base: UInt64, _ count: UInt64, for target: BusTarget, region: Int = 0, isPosted: Bool = false,
    registers: SharedRegisters? = nil
  ) throws(DeviceError) {
    do {
      try ports.claim(base, count, for: target, region: region, isPosted: isPosted, registers: registers)
    } catch {
      throw DeviceError("\(error)")
    }
  }

  /// Claims physical addresses for a device.
  func claim(
    memory base: UInt64, _ count: UInt64, for device: Device, region: Int = 0, registers: SharedRegisters? = nil
  ) throws(DeviceError) {
    do {
      try mmio.claim(base, count, for: device, region: region, registers: registers)
    } catch {
      throw DeviceError("\(error)")
    }
  }

  /// The character connection that an option names; nil where the option is not given.
  func character(_ option: String, _ properties: Properties) throws(DeviceError) -> (any CharacterBackend)? {
    guard let name = properties.string(option) else { return nil }
    guard let backend = resources.character(name) else { throw DeviceError("there is no connection '\(name)'") }
    return backend
  }
}
