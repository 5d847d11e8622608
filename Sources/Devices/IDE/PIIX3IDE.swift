import Buses
import DeviceKit

/// Function 1 of the PIIX3: two IDE channels at their legacy ports, with bus master registers in BAR 4 (82371SB §2.5).
// Safety: nothing changes after init but the configuration space, which the base guards.
public final class PIIX3IDE: PCIDevice, @unchecked Sendable {
  /// Registers of the function's own (82371SB §2.5).
  enum Register {
    /// IDETIM of both channels. Bit 15 enables the channel's ports; they answer without it, too, as firmware and
    /// kernels for virtual machines expect.
    static let timing = 0x40
    /// SIDETIM.
    static let slaveTiming = 0x44
  }

  static let busMasterBAR = 4
  static let portsPerChannel = 8
  private static let legacy: [(command: UInt64, control: UInt64, irq: Int)] = [
    (0x1F0, 0x3F6, 14), (0x170, 0x376, 15),
  ]

  private let channels: [IDEChannel]

  init(id: String, board: Board) throws(DeviceError) {
    var configuration = PCIConfiguration(PCIIdentity(vendor: 0x8086, device: 0x7010, classCode: 0x010180))
    configuration.addBAR(Self.busMasterBAR, .io, size: UInt64(2 * Self.portsPerChannel))
    // Medium DEVSEL# timing, fast back-to-back capable.
    configuration.set16(PCIRegister.status, 0x0280)
    configuration.allowWrite32(Register.timing, 0xFFFF_FFFF)
    configuration.allowWrite(Register.slaveTiming, 0xFF)
    channels = Self.legacy.enumerated().map { number, ports in
      IDEChannel(number: number, memory: board.memory, line: board.interrupts.edge(ports.irq))
    }
    super.init(id: id, configuration: configuration)
    do throws(BusConflict) {
      for (channel, ports) in zip(channels, Self.legacy) {
        try board.ports.claim(ports.command, 8, for: channel, region: IDEChannel.Region.command, isPosted: true)
        try board.ports.claim(ports.control, 1, for: channel, region: IDEChannel.Region.control, isPosted: true)
      }
      try map(bar: Self.busMasterBAR, in: board.ports, isPosted: true)
    } catch {
      throw DeviceError("piix3-ide: \(error)")
    }
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: 1, function: 1)
    } catch {
      throw DeviceError("piix3-ide: PCI function 01.1 is taken; a machine has one piix3-ide")
    }
    for channel in channels { board.sockets.offer("ide.\(channel.number)", channel) }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    var value = UInt64.max
    for index in 0..<width.bytes {
      guard let (channel, register) = busMaster(offset, index) else { continue }
      let shift = UInt64(index * 8)
      value = value & ~(0xFF << shift) | UInt64(channel.readBusMaster(register)) << shift
    }
    return value
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    for index in 0..<width.bytes {
      guard let (channel, register) = busMaster(offset, index) else { continue }
      channel.writeBusMaster(register, UInt8(truncatingIfNeeded: value >> UInt64(index * 8)))
    }
  }

  private func busMaster(_ offset: UInt64, _ index: Int) -> (IDEChannel, Int)? {
    let port = Int(truncatingIfNeeded: offset) &+ index
    guard 0..<channels.count * Self.portsPerChannel ~= port else { return nil }
    return (channels[port / Self.portsPerChannel], port % Self.portsPerChannel)
  }

  public override func configurationChanged(_ register: Int, _ width: AccessWidth) {
    let enabled = isBusMaster
    for channel in channels { channel.setBusMaster(enabled) }
  }

  public override func reset() {
    super.reset()
    for channel in channels {
      channel.reset()
      channel.setBusMaster(false)
    }
  }

  public override func drain() { for channel in channels { channel.drain() } }
}

extension PIIX3IDE {
  /// Fixed at PCI 01.1.
  public static let model = DeviceModel(
    name: "piix3-ide", summary: "PIIX3 IDE controller with bus-master DMA, two channels (ide.0, ide.1)", bus: .system
  ) { (id, _, board) throws(DeviceError) in try PIIX3IDE(id: id, board: board) }
}
