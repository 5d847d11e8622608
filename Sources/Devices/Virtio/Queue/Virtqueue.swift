import GuestMemory

/// Where a virtqueue is: guest physical addresses and its number of descriptors.
public struct VirtqueueLayout: Sendable, Equatable {
  public var size: UInt16
  /// Descriptor table, or a packed ring's descriptor ring.
  public var descriptors: UInt64
  /// Available ring, or driver event suppression.
  public var driver: UInt64
  /// Used ring, or device event suppression.
  public var device: UInt64

  public init(size: UInt16, descriptors: UInt64 = 0, driver: UInt64 = 0, device: UInt64 = 0) {
    self.size = size
    self.descriptors = descriptors
    self.driver = driver
    self.device = device
  }
}

/// One virtqueue as its device uses it, split or packed. Whatever is in guest memory, nothing traps: what breaks the
/// specification is a `VirtqueueFault`.
///
/// One thread at a time, under the lock of the queue's group.
public struct Virtqueue: ~Copyable {
  // One of the two.
  private var split: SplitRing?
  private var packed: PackedRing?
  private let memory: GuestMemory
  private let size: Int
  private var chain: ChainBuilder
  /// Buffers that were taken and not given back.
  public private(set) var outstanding = 0
  private var notifies = true

  /// A queue that the driver has not set up: it has no buffers and takes none back.
  init(closed memory: GuestMemory) {
    split = nil
    packed = nil
    self.memory = memory
    size = 0
    chain = ChainBuilder(queueSize: 0, capacity: 0)
  }

  /// nil: the parts of the ring do not lie in RAM as the specification wants them.
  init?(_ memory: GuestMemory, _ layout: VirtqueueLayout, _ features: VirtioFeatures) {
    if features.contains(.packedRing) {
      packed = PackedRing(memory, layout, features)
      split = nil
      guard packed != nil else { return nil }
    } else {
      split = SplitRing(memory, layout, features)
      packed = nil
      guard split != nil else { return nil }
    }
    self.memory = memory
    size = Int(layout.size)
    chain = ChainBuilder(queueSize: size)
  }

  /// Whether the driver has set the queue up.
  public var isOpen: Bool { size > 0 }

  /// Whether the driver has made a buffer available.
  public var hasAvailable: Bool { packed?.hasAvailable ?? split?.hasAvailable ?? false }

  /// The next available chain; nil: there is none.
  public mutating func take() throws(VirtqueueFault) -> DescriptorChain? {
    // A driver that has used up its descriptors and yet makes more available gives the same ones twice.
    let canTake = outstanding < size
    var token = try packed?.take(memory, into: &chain, canTake: canTake)
    if packed == nil { token = try split?.take(memory, into: &chain, canTake: canTake) }
    guard let token else { return nil }
    outstanding += 1
    return chain.chain(token)
  }

  /// Gives a buffer back with the number of bytes that were written to it. `publish` tells the driver.
  public mutating func put(_ token: BufferToken, written: UInt32) {
    outstanding = max(outstanding - 1, 0)
    packed?.put(token, written: written)
    split?.put(token, written: written)
  }

  /// Shows the driver what was given back. True: it wants an interrupt.
  public mutating func publish() -> Bool { packed?.publish() ?? split?.publish() ?? false }

  /// Asks the driver to notify of new buffers, or lets it know that it need not. When it has been asked, look again.
  public mutating func setNotifications(_ enabled: Bool) {
    guard enabled != notifies || enabled else { return }
    notifies = enabled
    packed?.setNotifications(enabled)
    split?.setNotifications(enabled)
  }
}

/// The queues of a device, by number.
// Safety: allocated once for `count` queues; each is used under the lock of its group (see `VirtioDevice`).
public final class VirtqueueSet: @unchecked Sendable {
  public let count: Int
  private let memory: GuestMemory
  private let storage: UnsafeMutablePointer<Virtqueue>

  init(count: Int, memory: GuestMemory) {
    self.count = count
    self.memory = memory
    storage = .allocate(capacity: max(count, 1))
    for index in 0..<count { (storage + index).initialize(to: Virtqueue(closed: memory)) }
  }

  deinit {
    storage.deinitialize(count: count)
    storage.deallocate()
  }

  /// Queue 0 ≤ `index` < `count`.
  subscript(index: Int) -> Virtqueue {
    _read { yield storage[index] }
    _modify { yield &storage[index] }
  }

  func open(_ index: Int, _ queue: consuming Virtqueue) { storage[index] = queue }
  func close(_ index: Int) { storage[index] = Virtqueue(closed: memory) }
}
