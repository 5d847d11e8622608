import GuestMemory

/// What is wrong with a virtqueue; the device then needs a reset (virtio 1.2 §2.1.2).
public enum VirtqueueFault: Error, Equatable, Sendable {
  /// The ring lies outside RAM or is not aligned, or its size is not allowed.
  case ring
  /// The driver made more buffers available than the ring has room for, or has more of them outstanding.
  case index
  /// A descriptor number beyond the table.
  case descriptor
  /// A chain that is longer than the queue: a loop.
  case loop
  /// A buffer or an indirect table that is not RAM.
  case address
  /// More than 4 GiB in one chain (§2.6), or an indirect table of no whole descriptors (§2.7.5.3).
  case length
  /// A table within a table, with a successor, or without the feature (§2.7.5.3.1).
  case indirect
  /// A device-readable buffer behind a device-writable one (§2.7.4.2).
  case order
  /// The device's own request format was broken, such as a chain without room for its status.
  case request
}

/// What the device gives back to the driver when it has used a buffer.
public struct BufferToken: Sendable, Equatable {
  /// Head of the chain, or the buffer's ID in a packed ring.
  let id: UInt16
  /// Descriptors that it takes in a packed ring.
  let descriptors: UInt16
}

/// The buffers of one chain: guest RAM in the order of its descriptors. The pointers to the runs are valid until the
/// next chain is taken; the runs themselves as long as the machine lives.
// Safety: runs are bounds-checked guest RAM; the guest may change the bytes, so they are copied out once.
public struct DescriptorChain {
  public let token: BufferToken
  /// Written by the driver, read by the device.
  public let readable: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  /// Written by the device.
  public let writable: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  /// Bytes in all readable runs, below 2^32.
  public let readableCount: Int
  public let writableCount: Int
}

/// Collects the runs of a chain.
// Safety: `runs` has room for `capacity` elements and is freed once.
struct ChainBuilder: ~Copyable {
  /// Longest chain through an indirect table. The specification allows no more than the queue's size; drivers exist
  /// that go by the device's segment limit alone.
  static let capacity = 1024

  private let runs: UnsafeMutablePointer<UnsafeMutableRawBufferPointer>
  private var count = 0
  private var readable = 0
  private var readableCount: UInt64 = 0
  private var writableCount: UInt64 = 0

  init(queueSize: Int, capacity: Int = ChainBuilder.capacity) {
    runs = .allocate(capacity: max(queueSize + capacity, 1))
  }

  deinit { runs.deallocate() }

  mutating func clear() {
    count = 0
    readable = 0
    readableCount = 0
    writableCount = 0
  }

  /// Adds a descriptor's buffer. An empty one adds nothing, wherever it is said to be.
  @inline(__always)
  mutating func add(
    _ memory: GuestMemory, _ descriptor: RingDescriptor, isWritable: Bool
  ) -> VirtqueueFault? {
    if !isWritable, writableCount > 0 { return .order }
    guard descriptor.length > 0 else { return nil }
    guard let host = memory.pointer(descriptor.address, Int(descriptor.length)) else { return .address }
    runs[count] = UnsafeMutableRawBufferPointer(start: host, count: Int(descriptor.length))
    count += 1
    if isWritable {
      writableCount += UInt64(descriptor.length)
    } else {
      readable = count
      readableCount += UInt64(descriptor.length)
    }
    return readableCount + writableCount > 1 << 32 ? .length : nil
  }

  func chain(_ token: BufferToken) -> DescriptorChain {
    DescriptorChain(
      token: token, readable: UnsafeBufferPointer(start: runs, count: readable),
      writable: UnsafeBufferPointer(start: runs + readable, count: count - readable),
      readableCount: Int(readableCount), writableCount: Int(writableCount))
  }
}

extension DescriptorChain {
  /// Copies up to `target.count` readable bytes from `offset` on; returns how many there were.
  @discardableResult
  public func read(at offset: Int = 0, into target: UnsafeMutableRawBufferPointer) -> Int {
    Self.forEachPart(of: readable, at: offset, count: target.count) { part, done in
      UnsafeMutableRawBufferPointer(rebasing: target[done..<done + part.count]).copyMemory(
        from: UnsafeRawBufferPointer(part))
    }
  }

  /// Copies `source` to the writable bytes from `offset` on, as far as there is room; returns how many went.
  @discardableResult
  public func write(at offset: Int = 0, _ source: UnsafeRawBufferPointer) -> Int {
    Self.forEachPart(of: writable, at: offset, count: source.count) { part, done in
      part.copyMemory(from: UnsafeRawBufferPointer(rebasing: source[done..<done + part.count]))
    }
  }

  /// Calls `body` for the parts of `count` bytes from `offset` on, each with the bytes before it; returns how many bytes
  /// there were.
  @inline(__always)
  private static func forEachPart(
    of runs: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>, at offset: Int, count: Int,
    _ body: (UnsafeMutableRawBufferPointer, Int) -> Void
  ) -> Int {
    var skip = offset
    var done = 0
    for run in runs where done < count {
      if skip >= run.count {
        skip -= run.count
        continue
      }
      let part = min(run.count - skip, count - done)
      body(UnsafeMutableRawBufferPointer(rebasing: run[skip..<skip + part]), done)
      done += part
      skip = 0
    }
    return done
  }
}
