import Backends
import Buses
import DeviceKit

/// A port that firmware writes its log to. Bytes that the connection has no room for are dropped, so that a log
/// never holds the guest up.
public final class DebugConsole: Device, @unchecked Sendable {
  /// What a read returns, by which firmware knows that the port is there.
  private static let identification: UInt64 = 0xE9

  private let backend: (any CharacterBackend)?

  init(id: String, base: UInt64, backend: (any CharacterBackend)?, board: Board) throws(DeviceError) {
    self.backend = backend
    super.init(id: id)
    try board.claim(ports: base, 1, for: self)
    // Input has nowhere to go; the backend holds it.
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    Self.identification | AccessWidth.qword.mask & ~0xFF
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    var byte = UInt8(truncatingIfNeeded: value)
    withUnsafeBytes(of: &byte) { _ = backend?.send($0) }
  }

  public override func writeString(region: Int, offset: UInt64, width: AccessWidth, from buffer: UnsafeRawBufferPointer)
  {
    guard width == .byte else {
      super.writeString(region: region, offset: offset, width: width, from: buffer)
      return
    }
    _ = backend?.send(buffer)
  }

  public override func drain() { backend?.drain(nanoseconds: 500_000_000) }

  public static let model = DeviceModel(
    name: "debugcon", summary: "firmware's debug output port", bus: .isa,
    options: [
      OptionSpec("iobase", .integer(0...0xFFFF), default: .integer(0x402), "its I/O port"),
      OptionSpec("chardev", .character, "connection that the output goes to; without one it is dropped"),
    ]
  ) { (id, properties, board) throws(DeviceError) in
    try DebugConsole(
      id: id, base: properties.integer("iobase") ?? 0x402, backend: try board.character("chardev", properties),
      board: board)
  }
}
