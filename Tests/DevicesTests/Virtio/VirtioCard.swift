import Buses
import DeviceKit
import GuestMemory
import TestKit

@testable import Devices

/// A virtio PCI function on a fake board as a modern driver sees it, with split rings in RAM that it fills itself.
final class VirtioCard {
  static let base: UInt64 = 0xFEB0_0000
  static let slot = 3
  static let size: UInt16 = 16
  /// Where the rings are: 64 KiB from here, 4 KiB each; buffers follow.
  static let rings: UInt64 = 0x1_0000
  static let buffers: UInt64 = 0x10_0000

  /// A buffer of a chain.
  struct Part {
    let address: UInt64
    let count: Int
    let isWritable: Bool
  }

  /// A chain that the device has given back.
  struct Used: Equatable {
    let head: UInt16
    let written: Int
  }

  let fake: FakeBoard
  let function: VirtioPCIDevice
  var device: VirtioDevice { function.device }
  private var next: [UInt16]
  private var freeDescriptor: [UInt16]
  private var seen: [UInt16]
  private var heap = VirtioCard.buffers

  init(_ fake: FakeBoard, _ device: Device) throws {
    self.fake = fake
    guard let function = device as? VirtioPCIDevice else { throw DeviceError("\(device.id) is no virtio function") }
    self.function = function
    let count = function.device.specs.count
    next = Array(repeating: 0, count: count)
    freeDescriptor = next
    seen = next
    function.reset()
    let pci = fake.board.pci
    pci.write(slot: Self.slot, function: 0, register: 0x10 + VirtioPCI.BAR.modern * 4, .dword, UInt32(Self.base))
    pci.write(slot: Self.slot, function: 0, register: 0x14 + VirtioPCI.BAR.modern * 4, .dword, 0)
    pci.write(slot: Self.slot, function: 0, register: 0x04, .word, 0x7)
  }

  private func write(_ field: UInt64, _ value: UInt64, _ bytes: Int) {
    let width: [Int: AccessWidth] = [1: .byte, 2: .word, 4: .dword, 8: .qword]
    fake.board.mmio.write(Self.base + field, width[bytes] ?? .dword, value)
  }

  var status: VirtioStatus {
    VirtioStatus(rawValue: UInt8(truncatingIfNeeded: fake.board.mmio.read(Self.base + VirtioPCI.Common.status, .byte)))
  }

  func configuration(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    fake.board.mmio.read(Self.base + VirtioPCI.Offset.device + offset, width)
  }

  func setConfiguration(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    fake.board.mmio.write(Self.base + VirtioPCI.Offset.device + offset, width, value)
  }

  /// Resets the device and sets it up with the features, as §3.1.1 says.
  func start(_ features: VirtioFeatures = [], queues: [Int]? = nil) {
    typealias Field = VirtioPCI.Common
    write(Field.status, 0, 1)
    write(Field.status, 3, 1)
    let accepted = features.union(.version1).rawValue
    write(Field.driverFeatureSelect, 0, 4)
    write(Field.driverFeature, accepted & 0xFFFF_FFFF, 4)
    write(Field.driverFeatureSelect, 1, 4)
    write(Field.driverFeature, accepted >> 32, 4)
    write(Field.status, 0xB, 1)
    for queue in queues ?? Array(device.specs.indices) {
      let ring = Self.rings + UInt64(queue) * 0x1000
      for offset in stride(from: UInt64(0), to: 0x1000, by: 8) {
        try? fake.board.memory.store(UInt64(0), at: ring + offset)
      }
      write(Field.queueSelect, UInt64(queue), 2)
      write(Field.queueSize, UInt64(Self.size), 2)
      write(Field.queueDescriptors, ring, 8)
      write(Field.queueDriver, ring + 0x400, 8)
      write(Field.queueDevice, ring + 0x800, 8)
      write(Field.queueEnable, 1, 2)
      next[queue] = 0
      freeDescriptor[queue] = 0
      seen[queue] = 0
    }
    heap = Self.buffers
    write(Field.status, 0xF, 1)
  }

  func stop() { write(VirtioPCI.Common.status, 0, 1) }

  /// Room in RAM that nothing else uses.
  func room(_ count: Int) -> UInt64 {
    defer { heap += UInt64(count + 15) & ~15 }
    return heap
  }

  func readable(_ bytes: [UInt8]) throws -> Part {
    let part = Part(address: room(bytes.count), count: bytes.count, isWritable: false)
    try fake.board.memory.write(part.address, bytes)
    return part
  }

  func writable(_ count: Int) -> Part { Part(address: room(count), count: count, isWritable: true) }

  func bytes(_ part: Part, _ count: Int? = nil) throws -> [UInt8] {
    try fake.board.memory.bytes(part.address, count ?? part.count)
  }

  /// Makes a chain available and returns its head.
  @discardableResult
  func add(_ queue: Int, _ parts: [Part], notify: Bool = true) throws -> UInt16 {
    let ring = Self.rings + UInt64(queue) * 0x1000
    let memory = fake.board.memory
    let head = freeDescriptor[queue]
    for (index, part) in parts.enumerated() {
      let number = (head + UInt16(index)) % Self.size
      let entry = ring + UInt64(number) * 16
      let isLast = index == parts.count - 1
      try memory.store(part.address, at: entry)
      try memory.store(UInt32(part.count), at: entry + 8)
      try memory.store(
        (isLast ? 0 : DescriptorFlag.next) | (part.isWritable ? DescriptorFlag.write : 0), at: entry + 12)
      try memory.store(UInt16((number + 1) % Self.size), at: entry + 14)
    }
    freeDescriptor[queue] = (head + UInt16(parts.count)) % Self.size
    try memory.store(head, at: ring + 0x400 + 4 + UInt64(next[queue] % Self.size) * 2)
    next[queue] &+= 1
    try memory.store(next[queue], at: ring + 0x400 + 2)
    if notify { self.notify(queue) }
    return head
  }

  func notify(_ queue: Int) {
    let group = UInt64(device.specs[queue].group)
    write(VirtioPCI.Offset.notify + group * VirtioPCI.notifyMultiplier, UInt64(queue), 2)
  }

  /// What the device has given back since the last call.
  func takeUsed(_ queue: Int) throws -> [Used] {
    let ring = Self.rings + UInt64(queue) * 0x1000 + 0x800
    let memory = fake.board.memory
    let end = try memory.load(ring + 2, as: UInt16.self)
    var used: [Used] = []
    while seen[queue] != end {
      let entry = ring + 4 + UInt64(seen[queue] % Self.size) * 8
      used.append(
        Used(
          head: UInt16(truncatingIfNeeded: try memory.load(entry, as: UInt32.self)),
          written: Int(try memory.load(entry + 4, as: UInt32.self))))
      seen[queue] &+= 1
    }
    return used
  }
}
