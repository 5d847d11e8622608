import Buses
import DeviceKit
import GuestMemory

/// A descriptor as a test writes it, valid or not.
public struct TestDescriptor: Sendable {
  public var address: UInt64
  public var length: UInt32
  public var isWritable: Bool
  /// Flags besides WRITE and NEXT; bit 2 is INDIRECT.
  public var flags: UInt16 = 0
  /// Where the chain goes on, other than at the next one of the array (split rings).
  public var next: UInt16?
  /// NEXT even on the last, or not even before the last.
  public var hasNext: Bool?

  public init(_ address: UInt64, _ length: Int, isWritable: Bool = false) {
    self.address = address
    self.length = UInt32(truncatingIfNeeded: length)
    self.isWritable = isWritable
  }

  public static func readable(_ address: UInt64, _ length: Int) -> TestDescriptor { TestDescriptor(address, length) }
  public static func writable(_ address: UInt64, _ length: Int) -> TestDescriptor {
    TestDescriptor(address, length, isWritable: true)
  }
  /// A table of descriptors at an address (flag INDIRECT).
  public static func table(_ address: UInt64, _ length: Int) -> TestDescriptor {
    var table = TestDescriptor(address, length)
    table.flags = 4
    return table
  }
}

/// The driver's side of one virtqueue (virtio 1.2 §2.7, §2.8) in the memory of a test. It keeps no rule that it is not
/// told to keep, so that it can make malformed chains of every kind.
public final class VirtqueueDriver {
  /// A buffer that the device has used.
  public struct Used: Sendable, Equatable {
    public let id: UInt16
    public let length: UInt32
    public init(id: UInt16, length: UInt32) { (self.id, self.length) = (id, length) }
  }

  public let memory: GuestMemory
  public let isPacked: Bool
  public let size: Int
  /// Descriptor table, driver area and device area.
  public let descriptors: UInt64
  public let driver: UInt64
  public let device: UInt64
  /// Where the next chain's descriptors go.
  private var nextDescriptor = 0
  private var availableIndex: UInt16 = 0
  private var usedIndex = 0
  private var availableWrap = true
  private var usedWrap = true
  /// Descriptors of each buffer ID of a packed ring.
  private var lengths: [UInt16: Int] = [:]

  /// `base` is the start of a page; the queue takes as many as it needs, as a legacy one lies.
  public init(_ memory: GuestMemory, at base: UInt64, size: Int, isPacked: Bool = false) {
    self.memory = memory
    self.size = size
    self.isPacked = isPacked
    descriptors = base
    driver = base + UInt64(size * 16)
    device = (driver + UInt64(6 + 2 * size) + 4095) & ~4095
    for offset in 0..<(device - base + UInt64(6 + 8 * size)) { store(UInt8(0), base + offset) }
  }

  private func store<Value: FixedWidthInteger>(_ value: Value, _ address: UInt64) {
    try? memory.store(value, at: address)
  }
  private func load<Value: FixedWidthInteger>(_ address: UInt64, _ type: Value.Type) -> Value {
    (try? memory.load(address, as: type)) ?? 0
  }

  /// Writes descriptors as a table in memory, for an indirect one.
  public func write(table: [TestDescriptor], at address: UInt64) {
    for (index, descriptor) in table.enumerated() {
      let hasNext = descriptor.hasNext ?? (index + 1 < table.count)
      let flags = descriptor.flags | (descriptor.isWritable ? 2 : 0) | (hasNext ? 1 : 0)
      let next = descriptor.next ?? UInt16(truncatingIfNeeded: index + 1)
      put(descriptor, isPacked ? next : flags, isPacked ? flags : next, at: address + UInt64(index * 16))
    }
  }

  private func put(_ descriptor: TestDescriptor, _ third: UInt16, _ fourth: UInt16, at address: UInt64) {
    store(descriptor.address, address)
    store(descriptor.length, address + 8)
    store(third, address + 12)
    store(fourth, address + 14)
  }

  /// Makes a chain available and returns its head, or a packed ring's buffer ID.
  @discardableResult
  public func add(_ chain: [TestDescriptor]) -> UInt16 {
    isPacked ? addPacked(chain) : addSplit(chain)
  }

