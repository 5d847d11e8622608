/// Why a block request failed; a device turns it into its own error status.
public enum BlockError: Error, Equatable, Sendable {
  /// The request lies beyond the end of the medium.
  case outOfRange
  case readOnly
  /// The host has no room for the data.
  case noSpace
  /// The backend cannot do this; see `BlockFeatures`.
  case unsupported
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
    /// The content of the range is no longer needed: it may be kept, or read as zero from now on.
    case discard
    /// Make the range read as zero. With `mayUnmap` its room may go back to the host.
    case writeZeroes(mayUnmap: Bool)

    /// Whether the medium may be another afterwards.
    public var changesMedium: Bool { self != .read && self != .flush }
  }

  public let operation: Operation
  /// Byte offset on the medium.
  public let offset: UInt64
  /// Bytes of the range: those of all buffers for a read or write, 0 for a flush.
  public let length: UInt64
  /// Empty unless data is read or written.
  public let buffers: [UnsafeMutableRawBufferPointer]
  /// Called once, on any thread, possibly before `submit` returns.
  public let completion: @Sendable (Result<Void, BlockError>) -> Void

  /// A read, write or flush.
  public init(
    _ operation: Operation, offset: UInt64 = 0, buffers: [UnsafeMutableRawBufferPointer] = [],
    completion: @escaping @Sendable (Result<Void, BlockError>) -> Void
  ) {
    self.operation = operation
    self.offset = offset
    self.buffers = buffers
    self.completion = completion
    var length: UInt64 = 0
    for buffer in buffers { length &+= UInt64(buffer.count) }
    self.length = length
  }

  /// A discard or zeroes, which have no data.
  public init(
    _ operation: Operation, offset: UInt64, length: UInt64,
    completion: @escaping @Sendable (Result<Void, BlockError>) -> Void
  ) {
    self.operation = operation
    self.offset = offset
    self.length = length
    self.buffers = []
    self.completion = completion
  }

  /// Whether the range lies on a medium of `size` bytes.
  public func fits(in size: UInt64) -> Bool { offset <= size && length <= size - offset }
}

/// What a medium can do beside reading, writing and flushing.
public struct BlockFeatures: OptionSet, Sendable {
  public let rawValue: UInt8
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Discards are worth sending.
  public static let discard = BlockFeatures(rawValue: 1 << 0)
  /// Zeroes are written faster than as data.
  public static let writeZeroes = BlockFeatures(rawValue: 1 << 1)
  /// `writeZeroes(mayUnmap: true)` gives room back to the host.
  public static let unmap = BlockFeatures(rawValue: 1 << 2)
}

/// What requests a medium likes best. Others work too.
public struct BlockLimits: Sendable, Equatable {
  /// Bytes that are written without reading others first; a power of two from 512 on.
  public var physicalBlock: Int
  /// Bytes that are discarded or unmapped together: smaller or unaligned ranges give nothing back. A power of two.
  public var discardBlock: Int
  /// A good length of a request in bytes; 0: no preference.
  public var optimalTransfer: Int

  public init(physicalBlock: Int = 512, discardBlock: Int = 512, optimalTransfer: Int = 0) {
    self.physicalBlock = physicalBlock
    self.discardBlock = discardBlock
    self.optimalTransfer = optimalTransfer
  }
}

/// A medium of bytes. It knows nothing of the device that drives it.
public protocol BlockBackend: AnyObject, Sendable {
  /// Bytes on the medium now; a tail short of a sector does not exist for the guest.
  var size: UInt64 { get }
  var isReadOnly: Bool { get }
  var features: BlockFeatures { get }
  var limits: BlockLimits { get }
  /// Starts a request. Requests may finish in any order; a flush covers writes that completed before it.
  func submit(_ request: BlockRequest)
  /// The same, but the request may wait for the next `submit` or `kick`, so that a burst is one call of the host.
  func enqueue(_ request: BlockRequest)
  /// Starts what `enqueue` has left waiting.
  func kick()
  /// Waits until every submitted request has completed and written data is where the cache mode promises.
  func drain()
  /// Looks at the host's file or device again, which may have grown or shrunk.
  func measure()
  /// Has `notify` called with the new size, on any thread, each time the medium has grown or shrunk. nil ends that.
  func onResize(_ notify: (@Sendable (UInt64) -> Void)?)
}

extension BlockBackend {
  public var features: BlockFeatures { [] }
  public var limits: BlockLimits { BlockLimits() }
  public func enqueue(_ request: BlockRequest) { submit(request) }
  public func kick() {}
  public func measure() {}
  public func onResize(_ notify: (@Sendable (UInt64) -> Void)?) {}
}
