import Buses
import DeviceKit
import Synchronization

/// Registers of the 82371SB's function 0 beyond the header (82371SB data sheet) and their power-on values.
private enum ISABridge {
  static let ioRecoveryTimer = 0x4C
  static let xBusChipSelect = 0x4E
  static let pirqRouteA = 0x60
  static let topOfMemory = 0x69
  static let miscellaneousStatus = 0x6A
  static let motherboardIRQ = 0x70
  static let motherboardDMA = 0x76
  static let programmableChipSelect = 0x78
  static let apicBase = 0x80
  static let deterministicLatency = 0x82
  static let smiControl = 0xA0
  static let smiEnable = 0xA2
  static let systemEventEnable = 0xA4
  static let fastOffTimer = 0xA8
  static let smiRequest = 0xAA
  static let clockScaleLow = 0xAC
  static let clockScaleHigh = 0xAE

  static var powerOn: PCIConfiguration {
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x8086, device: 0x7000, classCode: 0x060100, subsystemVendor: 0x1AF4, subsystem: 0x1100))
    space.set8(PCIRegister.headerType, 0x80)
    space.set16(PCIRegister.command, PCICommand([.ioSpace, .memorySpace, .busMaster]).rawValue)
    space.allowWrite16(PCIRegister.command, PCICommand.serr.rawValue | 1 << 3)
    space.set16(PCIRegister.status, PCIStatus.mediumTiming.rawValue)
    space.set8(ioRecoveryTimer, 0x4D)
    space.allowWrite(ioRecoveryTimer, 0xFF)
    space.set16(xBusChipSelect, 0x0003)
    space.allowWrite16(xBusChipSelect, 0x01FF)
    for pirq in 0..<4 {
      space.set8(pirqRouteA + pirq, PIRQRoute.powerOn.rawValue)
      space.allowWrite(pirqRouteA + pirq, 0x8F)
    }
    space.set8(topOfMemory, 0x02)
    space.allowWrite(topOfMemory, 0xFE)
    space.allowWrite16(miscellaneousStatus, 0x8040)
    space.set16(motherboardIRQ, 0x8080)
    space.allowWrite16(motherboardIRQ, 0xEFEF)
    space.set16(motherboardDMA, 0x0C0C)
    space.allowWrite16(motherboardDMA, 0x8F8F)
    space.set16(programmableChipSelect, 0x0002)
    space.allowWrite16(programmableChipSelect, 0xFFFF)
    space.allowWrite(apicBase, 0x7F)
    space.allowWrite(deterministicLatency, 0x0F)
    space.set8(smiControl, 0x08)
    space.allowWrite(smiControl, 0x1F)
    space.allowWrite16(smiEnable, 0x01FF)
    space.allowWrite32(systemEventEnable, 0xFFFF_FFFF)
    space.set8(fastOffTimer, 0x0F)
    space.allowWrite(fastOffTimer, 0xFF)
    space.allowWrite16(smiRequest, 0x01FF)
    space.allowWrite(clockScaleLow, 0xFF)
    space.allowWrite(clockScaleHigh, 0xFF)
    return space
  }
}

/// A PIRQ route control register (82371SB data sheet, PIRQRC, offsets 0x60–0x63).
struct PIRQRoute: RawRepresentable, Sendable {
  let rawValue: UInt8
  static let powerOn = PIRQRoute(rawValue: 0x80)
  /// IRQs that exist as level inputs on the board; the others are reserved.
  private static let legal: Set<Int> = [3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15]

  /// The ISA IRQ that the PIRQ reaches; nil while bit 7 disables routing or bits 3–0 name a reserved IRQ.
  var irq: Int? {
    let irq = Int(rawValue & 0x0F)
    return rawValue & 0x80 == 0 && Self.legal.contains(irq) ? irq : nil
  }
}

/// The reset control register (82371SB data sheet, RC, port 0xCF9).
struct ResetControl: Sendable {
  /// SRST (bit 1): the next reset is of the whole system. RCPU (bit 2) resets when it goes from 0 to 1, and the
  /// reset clears it, so it always reads 0.
  private(set) var value: UInt8 = 0

  /// Takes a write and says whether it resets the machine.
  mutating func write(_ byte: UInt8) -> Bool {
    value = byte & 0x02
    return byte & 0x04 != 0
  }
}

/// The PIIX3's ISA bridge: PIRQ routing, the reset register, and the DMA controllers' registers. PIT, PICs and
/// ELCR belong to the engine.
// Safety: the registers behind the ports are guarded by `legacy`; the rest is constant.
final class PIIX3: PCIDevice, @unchecked Sendable {
  private enum Region {
    static let dma1 = 1
    static let pages = 2
    static let dma2 = 3
    static let resetControl = 4
  }

