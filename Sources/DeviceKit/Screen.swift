/// What a display device shows, for tests and whoever presents it. Offered on the board's sockets as `screenSocket`.
public protocol Screen: AnyObject, Sendable {
  /// The lines of a text screen in Unicode, without trailing blanks; nil in graphics modes and while the
  /// display is off.
  func textScreen() -> [String]?
  /// The picture as a binary PPM file (P6); empty where there is none.
  func screenshotPPM() -> [UInt8]
}

/// The name of the socket that the board's display offers itself on.
public let screenSocket = "screen.0"
