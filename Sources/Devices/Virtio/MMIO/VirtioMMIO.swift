import DeviceKit

/// Numbers of the MMIO transport (virtio 1.2 §4.2), and the slots of a board that has it.
public enum VirtioMMIO {
  /// "virt", version 2 and this vendor, "VMRN".
  static let magic: UInt32 = 0x7472_6976
  static let version: UInt32 = 2
  static let vendor: UInt32 = 0x4E52_4D56

  /// Registers of 32 bits (§4.2.2). The device's configuration space follows.
  enum Register {
    static let magic: UInt64 = 0x000
    static let version: UInt64 = 0x004
    static let deviceID: UInt64 = 0x008
    static let vendorID: UInt64 = 0x00C
    static let deviceFeatures: UInt64 = 0x010
    static let deviceFeatureSelect: UInt64 = 0x014
    static let driverFeatures: UInt64 = 0x020
    static let driverFeatureSelect: UInt64 = 0x024
    static let queueSelect: UInt64 = 0x030
    static let queueSizeMaximum: UInt64 = 0x034
    static let queueSize: UInt64 = 0x038
    static let queueReady: UInt64 = 0x044
    static let queueNotify: UInt64 = 0x050
    static let interruptStatus: UInt64 = 0x060
    static let interruptACK: UInt64 = 0x064
    static let status: UInt64 = 0x070
    /// Low and high halves.
    static let queueDescriptors: UInt64 = 0x080
    static let queueDriver: UInt64 = 0x090
    static let queueDevice: UInt64 = 0x0A0
    static let sharedMemorySelect: UInt64 = 0x0AC
    /// Length and base, two halves each.
    static let sharedMemory: Range<UInt64> = 0x0B0..<0x0C0
    static let queueReset: UInt64 = 0x0C0
    static let generation: UInt64 = 0x0FC
    static let configuration: UInt64 = 0x100
  }

  /// Bits of InterruptStatus.
  enum Interrupt {
    static let usedBuffer: UInt32 = 1
    static let configurationChange: UInt32 = 2
  }

  /// Bytes of a slot's registers.
  public static let size: UInt64 = 0x1000
  /// Guest physical address of slot 0's registers; the others follow.
  public static let base: UInt64 = 0xFEB0_0000

  /// The edge-triggered inputs of the I/O APIC that slots have one each of: those that no serial port and no x87
  /// exception uses.
  public static let interrupts: [Int] = Array(5...12) + Array(14...23)
  public static var slotCount: Int { interrupts.count }

  /// Where a slot's registers start, and its interrupt input; nil: there is no such slot.
  public static func place(slot: Int) -> (address: UInt64, interrupt: Int)? {
    guard interrupts.indices.contains(slot) else { return nil }
    return (base + UInt64(slot) * size, interrupts[slot])
  }

  /// The option that every model has.
  public static let slotOption = "slot"
  static var options: [OptionSpec] {
    [
      OptionSpec(
        slotOption, .integer(0...UInt64(slotCount - 1)),
        "its slot, which gives it address and interrupt; the default is the lowest free one")
    ]
  }
}