  private struct Legacy {
    var dma1 = DMA8237()
    var dma2 = DMA8237()
    /// 0x80–0x8F: the channels' page registers and, between them, storage. Port 0x80 takes the
    /// firmware's POST codes.
    var pages = [UInt8](repeating: 0, count: 16)
    var resetControl = ResetControl()
  }

  private let board: Board
  private let legacy = Mutex(Legacy())
  /// Held from reading a route register to making the route, so that the last write wins.
  private let routing = Mutex(())

  init(id: String, board: Board) {
    self.board = board
    super.init(id: id, configuration: ISABridge.powerOn)
  }

  /// Plugs the bridge into PCI 01.0 and its ports into the board.
  func plug() throws(DeviceError) {
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: 1, function: 0)
    } catch {
      throw DeviceError("PCI 01.0 is already taken")
    }
    do throws(BusConflict) {
      try board.ports.claim(0x00, 0x10, for: self, region: Region.dma1)
      try board.ports.claim(0x80, 0x10, for: self, region: Region.pages)
      try board.ports.claim(0xC0, 0x20, for: self, region: Region.dma2)
      if let ports = board.sockets.find(I440FX.configurationSocket, as: PCIConfigurationPorts.self) {
        ports.overlay(self, region: Region.resetControl)
      } else {
        try board.ports.claim(0xCF9, 1, for: self, region: Region.resetControl)
      }
    } catch {
      throw DeviceError(error.description)
    }
  }

  /// The last POST code, for whoever looks why firmware hangs.
  var postCode: UInt8 { legacy.withLock { $0.pages[0] } }

  override func reset() {
    super.reset()
    legacy.withLock { $0 = Legacy() }
    route(0..<4)
  }

  override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    let written = register - ISABridge.pirqRouteA..<register - ISABridge.pirqRouteA + width.bytes
    route(written.clamped(to: 0..<4))
  }

  private func route(_ pirqs: Range<Int>) {
    routing.withLock { _ in
      for pirq in pirqs {
        let control = configuration { PIRQRoute(rawValue: $0.get8(ISABridge.pirqRouteA + pirq)) }
        board.interrupts.route(pirq: pirq, to: control.irq)
      }
    }
  }

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    legacy.withLock { legacy in
      var value: UInt64 = 0
      for index in 0..<width.bytes {
        let byte = Self.readByte(&legacy, region, offset &+ UInt64(index))
        value |= UInt64(byte) << UInt64(index * 8)
      }
      return value
    }
  }

  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    var resets = false
    legacy.withLock { legacy in
      for index in 0..<width.bytes {
        let byte = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        if Self.writeByte(&legacy, region, offset &+ UInt64(index), byte) { resets = true }
      }
    }
    if resets { board.events.post(.reset) }
  }

  private static func readByte(_ legacy: inout Legacy, _ region: Int, _ offset: UInt64) -> UInt8 {
    switch (region, offset) {
    case (Region.dma1, 0..<0x10): legacy.dma1.read(UInt8(truncatingIfNeeded: offset))
    case (Region.dma2, 0..<0x20): legacy.dma2.read(UInt8(truncatingIfNeeded: offset >> 1))
    case (Region.pages, 0..<0x10): legacy.pages[Int(offset)]
    case (Region.resetControl, 0): legacy.resetControl.value
    default: 0xFF
    }
  }

  /// Returns whether the write resets the machine.
  private static func writeByte(_ legacy: inout Legacy, _ region: Int, _ offset: UInt64, _ byte: UInt8) -> Bool {
    switch (region, offset) {
    case (Region.dma1, 0..<0x10): legacy.dma1.write(UInt8(truncatingIfNeeded: offset), byte)
    case (Region.dma2, 0..<0x20): legacy.dma2.write(UInt8(truncatingIfNeeded: offset >> 1), byte)
    case (Region.pages, 0..<0x10): legacy.pages[Int(offset)] = byte
    case (Region.resetControl, 0): return legacy.resetControl.write(byte)
    default: break
    }
    return false
  }
}

extension PIIX3 {
  static let model = DeviceModel(
    name: "piix3", summary: "Intel 82371SB ISA bridge with PIRQ routing and reset control, at PCI 01.0", bus: .system
  ) { id, _, board throws(DeviceError) in
    let bridge = PIIX3(id: id, board: board)
    try bridge.plug()
    return bridge
  }
}
