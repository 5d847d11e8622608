import CLinux
import Glibc

/// The mode of a terminal and how to put it back.
// Safety: a value; the descriptor it was read from stays open with the process.
public struct TerminalMode: @unchecked Sendable {
  private let descriptor: CInt
  private let saved: termios

  /// The present mode of `descriptor`, or nil where that is not a terminal.
  public init?(of descriptor: CInt) {
    var mode = termios()
    guard isatty(descriptor) == 1, tcgetattr(descriptor, &mode) == 0 else { return nil }
    self.descriptor = descriptor
    saved = mode
  }

  /// Every key arrives at once and unchanged, the interrupt keys included; output is still processed.
  public func enterRaw() {
    var mode = saved
    cfmakeraw(&mode)
    mode.c_oflag |= tcflag_t(OPOST)
    tcsetattr(descriptor, TCSANOW, &mode)
  }

  public func restore() {
    var mode = saved
    tcsetattr(descriptor, TCSANOW, &mode)
  }

  /// Columns and rows; nil where the terminal does not know.
  public var size: (columns: UInt16, rows: UInt16)? {
    var columns: UInt16 = 0
    var rows: UInt16 = 0
    guard clinux_window_size(descriptor, &columns, &rows) == 0, columns > 0, rows > 0 else { return nil }
    return (columns, rows)
  }

  /// The saved mode as bytes, for a process that restores it when this one was killed.
  public var bytes: [UInt8] {
    var mode = saved
    return withUnsafeBytes(of: &mode) { Array($0) }
  }
}