  private func addSplit(_ chain: [TestDescriptor]) -> UInt16 {
    let head = nextDescriptor
    for (index, descriptor) in chain.enumerated() {
      let slot = nextDescriptor
      nextDescriptor = (nextDescriptor + 1) % size
      let hasNext = descriptor.hasNext ?? (index + 1 < chain.count)
      let flags = descriptor.flags | (descriptor.isWritable ? 2 : 0) | (hasNext ? 1 : 0)
      put(
        descriptor, flags, descriptor.next ?? UInt16(truncatingIfNeeded: nextDescriptor),
        at: descriptors + UInt64(slot * 16))
    }
    offer(head: UInt16(truncatingIfNeeded: head))
    return UInt16(truncatingIfNeeded: head)
  }

  /// Makes a head available, whatever it is (split rings).
  public func offer(head: UInt16) {
    store(head, driver + 4 + UInt64(2 * (Int(availableIndex) % size)))
    setAvailableIndex(availableIndex &+ 1)
  }

  /// Sets the available ring's index to anything (split rings).
  public func setAvailableIndex(_ index: UInt16) {
    availableIndex = index
    store(index, driver + 2)
  }

  private func addPacked(_ chain: [TestDescriptor]) -> UInt16 {
    let id = UInt16(truncatingIfNeeded: nextDescriptor)
    lengths[id] = chain.count
    var first: (UInt64, UInt16)?
    for (index, descriptor) in chain.enumerated() {
      let hasNext = descriptor.hasNext ?? (index + 1 < chain.count)
      var flags = descriptor.flags | (descriptor.isWritable ? 2 : 0) | (hasNext ? 1 : 0)
      flags |= availableWrap ? 0x80 : 0x8000
      let address = descriptors + UInt64(nextDescriptor * 16)
      // The first one's flags come last.
      if index == 0 { first = (address + 14, flags) }
      put(descriptor, id, index == 0 ? load(address + 14, UInt16.self) : flags, at: address)
      nextDescriptor += 1
      if nextDescriptor == size {
        nextDescriptor = 0
        availableWrap.toggle()
      }
    }
    if let (address, flags) = first { store(flags, address) }
    return id
  }

  /// What the device has used since the last call.
  public func takeUsed() -> [Used] {
    var result: [Used] = []
    if !isPacked {
      let index = load(device + 2, UInt16.self)
      while UInt16(truncatingIfNeeded: usedIndex) != index, result.count <= size {
        let element = device + 4 + UInt64(8 * (usedIndex % size))
        result.append(
          Used(id: UInt16(truncatingIfNeeded: load(element, UInt32.self)), length: load(element + 4, UInt32.self)))
        usedIndex += 1
      }
      return result
    }
    while result.count <= size {
      let address = descriptors + UInt64(usedIndex * 16)
      let flags = load(address + 14, UInt16.self)
      guard (flags & 0x80 != 0) == usedWrap, (flags & 0x8000 != 0) == usedWrap else { return result }
      let id = load(address + 12, UInt16.self)
      result.append(Used(id: id, length: load(address + 8, UInt32.self)))
      usedIndex += lengths[id] ?? 1
      if usedIndex >= size {
        usedIndex -= size
        usedWrap.toggle()
      }
    }
    return result
  }

  /// Sets the used event that the driver wants an interrupt at (split: `used_event`; packed: offset and wrap counter with
  /// flags 2).
  public func setEvent(_ position: UInt16) {
    if isPacked {
      store(position, driver)
      store(UInt16(2), driver + 2)
    } else {
      store(position, driver + 4 + UInt64(2 * size))
    }
  }

  /// Whether the driver wants interrupts at all (no event index).
  public func setInterrupts(_ enabled: Bool) { store(UInt16(enabled ? 0 : 1), isPacked ? driver + 2 : driver) }

  /// Whether the device wants to be notified (no event index).
  public var wantsNotification: Bool { load(isPacked ? device + 2 : device, UInt16.self) & 1 == 0 }
}

/// A driver of a virtio PCI function at a slot of a fake board (virtio 1.2 §4.1).
public struct VirtioPCIDriver {
  public let fake: FakeBoard
  public let slot: Int
  public static let modernBAR: UInt64 = 0xC000_0000
  public static let vectorBAR: UInt64 = 0xC010_0000
  public static let legacyBAR: UInt64 = 0xC000

