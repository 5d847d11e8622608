/// A message on the control queues (virtio 1.2 §5.3.6.2): 8 bytes, for a port's name or size followed by that.
struct ConsoleControl: Sendable, Equatable {
  enum Event {
    static let deviceReady: UInt16 = 0
    static let portAdd: UInt16 = 1
    static let portRemove: UInt16 = 2
    static let portReady: UInt16 = 3
    static let consolePort: UInt16 = 4
    static let resize: UInt16 = 5
    static let portOpen: UInt16 = 6
    static let portName: UInt16 = 7
  }

  static let size = 8

  var port: UInt32 = 0
  var event: UInt16
  var value: UInt16 = 0
  /// What follows: a port's name, or its columns and rows.
  var payload: [UInt8] = []

  init(_ event: UInt16, port: Int = 0, value: UInt16 = 0, payload: [UInt8] = []) {
    self.event = event
    self.port = UInt32(truncatingIfNeeded: port)
    self.value = value
    self.payload = payload
  }

  /// The driver's message; nil: it is too short.
  init?(_ chain: DescriptorChain) {
    guard chain.readableCount >= Self.size else { return nil }
    var raw: (UInt32, UInt16, UInt16) = (0, 0, 0)
    withUnsafeMutableBytes(of: &raw) { bytes in _ = chain.read(into: bytes) }
    port = UInt32(littleEndian: raw.0)
    event = UInt16(littleEndian: raw.1)
    value = UInt16(littleEndian: raw.2)
  }

  var bytes: [UInt8] {
    func littleEndian<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
      withUnsafeBytes(of: value.littleEndian, Array.init)
    }
    return littleEndian(port) + littleEndian(event) + littleEndian(value) + payload
  }
}
