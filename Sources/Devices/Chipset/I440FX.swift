import Buses
import DeviceKit
import Synchronization

/// Registers of the 82441FX PCI and memory controller beyond the header (82441FX data sheet, section 3) and their power-on values.
private enum PMC {
  static let configuration = 0x50
  static let deturbo = 0x52
  static let dataBufferControl = 0x53
  static let auxiliaryControl = 0x54
  static let dramRowType = 0x55
  static let dramControl = 0x57
  static let dramTiming = 0x58
  static let pam0 = 0x59
  static let pamCount = 7
  static let dramRowBoundary0 = 0x60
  static let dramRowCount = 8
  static let fixedDRAMHole = 0x68
  static let multiTransactionTimer = 0x70
  static let cpuLatencyTimer = 0x71
  static let smram = 0x72
  static let errorCommand = 0x90
  static let errorStatus = 0x91
  static let turboReset = 0x93

  static var powerOn: PCIConfiguration {
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x8086, device: 0x1237, revision: 2, classCode: 0x060000, subsystemVendor: 0x1AF4, subsystem: 0x1100))
    // The bridge always masters the bus and answers memory cycles; only error reporting can be switched.
    space.set16(PCIRegister.command, PCICommand([.memorySpace, .busMaster]).rawValue)
    space.allowWrite16(PCIRegister.command, PCICommand([.parityErrorResponse, .serr]).rawValue)
    space.set16(PCIRegister.status, PCIStatus([.fastBackToBack, .mediumTiming]).rawValue)
    space.allowWrite16(configuration, 0xFFFF)
    space.allowWrite(deturbo, 0xFF)
    space.set8(dataBufferControl, 0x80)
    space.allowWrite(dataBufferControl, 0xFF)
    space.allowWrite(auxiliaryControl, 0xFF)
    space.allowWrite16(dramRowType, 0xFFFF)
    space.set8(dramControl, 0x01)
    space.allowWrite(dramControl, 0xFF)
    space.set8(dramTiming, 0x10)
    space.allowWrite(dramTiming, 0xFF)
    space.allowWrite(pam0, 0x30)
    for register in pam0 + 1..<pam0 + pamCount { space.allowWrite(register, 0x33) }
    for register in dramRowBoundary0..<dramRowBoundary0 + dramRowCount {
      space.set8(register, 0x01)
      space.allowWrite(register, 0xFF)
    }
    space.allowWrite(fixedDRAMHole, 0xC0)
    space.allowWrite(multiTransactionTimer, 0xF8)
    space.set8(cpuLatencyTimer, 0x10)
    space.allowWrite(cpuLatencyTimer, 0x1F)
    space.set8(smram, SMRAMControl.powerOn.rawValue)
    space.allowWrite(smram, SMRAMControl.writable.rawValue)
    space.allowWrite(errorCommand, 0xFF)
    space.allowWriteOneToClear(errorStatus, 0x11)
    space.allowWrite(turboReset, 0x0F)
    return space
  }
}

/// The host bridge of the 440FX board: configuration mechanism 1 and the memory map below 1 MiB.
///
/// A20 is not modelled: the guest always sees all address lines.
// Safety: the map and its slots are guarded by `map`; the rest is constant.
final class I440FX: PCIDevice, @unchecked Sendable {
  /// What the bridge offers on the board's sockets, for the PIIX3's register at 0xCF9.
  static let configurationSocket = "pci.configuration"

  private struct Map {
    var current: LegacyMemoryMap?
    /// What each reserved slot of the memory map holds.
    var slots: [(number: Int, mapping: MemoryMapping?)]
  }

  private let board: Board
  private let ports: PCIConfigurationPorts
  /// The part of the firmware that is seen below 1 MiB, ending there.
  private let firmware: [UInt8]
  private let firmwareSize: UInt64
  private let map: Mutex<Map>

  init(id: String, board: Board) throws(DeviceError) {
    let image = board.resources.file("firmware") ?? []
    guard image.count % 0x1000 == 0 else {
      throw DeviceError("the firmware image has \(image.count) bytes; its size must be a multiple of 4 KiB")
    }
    self.board = board
    firmwareSize = UInt64(image.count)
    firmware = Array(image.suffix(Int(LegacyMemoryMap.firmwareLimit)))
    ports = PCIConfigurationPorts(bus: board.pci)
    // One for SMRAM and one for each PAM segment, when no two neighbours are alike.
    var slots: [(number: Int, mapping: MemoryMapping?)] = []
    for _ in 0..<14 {
      guard let slot = board.mapper.reserve() else { throw DeviceError("no slot of the memory map is left") }
      slots.append((slot, nil))
    }
    map = Mutex(Map(current: nil, slots: slots))
    super.init(id: id, configuration: PMC.powerOn)
  }

