import Buses
import DeviceKit
import MachineModel
import Synchronization

/// A virtio device on the PCI bus (virtio 1.2 §4.1): modern, or transitional with the legacy registers in BAR 0 too.
// Safety: `registers` is guarded by its lock; the rest is constant once the function is plugged in.
public final class VirtioPCIDevice: PCIDevice, @unchecked Sendable {
  let device: VirtioDevice
  private let isTransitional: Bool
  private let msix: MSIX
  private var interrupts: VirtioPCIInterrupts?
  private let registers: Mutex<VirtioPCIRegisters>
  /// Where the PCI configuration access capability starts (§4.1.4.9).
  private let accessCapability: Int

  /// What the driver sees through the modern and the legacy registers.
  private let modernFeatures: VirtioFeatures
  private let legacyFeatures: VirtioFeatures

  /// Makes the function of `device` and plugs it into the bus, where its properties say or at the lowest free slot.
  public static func attach(_ device: VirtioDevice, _ properties: Properties, to board: Board) throws(DeviceError)
    -> Device
  {
    let function = try VirtioPCIDevice(device, isTransitional: properties.boolean("legacy"), board: board)
    let free = board.pci.freeSlot().map { (slot: $0, function: 0) }
    guard let address = properties.pciAddress() ?? free else { throw DeviceError("all PCI slots are taken") }
    try function.plug(slot: address.slot, function: address.function, into: board)
    return function
  }

  /// The options that every virtio PCI model has.
  public static let modernOptions: [OptionSpec] = [
    OptionSpec("addr", .pciAddress, "PCI slot and function; the default is the lowest free slot")
  ]

  /// Those, and the one of models that there is a transitional device of.
  public static let options: [OptionSpec] =
    modernOptions + [
      OptionSpec(
        "legacy", .boolean, default: .boolean(true), "also offer the registers of drivers from before virtio 1.0")
    ]

