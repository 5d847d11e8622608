import Buses
import DeviceKit
import MachineModel
import Synchronization

/// A virtio device whose registers stand in memory (virtio 1.2 §4.2, version 2), with an interrupt of its own.
// Safety: what changes is in `registers`, which its lock guards, and in the device.
public final class VirtioMMIODevice: Device, @unchecked Sendable {
  private typealias Register = VirtioMMIO.Register

  /// What is selected.
  private struct Selection: Sendable {
    var deviceFeatures: UInt32 = 0
    var driverFeatures: UInt32 = 0
    var queue: UInt32 = 0
  }

  let device: VirtioDevice
  private let features: VirtioFeatures
  private let interrupts: VirtioMMIOInterrupts
  private let selection = Mutex(Selection())

  /// Puts `device` into the slot that its properties name.
  static func attach(_ device: VirtioDevice, _ properties: Properties, to board: Board) throws(DeviceError) -> Device {
    let slot = properties.integer(VirtioMMIO.slotOption).map { Int(clamping: $0) } ?? freeSlot(of: board)
    guard let slot, let place = VirtioMMIO.place(slot: slot) else {
      throw DeviceError("all \(VirtioMMIO.slotCount) virtio-mmio slots are taken; use fewer devices")
    }
    guard !board.mmio.answers(place.address) else {
      throw DeviceError("virtio-mmio slot \(slot) is taken; give another slot=")
    }
    return try VirtioMMIODevice(device, at: place.address, line: board.interrupts.edge(place.interrupt), board: board)
  }

  private static func freeSlot(of board: Board) -> Int? {
    (0..<VirtioMMIO.slotCount).first { slot in
      VirtioMMIO.place(slot: slot).map { !board.mmio.answers($0.address) } ?? false
    }
  }

  private init(_ device: VirtioDevice, at base: UInt64, line: InterruptLine, board: Board) throws(DeviceError) {
    self.device = device
    features = device.features.union([.version1, .ringReset])
    let registers = board.mmio.makeRegisters(VirtioMMIOInterrupts.registers)
    interrupts = VirtioMMIOInterrupts(line, registers)
    super.init(id: device.id)
    device.connect(interrupts)
    try board.claim(memory: base, VirtioMMIO.size, for: self, registers: registers)
    placeDoorbells(base + Register.queueNotify)
  }

  /// Each write of QueueNotify wakes the worker of the queue it names.
  private func placeDoorbells(_ register: UInt64) {
    guard device.groupCount > 1 else { return device.doorbell(group: 0).place(at: .memory(register)) }
    for (queue, spec) in device.specs.enumerated() {
      device.doorbell(group: spec.group).place(at: .register(register, value: UInt32(truncatingIfNeeded: queue)))
    }
  }

  public override func reset() {
    device.powerOn()
    forget()
  }

  public override func start() { device.start() }
  public override func drain() { device.stop() }

  private func forget() {
    selection.withLock { $0 = Selection() }
    interrupts.reset()
  }