  /// Plugs the bridge into slot 0.
  func plug() throws(DeviceError) {
    try board.claim(ports: PCIConfigurationPorts.base, PCIConfigurationPorts.count, for: ports)
    try board.claim(memory: LegacyMemoryMap.pamBase, LegacyMemoryMap.end - LegacyMemoryMap.pamBase, for: self)
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: 0, function: 0)
    } catch {
      throw DeviceError("PCI 00.0 is already taken")
    }
    board.sockets.offer(Self.configurationSocket, ports)
  }

  override func reset() {
    super.reset()
    updateConfiguration { $0.allowWrite(PMC.smram, SMRAMControl.writable.rawValue) }
    ports.reset()
    followRegisters()
  }

  override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    let written = register..<register + width.bytes
    if written.contains(PMC.smram) { lockSMRAM() }
    if written.overlaps(PMC.pam0..<PMC.pam0 + PMC.pamCount) || written.contains(PMC.smram) { followRegisters() }
  }

  /// D_LCK closes SMRAM for good and, but for D_CLS, holds the register.
  private func lockSMRAM() {
    updateConfiguration { space in
      let control = SMRAMControl(rawValue: space.get8(PMC.smram))
      guard control.contains(.locked) else { return }
      space.set8(PMC.smram, control.subtracting(.open).rawValue)
      space.allowWrite(PMC.smram, SMRAMControl.writableWhenLocked.rawValue)
    }
  }

  /// Brings the memory map in line with PAM and SMRAM. Slots that stay as they are are not touched, and all that
  /// go are emptied before any is set, so that no two mappings overlap in between.
  private func followRegisters() {
    map.withLock { map in
      let wanted = configuration { space in
        LegacyMemoryMap(
          pam: (PMC.pam0..<PMC.pam0 + PMC.pamCount).map { space.get8($0) },
          smram: SMRAMControl(rawValue: space.get8(PMC.smram)))
      }
      guard wanted != map.current else { return }
      map.current = wanted
      var missing = wanted.mappings(firmwareSize: firmwareSize)
      for index in map.slots.indices {
        guard let mapping = map.slots[index].mapping else { continue }
        if let kept = missing.firstIndex(of: mapping) {
          missing.remove(at: kept)
        } else {
          map.slots[index].mapping = nil
          board.mapper.set(map.slots[index].number, nil)
        }
      }
      for mapping in missing {
        guard let free = map.slots.firstIndex(where: { $0.mapping == nil }) else { return }
        map.slots[free].mapping = mapping
        board.mapper.set(map.slots[free].number, mapping)
      }
    }
  }

  // What is not mapped in 0xC0000–0xFFFFF: each byte goes to DRAM or the PCI side as its segment says.

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    guard let current = map.withLock({ $0.current }) else { return width.mask }
    var value: UInt64 = 0
    for index in 0..<width.bytes {
      let address = LegacyMemoryMap.pamBase &+ offset &+ UInt64(index)
      let byte =
        current.attributes(at: address).contains(.readDRAM)
        ? (try? board.memory.load(address, as: UInt8.self)) ?? 0xFF : firmwareByte(address)
      value |= UInt64(byte) << UInt64(index * 8)
    }
    return value
  }

  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    guard let current = map.withLock({ $0.current }) else { return }
    for index in 0..<width.bytes {
      let address = LegacyMemoryMap.pamBase &+ offset &+ UInt64(index)
      guard current.attributes(at: address).contains(.writeDRAM) else { continue }
      try? board.memory.store(UInt8(truncatingIfNeeded: value >> UInt64(index * 8)), at: address)
    }
  }

  private func firmwareByte(_ address: UInt64) -> UInt8 {
    let start = LegacyMemoryMap.end - UInt64(firmware.count)
    guard address >= start, address < LegacyMemoryMap.end else { return 0xFF }
    return firmware[Int(address - start)]
  }
}

extension I440FX {
  static let model = DeviceModel(
    name: "i440fx", summary: "Intel 82441FX host bridge, at PCI 00.0", bus: .system
  ) { id, _, board throws(DeviceError) in
    let bridge = try I440FX(id: id, board: board)
    try bridge.plug()
    return bridge
  }
}
