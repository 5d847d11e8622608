/// Guest writes that reach a device without the vCPU waiting for it, such as a virtqueue's notification.
///
/// Where there is no registrar, or the engine has no such way, the write arrives as any other does, so a device handles
/// both; what was written is seen only then.
public protocol DoorbellRegistrar: AnyObject, Sendable {
  /// Calls `ring` after guest writes to the port, whatever their width; several writes may be one call. To be called
  /// while the board is built.
  func connect(port: UInt16, _ ring: @escaping @Sendable () -> Void)
}
