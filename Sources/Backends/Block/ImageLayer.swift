import LinuxSystem

/// The bytes of a medium as one layer of an image sees them: a raw file, a format, an overlay.
///
/// Calls come from several threads at once and return when they are done. Callers keep two calls on one granule apart
/// unless both read, and stay within `size`.
protocol ImageLayer: AnyObject, Sendable {
  var size: UInt64 { get }
  /// Bytes whose requests depend on each other, a power of two.
  var granule: Int { get }
  var features: BlockFeatures { get }
  var limits: BlockLimits { get }
  func read(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError)
  func write(_ buffers: [UnsafeMutableRawBufferPointer], at offset: UInt64) throws(LayerError)
  func discard(at offset: UInt64, _ length: UInt64) throws(LayerError)
  func writeZeroes(at offset: UInt64, _ length: UInt64, mayUnmap: Bool) throws(LayerError)
  /// Where in the image's own file a read or write goes as it is; nil: it is not as simple as that, or not known yet.
  func place(of request: BlockRequest) -> UInt64?
  /// Makes all finished writes stable, as far as the cache mode promises.
  func flush() throws(LayerError)
  /// Leaves the file as if nobody had it open; it may be written to again.
  func close() throws(LayerError)
  /// The size by a new look at the host.
  func measure() throws(LayerError) -> UInt64
}

extension ImageLayer {
  func close() throws(LayerError) {}
  func place(of request: BlockRequest) -> UInt64? { nil }
  func measure() throws(LayerError) -> UInt64 { size }
}

/// Why a layer could not do what it was asked.
enum LayerError: Error, Equatable, Sendable, CustomStringConvertible {
  case host(SystemError)
  /// The image contradicts itself; the text says how.
  case corrupt(String)
  /// vmrun does not have what the image needs.
  case unsupported(String)
  /// The image takes no writes any more.
  case readOnly
  /// The write would make a raw image look like another format.
  case disguise
  /// The format cannot hold it.
  case tooLarge(String)

  var description: String {
    switch self {
    case .host(let error): "\(error)"
    case .corrupt(let text), .unsupported(let text), .tooLarge(let text): text
    case .readOnly: "the image is read-only"
    case .disguise: "the guest writes what makes a raw image look like qcow2: add format=raw to let it"
    }
  }

  /// What the guest is told of once only on standard error.
  var reportKey: String {
    switch self {
    case .host(let error): "\(error.errno)"
    case .corrupt: "corrupt"
    case .unsupported: "unsupported"
    case .readOnly: "read-only"
    case .disguise: "disguise"
    case .tooLarge: "too large"
    }
  }
}

extension BlockError {
  init(_ error: LayerError) {
    switch error {
    case .host(let error): self.init(error)
    case .corrupt, .unsupported, .disguise: self = .host(errno: ErrorNumber.inputOutput)
    case .readOnly: self = .readOnly
    case .tooLarge: self = .noSpace
    }
  }

  init(_ error: SystemError) {
    if error.isOutOfSpace {
      self = .noSpace
    } else if error.isReadOnly {
      self = .readOnly
    } else {
      self = .host(errno: error.errno)
    }
  }
}

/// Runs a call of the host whose error is the layer's.
func onHost<Result: ~Copyable>(_ body: () throws(SystemError) -> Result) throws(LayerError) -> Result {
  do throws(SystemError) { return try body() } catch { throw .host(error) }
}