  private init(_ device: VirtioDevice, isTransitional wanted: Bool, board: Board) throws(DeviceError) {
    self.device = device
    let kind = device.kind
    let transitionalID = wanted ? kind.transitionalID : nil
    isTransitional = transitionalID != nil
    // §4.1.2.1: a transitional device has revision 0 and its type as subsystem ID; §4.1.2: others from 1 and 0x40 on.
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: VirtioPCI.vendor, device: transitionalID ?? VirtioPCI.modernIDs + kind.id,
        revision: isTransitional ? 0 : 1, classCode: kind.pciClass, subsystemVendor: VirtioPCI.vendor,
        subsystem: isTransitional ? kind.id : 0x1100))
    space.setInterruptPin(1)
    let configurationCount = UInt64(device.configuration.count)
    if isTransitional {
      var size: UInt64 = 32
      while size < VirtioPCI.Legacy.vectorsEnd + configurationCount { size *= 2 }
      space.addBAR(VirtioPCI.BAR.legacy, .io, size: size)
    }
    space.addBAR(VirtioPCI.BAR.modern, .prefetchable64, size: VirtioPCI.Offset.size)
    // A vector for each queue and one for configuration changes.
    msix = try MSIX(vectors: device.specs.count + 1, board: board)
    space.addMSIX(msix.table, bar: VirtioPCI.BAR.msix)
    let notifyCount = UInt64(device.groupCount) * VirtioPCI.notifyMultiplier
    func add(_ type: VirtioPCI.CapabilityType, _ offset: UInt64, _ count: UInt64, _ extra: [UInt8] = []) -> Int {
      let bar = type == .pciAccess ? 0 : UInt8(truncatingIfNeeded: VirtioPCI.BAR.modern)
      let words = [offset, count].flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) } }
      let body = [0, type.rawValue, bar, 0, 0, 0] + words + extra
      let register = space.addCapability(VirtioPCI.capabilityID, body)
      space.set8(register + 2, UInt8(truncatingIfNeeded: body.count + 2))
      return register
    }
    _ = add(.common, VirtioPCI.Offset.common, VirtioPCI.Common.size)
    _ = add(.isr, VirtioPCI.Offset.isr, 1)
    if configurationCount > 0 { _ = add(.device, VirtioPCI.Offset.device, configurationCount) }
    _ = add(
      .notify, VirtioPCI.Offset.notify, notifyCount,
      (0..<4).map { UInt8(truncatingIfNeeded: VirtioPCI.notifyMultiplier >> ($0 * 8)) })
    accessCapability = add(.pciAccess, 0, 0, [0, 0, 0, 0])
    space.allowWrite(accessCapability + 4, 0xFF)
    space.allowWrite32(accessCapability + 8, .max)
    space.allowWrite32(accessCapability + 12, .max)
    space.allowWrite32(accessCapability + 16, .max)
    modernFeatures = device.features.union([.version1, .ringReset])
    legacyFeatures = VirtioFeatures(rawValue: device.features.rawValue & 0xFFFF_FFFF).union(.anyLayout)
    registers = Mutex(VirtioPCIRegisters(queues: device.specs.count))
    super.init(id: device.id, configuration: space)
    let interrupts = VirtioPCIInterrupts(msix, queues: device.specs.count, function: self)
    self.interrupts = interrupts
    device.connect(interrupts)
  }

  private func plug(slot: Int, function: Int, into board: Board) throws(DeviceError) {
    do throws(BusConflict) {
      // The legacy notification register names the queue in what is written, which a doorbell does not see.
      let bells = device.doorbells()
      if isTransitional {
        let legacy = bells.count == 1 ? [BARDoorbell(device.doorbell(group: 0), at: VirtioPCI.Legacy.queueNotify)] : []
        try map(bar: VirtioPCI.BAR.legacy, in: board.ports, doorbells: legacy)
      }
      try map(msix, bar: VirtioPCI.BAR.msix, in: board.mmio)
      try map(
        bar: VirtioPCI.BAR.modern, in: board.mmio,
        doorbells: bells.enumerated().map { group, bell in
          BARDoorbell(bell, at: VirtioPCI.Offset.notify + UInt64(group) * VirtioPCI.notifyMultiplier)
        })
    } catch { throw DeviceError("\(id): \(error)") }
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: slot, function: function)
    } catch {
      throw DeviceError("PCI slot \(String(error.slot, radix: 16)).\(error.function) is taken; give another addr=")
    }
    connectInterrupt(board.interrupts.intx(slot: slot, pin: 1))
  }

  // MARK: Accesses

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if region == VirtioPCI.BAR.legacy { return readLegacy(offset, width) }
    switch offset & ~0xFFF {
    case VirtioPCI.Offset.common:
      guard width == .qword else { return readCommon(offset, width) }
      return readCommon(offset, .dword) | readCommon(offset &+ 4, .dword) << 32
    case VirtioPCI.Offset.isr: return offset == VirtioPCI.Offset.isr ? UInt64(interrupts?.takeISR() ?? 0) : 0
    case VirtioPCI.Offset.device:
      return device.readConfiguration(Int(offset & 0xFFF), width.bytes)
    default: return 0
    }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    if region == VirtioPCI.BAR.legacy { return writeLegacy(offset, width, value) }
    switch offset & ~0xFFF {
    case VirtioPCI.Offset.common:
      guard width == .qword else { return writeCommon(offset, width, value) }
      writeCommon(offset, .dword, value & 0xFFFF_FFFF)
      writeCommon(offset &+ 4, .dword, value >> 32)
    case VirtioPCI.Offset.device: device.writeConfiguration(Int(offset & 0xFFF), width.bytes, value)
    case VirtioPCI.Offset.notify:
      device.notify(group: Int((offset & 0xFFF) / VirtioPCI.notifyMultiplier))
    default: break
    }
  }

  public override func reset() {
    device.powerOn()
    registers.withLock { $0 = VirtioPCIRegisters(queues: device.specs.count) }
    interrupts?.reset()
    super.reset()
  }

  public override func start() { device.start() }
  public override func drain() { device.stop() }

  // MARK: The modern interface (§4.1.4.3)

  private func readCommon(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    typealias Field = VirtioPCI.Common
    let registers = registers.withLock { $0 }
    let selected = Int(registers.queueSelect)
    let queue = device.control.withLock { $0.queues.indices.contains(selected) ? $0.queues[selected] : nil }
    switch offset {
    case Field.deviceFeatureSelect: return UInt64(registers.deviceFeatureSelect)
    case Field.deviceFeature:
      return UInt64(modernFeatures.rawValue.half(registers.deviceFeatureSelect))
    case Field.driverFeatureSelect: return UInt64(registers.driverFeatureSelect)
    case Field.driverFeature:
      let accepted = device.control.withLock { $0.features.rawValue }
      return UInt64(accepted.half(registers.driverFeatureSelect))
    case Field.configurationVector: return UInt64(interrupts?.vector(queue: nil) ?? 0)
    case Field.queueCount: return UInt64(device.specs.count)
    case Field.status: return UInt64(device.status.rawValue)
    case Field.generation: return UInt64(device.control.withLock { $0.generation })
    case Field.queueSelect: return UInt64(registers.queueSelect)
    default: break
    }
    // A queue that there is not has size 0 (§4.1.4.3.1).
    guard let queue else { return 0 }
    switch offset {
    case Field.queueSize: return UInt64(queue.layout.size)
    case Field.queueVector: return UInt64(interrupts?.vector(queue: selected) ?? 0)
    case Field.queueEnable: return queue.isEnabled ? 1 : 0
    case Field.queueNotifyOffset: return UInt64(device.specs[selected].group)
    case Field.queueDescriptors, Field.queueDescriptors + 4: return half(queue.layout.descriptors, offset & 4, width)
    case Field.queueDriver, Field.queueDriver + 4: return half(queue.layout.driver, offset & 4, width)
    case Field.queueDevice, Field.queueDevice + 4: return half(queue.layout.device, offset & 4, width)
    default: return 0
    }
  }

  private func half(_ field: UInt64, _ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    field >> (offset * 8) & width.mask
  }

  private func writeCommon(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    typealias Field = VirtioPCI.Common
    switch offset {
    case Field.deviceFeatureSelect:
      registers.withLock { $0.deviceFeatureSelect = UInt32(truncatingIfNeeded: value) }
    case Field.driverFeatureSelect:
      registers.withLock { $0.driverFeatureSelect = UInt32(truncatingIfNeeded: value) }
    case Field.driverFeature:
      let select = registers.withLock { $0.driverFeatureSelect }
      device.control.withLock { control in
        // §3.1.1: features are settled once FEATURES_OK is set.
        guard !control.status.contains(.featuresOK) else { return }
        control.features = VirtioFeatures(
          rawValue: control.features.rawValue.replacingHalf(select, with: UInt32(truncatingIfNeeded: value)))
      }
    case Field.configurationVector: interrupts?.setVector(queue: nil, UInt16(truncatingIfNeeded: value))
    case Field.status:
      setStatus(UInt8(truncatingIfNeeded: value), offered: modernFeatures, requires: .version1)
    case Field.queueSelect: registers.withLock { $0.queueSelect = UInt16(truncatingIfNeeded: value) }
    default: writeQueue(offset, width, value)
    }
  }

  private func writeQueue(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    typealias Field = VirtioPCI.Common
    let selected = Int(registers.withLock { $0.queueSelect })
    guard selected < device.specs.count else { return }
    func change(_ body: (inout VirtqueueLayout) -> Void) {
      device.control.withLock { control in
        // §4.1.4.3.2: nothing of an enabled queue is changed.
        if !control.queues[selected].isEnabled { body(&control.queues[selected].layout) }
      }
    }
    func replace(_ field: inout UInt64) {
      field = VirtioPCIRegisters.replacing(field, at: offset & 4, width, with: value)
    }
    switch offset {
    case Field.queueSize: change { $0.size = UInt16(truncatingIfNeeded: value) }
    case Field.queueVector: interrupts?.setVector(queue: selected, UInt16(truncatingIfNeeded: value))
    case Field.queueEnable: if value == 1 { device.enable(queue: selected) }
    case Field.queueDescriptors, Field.queueDescriptors + 4: change { replace(&$0.descriptors) }
    case Field.queueDriver, Field.queueDriver + 4: change { replace(&$0.driver) }
    case Field.queueDevice, Field.queueDevice + 4: change { replace(&$0.device) }
    case Field.queueReset: if value == 1 { device.reset(queue: selected) }
    default: break
    }
  }

  private func setStatus(_ value: UInt8, offered: VirtioFeatures, requires: VirtioFeatures) {
    let status = VirtioStatus(rawValue: value)
    device.setStatus(status, offered: offered, requires: requires)
    guard status.isEmpty else { return }
    registers.withLock { $0 = VirtioPCIRegisters(queues: device.specs.count) }
    interrupts?.reset()
  }

  // MARK: The legacy interface (§4.1.4.10)

  private func readLegacy(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    typealias Register = VirtioPCI.Legacy
    let start = msix.isEnabled ? Register.vectorsEnd : Register.configurationVector
    if offset >= start { return device.readConfiguration(Int(truncatingIfNeeded: offset - start), width.bytes) }
    let registers = registers.withLock { $0 }
    let selected = Int(registers.queueSelect)
    let exists = selected < device.specs.count
    switch offset {
    case Register.deviceFeatures: return legacyFeatures.rawValue
    case Register.driverFeatures: return device.control.withLock { $0.features.rawValue } & 0xFFFF_FFFF
    case Register.queueAddress: return exists ? UInt64(registers.legacyPages[selected]) : 0
    case Register.queueSize: return exists ? UInt64(device.specs[selected].size) : 0
    case Register.queueSelect: return UInt64(registers.queueSelect)
    case Register.status: return UInt64(device.status.rawValue)
    case Register.isr: return UInt64(interrupts?.takeISR() ?? 0)
    case Register.configurationVector: return UInt64(interrupts?.vector(queue: nil) ?? 0)
    case Register.queueVector: return UInt64(interrupts?.vector(queue: selected) ?? 0)
    default: return 0
    }
  }

  private func writeLegacy(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    typealias Register = VirtioPCI.Legacy
    let start = msix.isEnabled ? Register.vectorsEnd : Register.configurationVector
    if offset >= start {
      return device.writeConfiguration(Int(truncatingIfNeeded: offset - start), width.bytes, value)
    }
    let selected = Int(registers.withLock { $0.queueSelect })
    switch offset {
    case Register.driverFeatures:
      // A legacy driver is not refused: what was not offered is not accepted.
      let accepted = VirtioFeatures(rawValue: value).intersection(legacyFeatures)
      device.control.withLock { if !$0.status.contains(.driverOK) { $0.features = accepted } }
    case Register.queueAddress: setLegacyQueue(selected, UInt32(truncatingIfNeeded: value))
    case Register.queueSelect: registers.withLock { $0.queueSelect = UInt16(truncatingIfNeeded: value) }
    case Register.queueNotify: device.notify(queue: Int(value & 0xFFFF))
    case Register.status: setStatus(UInt8(truncatingIfNeeded: value), offered: legacyFeatures, requires: [])
    case Register.configurationVector: interrupts?.setVector(queue: nil, UInt16(truncatingIfNeeded: value))
    case Register.queueVector: interrupts?.setVector(queue: selected, UInt16(truncatingIfNeeded: value))
    default: break
    }
  }

  /// A page number sets a queue up, zero takes it away.
  private func setLegacyQueue(_ index: Int, _ page: UInt32) {
    guard index < device.specs.count else { return }
    registers.withLock { $0.legacyPages[index] = page }
    guard page != 0 else { return device.reset(queue: index) }
    let layout = VirtqueueLayout(size: device.specs[index].size, legacyPage: page)
    device.control.withLock { if !$0.queues[index].isEnabled { $0.queues[index].layout = layout } }
    device.enable(queue: index)
  }

  // MARK: PCI configuration access (§4.1.4.9)

  /// `pci_cfg_data` shows what the BAR, offset and length in the capability name.
  private func window(_ register: Int) -> (bar: Int, offset: UInt64, width: AccessWidth)? {
    let data = accessCapability + 16
    guard data..<data + 4 ~= register else { return nil }
    return configuration { space in
      guard let width = AccessWidth(rawValue: space.get8(accessCapability + 12)), width != .qword,
        space.get32(accessCapability + 12) <= 4
      else { return nil }
      let offset = UInt64(space.get32(accessCapability + 8))
      let bar = Int(space.get8(accessCapability + 4))
      guard bar < 6, let size = space.bars[bar]?.size, offset < size else { return nil }
      return (bar, offset, width)
    }
  }

  public override func readConfiguration(_ register: Int, _ width: AccessWidth) -> UInt32 {
    if let window = window(register) {
      let value =
        window.bar == VirtioPCI.BAR.msix
        ? msix.read(region: 0, offset: window.offset, width: window.width)
        : read(region: window.bar, offset: window.offset, width: window.width)
      updateConfiguration { $0.set32(accessCapability + 16, UInt32(truncatingIfNeeded: value & window.width.mask)) }
    }
    return super.readConfiguration(register, width)
  }

  public override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    guard let window = window(register) else { return }
    let value = UInt64(configuration { $0.get32(accessCapability + 16) }) & window.width.mask
    if window.bar == VirtioPCI.BAR.msix {
      msix.write(region: 0, offset: window.offset, width: window.width, value: value)
    } else {
      write(region: window.bar, offset: window.offset, width: window.width, value: value)
    }
  }
}
