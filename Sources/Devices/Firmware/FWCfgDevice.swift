import Buses
import DeviceKit
import GuestMemory
import Synchronization

/// The fw_cfg device at its x86 ports (fw_cfg §Hardware Interface): selector 0x510, data 0x511, DMA address 0x514.
///
/// What it shows is the board's firmware files as they are at reset.
// Safety: all state is in `state`.
final class FWCfgDevice: Device, @unchecked Sendable {
  static let base: UInt64 = 0x510
  static let dmaBase: UInt64 = 0x514

  private enum Region {
    static let selector = 0
    static let dma = 1
  }

  /// A DMA descriptor in guest memory, big-endian: control, length, address.
  private enum Descriptor {
    static let size = 16
  }

  private struct State {
    var chip = FWCfg()
    /// The high half of a DMA address whose low half is still to come.
    var dmaHigh: UInt32 = 0
  }

  private let state = Mutex(State())
  private let memory: GuestMemory
  private let firmware: FirmwareFiles

  init(id: String, board: Board) throws(BusConflict) {
    memory = board.memory
    firmware = board.firmware
    super.init(id: id)
    try board.ports.claim(Self.base, 2, for: self, region: Region.selector)
    try board.ports.claim(Self.dmaBase, 8, for: self, region: Region.dma)
  }

  override func reset() {
    let contents = firmware.snapshot
    state.withLock { $0 = State(chip: FWCfg(items: contents.items, sources: contents.sources, files: contents.files)) }
  }

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    if region == Region.dma { return FWCfg.dmaSignature(at: Int(offset), bytes: width.bytes) }
    // Only the data register can be read, a byte at a time.
    guard offset == 1 else { return width.mask }
    return width.mask & ~0xFF | UInt64(state.withLock { $0.chip.readByte() })
  }

  override func readString(region: Int, offset: UInt64, width: AccessWidth, into buffer: UnsafeMutableRawBufferPointer)
  {
    guard region == Region.selector, offset == 1, width == .byte else {
      return super.readString(region: region, offset: offset, width: width, into: buffer)
    }
    _ = state.withLock { $0.chip.read(into: buffer) }
  }

  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    switch (region, offset, width) {
    case (Region.selector, 0, .word):
      state.withLock { $0.chip.select(UInt16(truncatingIfNeeded: value)) }
    // The register is big-endian: a little-endian CPU writes its halves byte-swapped, the high one first.
    case (Region.dma, 0, .dword):
      state.withLock { $0.dmaHigh = UInt32(truncatingIfNeeded: value).byteSwapped }
    case (Region.dma, 4, .dword):
      state.withLock { state in
        let address = UInt64(state.dmaHigh) << 32 | UInt64(UInt32(truncatingIfNeeded: value).byteSwapped)
        state.dmaHigh = 0
        transfer(&state.chip, descriptor: address)
      }
    default: break
    }
  }

  /// Carries out the descriptor at a guest physical address, then writes its control field: zero, or the error bit.
  private func transfer(_ chip: inout FWCfg, descriptor: UInt64) {
    var control = FWCfg.DMAControl()
    do {
      let bytes = try memory.bytes(descriptor, Descriptor.size)
      let requested = FWCfg.DMAControl(rawValue: UInt32(bigEndian: bytes[0..<4]))
      let length = UInt32(bigEndian: bytes[4..<8])
      let address = UInt64(UInt32(bigEndian: bytes[8..<12])) << 32 | UInt64(UInt32(bigEndian: bytes[12..<16]))
      switch chip.begin(requested, length: length) {
      case .none: break
      case .refused: control = .error
      case .read(let count):
        // Nothing is moved unless the whole target is RAM, so the work is bounded by the size of RAM.
        for segment in try memory.segments(address, count) where !chip.read(into: segment) { control = .error }
      }
    } catch {
      control = .error
    }
    // A descriptor outside RAM has nowhere to show its error.
    try? memory.store(control.rawValue.bigEndian, at: descriptor)
  }
}

extension UInt32 {
  /// Four bytes, most significant first.
  fileprivate init(bigEndian bytes: ArraySlice<UInt8>) { self = bytes.reduce(0) { $0 << 8 | UInt32($1) } }
}

extension FWCfgDevice {
  static let model = DeviceModel(
    name: "fw-cfg", summary: "Firmware configuration interface with DMA (ports 0x510-0x51b)", bus: .system
  ) { (id, _, board) throws(DeviceError) in
    do throws(BusConflict) {
      return try FWCfgDevice(id: id, board: board)
    } catch {
      throw DeviceError(error.description)
    }
  }
}
