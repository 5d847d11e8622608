/// Why a block request failed; a device turns it into its own error status.
public enum BlockError: Error, Equatable, Sendable {
  /// The request lies beyond the end of the medium.
  case outOfRange
  case readOnly
  /// The host has no room for the data.
  case noSpace
  /// Any other host error, with its errno.
  case host(errno: CInt)
}

/// One request. Buffers stay valid until the completion is called.
// Safety: the buffers are guest RAM or a device's own storage, both of which outlive the request.
public struct BlockRequest: @unchecked Sendable {
  public enum Operation: Sendable, Equatable {
    /// Fill the buffers from the medium.
    case read
    /// Put the buffers on the medium.
    case write
    /// Finish when all completed writes are on stable storage.
    case flush
  }

  public let operation: Operation
  /// Byte offset on the medium.
  public let offset: UInt64
  public let buffers: [UnsafeMutableRawBufferPointer]
  /// Called once, on any thread, possibly before `submit` returns.
  public let completion: @Sendable (Result<Void, BlockError>) -> Void

  public init(
    _ operation: Operation, offset: UInt64 = 0, buffers: [UnsafeMutableRawBufferPointer] = [],
    completion: @escaping @Sendable (Result<Void, BlockError>) -> Void
  ) {
    self.operation = operation
    self.offset = offset
    self.buffers = buffers
    self.completion = completion
  }

  /// Bytes in all buffers.
  public var count: Int { buffers.reduce(0) { $0 + $1.count } }
}

/// A medium of fixed-size bytes. It knows nothing of the device that drives it.
public protocol BlockBackend: AnyObject, Sendable {
  /// Bytes on the medium; a tail short of a sector does not exist for the guest.
  var size: UInt64 { get }
  var isReadOnly: Bool { get }
  /// Starts a request. Requests may finish in any order; a flush covers writes that completed before it.
  func submit(_ request: BlockRequest)
  /// Waits until every submitted request has completed and written data is where the cache mode promises.
  func drain()
}