  public init(_ fake: FakeBoard, slot: Int = 3) {
    self.fake = fake
    self.slot = slot
    write(0x10, .dword, UInt32(truncatingIfNeeded: Self.legacyBAR))
    write(0x14, .dword, UInt32(truncatingIfNeeded: Self.vectorBAR))
    write(0x20, .dword, UInt32(truncatingIfNeeded: Self.modernBAR))
    write(0x24, .dword, 0)
    write(PCIRegister.command, .word, 7)
  }

  // MARK: Configuration space

  public func read(_ register: Int, _ width: AccessWidth) -> UInt32 {
    fake.board.pci.read(slot: slot, function: 0, register: register, width)
  }
  public func write(_ register: Int, _ width: AccessWidth, _ value: UInt32) {
    fake.board.pci.write(slot: slot, function: 0, register: register, width, value)
  }

  /// The registers where the capabilities of an ID start, in order.
  public func capabilities(_ id: UInt8) -> [Int] {
    var result: [Int] = []
    var register = Int(read(PCIRegister.capabilities, .byte))
    for _ in 0..<48 where register != 0 {
      if read(register, .byte) == UInt32(id) { result.append(register) }
      register = Int(read(register + 1, .byte))
    }
    return result
  }

  /// Turns MSI-X on and gives vector n the message with data n.
  public func enableVectors(_ count: Int) {
    for vector in 0..<count {
      let entry = Self.vectorBAR + UInt64(vector * 16)
      fake.board.mmio.write(entry, .qword, 0xFEE0_0000)
      fake.board.mmio.write(entry + 8, .dword, UInt64(vector))
      fake.board.mmio.write(entry + 12, .dword, 0)
    }
    if let register = capabilities(0x11).first { write(register + 2, .word, 0x8000) }
  }

  // MARK: The modern registers

  public func common(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    fake.board.mmio.read(Self.modernBAR + offset, width)
  }
  public func setCommon(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    fake.board.mmio.write(Self.modernBAR + offset, width, value)
  }
  public var status: UInt8 { UInt8(truncatingIfNeeded: common(20, .byte)) }
  public func setStatus(_ status: UInt8) { setCommon(20, .byte, UInt64(status)) }
  /// Reading clears it.
  public func isr() -> UInt8 { UInt8(truncatingIfNeeded: common(0x1000, .byte)) }
  public func configuration(_ offset: UInt64, _ width: AccessWidth) -> UInt64 { common(0x2000 + offset, width) }
  public func setConfiguration(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    setCommon(0x2000 + offset, width, value)
  }
  /// Queues that the device has.
  public var queueCount: Int { Int(common(18, .word)) }

  public var offeredFeatures: UInt64 {
    setCommon(0, .dword, 0)
    let low = common(4, .dword)
    setCommon(0, .dword, 1)
    return low | common(4, .dword) << 32
  }

  /// Resets and negotiates; false: the device refused the features.
  @discardableResult
  public func negotiate(_ features: UInt64) -> Bool {
    setStatus(0)
    setStatus(3)
    setCommon(8, .dword, 0)
    setCommon(12, .dword, features & 0xFFFF_FFFF)
    setCommon(8, .dword, 1)
    setCommon(12, .dword, features >> 32)
    setStatus(11)
    return status & 8 != 0
  }

  /// Sets a queue up and enables it, with a vector where there is one.
  public func enable(_ queue: Int, _ ring: VirtqueueDriver, vector: UInt16 = 0xFFFF) {
    setCommon(22, .word, UInt64(queue))
    setCommon(24, .word, UInt64(ring.size))
    setCommon(26, .word, UInt64(vector))
    setCommon(32, .dword, ring.descriptors & 0xFFFF_FFFF)
    setCommon(36, .dword, ring.descriptors >> 32)
    setCommon(40, .qword, ring.driver)
    setCommon(48, .qword, ring.device)
    setCommon(28, .word, 1)
  }

  public func start() { setStatus(15) }

  /// A notification as the engine passes it on, or on the bus where there is no doorbell.
  public func notify(_ queue: Int) {
    setCommon(22, .word, UInt64(queue))
    let address = Self.modernBAR + 0x3000 + common(30, .word) * 4
    if !fake.workers.ring(.memory(address)) { fake.board.mmio.write(address, .word, UInt64(queue)) }
  }
}