  // MARK: Accesses

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if offset >= Register.configuration {
      return device.readConfiguration(Int(truncatingIfNeeded: offset - Register.configuration), width.bytes)
    }
    // §4.2.2.2: the driver reads registers whole.
    guard width == .dword, offset & 3 == 0 else { return 0 }
    return UInt64(readRegister(offset))
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if offset >= Register.configuration {
      return device.writeConfiguration(
        Int(truncatingIfNeeded: offset - Register.configuration), width.bytes, value)
    }
    guard width == .dword, offset & 3 == 0 else { return }
    writeRegister(offset, UInt32(truncatingIfNeeded: value))
  }

  private func readRegister(_ offset: UInt64) -> UInt32 {
    switch offset {
    case Register.magic: return VirtioMMIO.magic
    case Register.version: return VirtioMMIO.version
    case Register.deviceID: return UInt32(device.kind.id)
    case Register.vendorID: return VirtioMMIO.vendor
    case Register.deviceFeatures: return features.rawValue.half(selection.withLock { $0.deviceFeatures })
    case Register.interruptStatus: return interrupts.pending
    case Register.status: return UInt32(device.status.rawValue)
    // No device here has shared memory: a length of all ones says so (§4.2.2).
    case Register.sharedMemory: return .max
    case Register.generation: return UInt32(device.control.withLock { $0.generation })
    case Register.queueSizeMaximum: return selectedQueue.map { UInt32(device.specs[$0].size) } ?? 0
    case Register.queueReady:
      guard let queue = selectedQueue else { return 0 }
      return device.control.withLock { $0.queues[queue].isEnabled } ? 1 : 0
    // A reset of a queue is done when the write has been.
    default: return 0
    }
  }

  private var selectedQueue: Int? {
    let queue = selection.withLock { $0.queue }
    return queue < UInt32(device.specs.count) ? Int(queue) : nil
  }

  private func writeRegister(_ offset: UInt64, _ value: UInt32) {
    switch offset {
    case Register.deviceFeatureSelect: selection.withLock { $0.deviceFeatures = value }
    case Register.driverFeatureSelect: selection.withLock { $0.driverFeatures = value }
    case Register.driverFeatures: setFeatures(value)
    case Register.queueSelect: selection.withLock { $0.queue = value }
    case Register.queueNotify: device.notify(queue: Int(value & 0xFFFF))
    case Register.interruptACK: interrupts.acknowledge(value)
    case Register.status: setStatus(UInt8(truncatingIfNeeded: value))
    default: if let queue = selectedQueue { writeQueue(queue, offset, value) }
    }
  }

  private func setFeatures(_ value: UInt32) {
    let select = selection.withLock { $0.driverFeatures }
    device.control.withLock { control in
      // §3.1.1: features are settled once FEATURES_OK is set.
      guard !control.status.contains(.featuresOK) else { return }
      control.features = VirtioFeatures(rawValue: control.features.rawValue.replacingHalf(select, with: value))
    }
  }

  private func setStatus(_ value: UInt8) {
    let status = VirtioStatus(rawValue: value)
    device.setStatus(status, offered: features, requires: .version1)
    if status.isEmpty { forget() }
  }

  private func writeQueue(_ queue: Int, _ offset: UInt64, _ value: UInt32) {
    func change(_ body: (inout VirtqueueLayout) -> Void) {
      device.control.withLock { control in
        // §4.2.2.2: nothing of a queue that is ready is changed.
        if !control.queues[queue].isEnabled { body(&control.queues[queue].layout) }
      }
    }
    switch offset {
    case Register.queueSize: change { $0.size = UInt16(truncatingIfNeeded: value) }
    case Register.queueReady: if value & 1 != 0 { device.enable(queue: queue) } else { device.reset(queue: queue) }
    case Register.queueReset: if value == 1 { device.reset(queue: queue) }
    case Register.queueDescriptors: change { $0.descriptors = $0.descriptors.replacingHalf(0, with: value) }
    case Register.queueDescriptors + 4: change { $0.descriptors = $0.descriptors.replacingHalf(1, with: value) }
    case Register.queueDriver: change { $0.driver = $0.driver.replacingHalf(0, with: value) }
    case Register.queueDriver + 4: change { $0.driver = $0.driver.replacingHalf(1, with: value) }
    case Register.queueDevice: change { $0.device = $0.device.replacingHalf(0, with: value) }
    case Register.queueDevice + 4: change { $0.device = $0.device.replacingHalf(1, with: value) }
    default: break
    }
  }
}

/// InterruptStatus and the wire of an MMIO device (virtio 1.2 §4.2.2, §4.2.3.4).
///
/// The input is edge-triggered, so that an end of interrupt concerns nobody: the wire pulses for each bit that is set
/// anew, and again when the driver has acknowledged some of several. A driver that acknowledges before it looks at
/// queues, as the specification has it, misses nothing.
// Safety: all that changes is in `status`, which is atomic.
final class VirtioMMIOInterrupts: VirtioInterrupts, @unchecked Sendable {
  /// Processors read and acknowledge causes themselves: both are done for each interrupt.
  static let registers = [
    SharedRegister(Int(VirtioMMIO.Register.interruptStatus), read: .causes),
    SharedRegister(Int(VirtioMMIO.Register.interruptACK), write: .clearCauses),
  ]

  private let status: SharedRegisters
  private let line: InterruptLine

  /// - Parameter status: made of `registers`.
  init(_ line: InterruptLine, _ status: SharedRegisters) {
    self.line = line
    self.status = status
  }

  var pending: UInt32 { status.causes }

  func acknowledge(_ bits: UInt32) {
    if status.clearCauses(bits) != 0 { line.pulse() }
  }

  func reset() { status.reset() }

  override func used(queue: Int) { raise(VirtioMMIO.Interrupt.usedBuffer) }
  override func configurationChanged() { raise(VirtioMMIO.Interrupt.configurationChange) }

  private func raise(_ bit: UInt32) {
    if status.setCauses(bit) & bit == 0 { line.pulse() }
  }
}
