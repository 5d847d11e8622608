import Buses
import DeviceKit
import Synchronization

/// The PC's standard display: a VGA with the Bochs display interface, its frame buffer and its option ROM on PCI.
// Safety: the chip is guarded by `vga`; the rest is constant. The guest changes the frame buffer as it likes.
final class StandardVGA: PCIDevice, Screen, @unchecked Sendable {
  private enum BAR {
    static let frameBuffer = 0
    static let registers = 2
    static let rom = 6
  }

  /// Fixed claims, numbered after the BARs.
  private enum Region {
    static let monochromePorts = 16
    static let ports = 17
    static let dispiPorts = 18
    static let window = 19
  }

  /// Where the register BAR holds what, and its size.
  private enum RegisterBAR {
    static let size: UInt64 = 0x1000
    /// The ports 0x3C0–0x3DF.
    static let ports: Range<UInt64> = 0x400..<0x420
    /// The DISPI registers, 16 bits each.
    static let dispi: Range<UInt64> = 0x500..<0x500 + UInt64(BochsDISPI.Index.count) * 2
    /// Size of the extended registers in bytes, then the byte order of pixels.
    static let extended: Range<UInt64> = 0x600..<0x608
    static let littleEndian: UInt32 = 0x1E1E_1E1E
    static let bigEndian: UInt32 = 0xBEBE_BEBE
  }

  /// An option ROM says its size in units of 512 bytes in one byte.
  static let maximumROMSize = 0x2_0000

  private struct State {
    var vga: VGA
    /// The DISPI register that port 0x1CE selected.
    var dispiIndex: UInt16 = 0
  }

  private let clock: any MachineClock
  private let memory: VideoMemory
  private let frameBuffer: DeviceWindow
  private let rom: DeviceWindow?
  private let state: Mutex<State>

  /// `memorySize` is the frame buffer's size, a power of two; `image` the option ROM, at most 128 KiB.
  init(id: String, memorySize: Int, image: [UInt8]?, board: Board) throws(DeviceError) {
    clock = board.clock
    frameBuffer = try board.window(size: memorySize, readOnly: false)
    memory = VideoMemory(frameBuffer.bytes)
    state = Mutex(State(vga: VGA(memory)))
    var space = PCIConfiguration(
      PCIIdentity(
        vendor: 0x1234, device: 0x1111, revision: 2, classCode: 0x030000, subsystemVendor: 0x1AF4, subsystem: 0x1100))
    space.addBAR(BAR.frameBuffer, .prefetchable32, size: UInt64(memorySize))
    space.addBAR(BAR.registers, .memory32, size: RegisterBAR.size)
    if let image, !image.isEmpty {
      guard image.count <= Self.maximumROMSize else {
        throw DeviceError("the VGA BIOS has \(image.count) bytes; an option ROM has at most 128 KiB")
      }
      var size = 0x1000
      while size < image.count { size *= 2 }
      let window = try board.window(size: size, readOnly: true)
      window.bytes.copyBytes(from: image)
      rom = window
      space.addBAR(BAR.rom, .memory32, size: UInt64(size))
    } else {
      rom = nil
    }
    super.init(id: id, configuration: space)
  }

  /// Plugs the display into its slot and into the VGA's fixed addresses.
  func plug(slot: Int, function: Int, into board: Board) throws(DeviceError) {
    do throws(PCISlotError) {
      try board.pci.attach(self, slot: slot, function: function)
    } catch {
      throw DeviceError("PCI \(String(slot, radix: 16)).\(function) is already taken")
    }
    do throws(BusConflict) {
      try board.ports.claim(0x3B0, 0x0C, for: self, region: Region.monochromePorts)
      try board.ports.claim(0x3C0, 0x20, for: self, region: Region.ports)
      // On PCs the data register answers at 0x1CF; 0x1D0 is where software of other machines aligns it.
      try board.ports.claim(0x1CE, 3, for: self, region: Region.dispiPorts)
      try board.mmio.claim(0xA_0000, 0x2_0000, for: self, region: Region.window, isPosted: true)
      try map(bar: BAR.frameBuffer, in: board.mmio, window: frameBuffer)
      try map(bar: BAR.registers, in: board.mmio)
      if let rom { try map(bar: BAR.rom, in: board.mmio, window: rom) }
    } catch {
      throw DeviceError("\(error.description); a machine has one VGA")
    }
    board.sockets.offer(screenSocket, self)
  }

  /// The frame buffer keeps its bytes, as memory does over a reset.
  override func reset() {
    super.reset()
    state.withLock { $0 = State(vga: VGA(memory)) }
  }

  func textScreen() -> [String]? { snapshot.textScreen() }

  func screenshotPPM() -> [UInt8] { snapshot.render().ppm }

  /// The chip as it is now; drawing a picture does not hold the guest up.
  private var snapshot: VGA { state.withLock { $0.vga } }

  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    switch region {
    case Region.dispiPorts: return UInt64(readDISPIPort(offset))
    case BAR.registers: return readRegister(offset, width)
    case BAR.frameBuffer: return bytes(width) { memory[Int(truncatingIfNeeded: offset &+ $0)] }
    case BAR.rom: return bytes(width) { romByte(offset &+ $0) }
    case Region.window:
      return state.withLock { state in
        bytes(width) { state.vga.readWindow(Int(truncatingIfNeeded: offset &+ $0)) }
      }
    case Region.monochromePorts: return readPorts(0x3B0 &+ offset, width)
    case Region.ports: return readPorts(0x3C0 &+ offset, width)
    default: return width.mask
    }
  }

  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    switch region {
    case Region.dispiPorts: writeDISPIPort(offset, width, UInt16(truncatingIfNeeded: value))
    case BAR.registers: writeRegister(offset, width, value)
    case BAR.frameBuffer:
      forEachByte(width, value) { memory[Int(truncatingIfNeeded: offset &+ $0)] = $1 }
    case Region.window:
      state.withLock { state in
        forEachByte(width, value) { state.vga.writeWindow(Int(truncatingIfNeeded: offset &+ $0), $1) }
      }
    case Region.monochromePorts: writePorts(0x3B0 &+ offset, width, value)
    case Region.ports: writePorts(0x3C0 &+ offset, width, value)
    default: break
    }
  }

  /// A wide access of byte-wide ports reaches each in turn.
  private func readPorts(_ port: UInt64, _ width: AccessWidth) -> UInt64 {
    let now = clock.now
    return state.withLock { state in
      bytes(width) { state.vga.registers.read(port: UInt16(truncatingIfNeeded: port &+ $0), now: now) }
    }
  }

  private func writePorts(_ port: UInt64, _ width: AccessWidth, _ value: UInt64) {
    state.withLock { state in
      forEachByte(width, value) { state.vga.registers.write(port: UInt16(truncatingIfNeeded: port &+ $0), $1) }
    }
  }

  private func readDISPIPort(_ offset: UInt64) -> UInt16 {
    state.withLock { offset == 0 ? $0.dispiIndex : $0.vga.readDISPI(Int($0.dispiIndex)) }
  }

  /// The DISPI registers are 16 bits wide and take nothing narrower.
  private func writeDISPIPort(_ offset: UInt64, _ width: AccessWidth, _ value: UInt16) {
    guard width != .byte else { return }
    state.withLock { state in
      if offset == 0 {
        state.dispiIndex = value
      } else {
        state.vga.writeDISPI(Int(state.dispiIndex), value)
      }
    }
  }

  private func readRegister(_ offset: UInt64, _ width: AccessWidth) -> UInt64 {
    if RegisterBAR.ports.contains(offset) { return readPorts(0x3C0 &+ offset &- RegisterBAR.ports.lowerBound, width) }
    return state.withLock { state in
      bytes(width) { index in
        let at = offset &+ index
        switch at {
        case RegisterBAR.dispi:
          let register = Int(at &- RegisterBAR.dispi.lowerBound)
          return UInt8(truncatingIfNeeded: state.vga.readDISPI(register / 2) >> UInt16(register % 2 * 8))
        case RegisterBAR.extended:
          let register = Int(at &- RegisterBAR.extended.lowerBound)
          let order = state.vga.isBigEndian ? RegisterBAR.bigEndian : RegisterBAR.littleEndian
          let value = register < 4 ? UInt32(RegisterBAR.extended.count) : order
          return UInt8(truncatingIfNeeded: value >> UInt32(register % 4 * 8))
        default:
          return 0xFF
        }
      }
    }
  }

  private func writeRegister(_ offset: UInt64, _ width: AccessWidth, _ value: UInt64) {
    if RegisterBAR.ports.contains(offset) {
      writePorts(0x3C0 &+ offset &- RegisterBAR.ports.lowerBound, width, value)
      return
    }
    state.withLock { state in
      if offset == RegisterBAR.extended.lowerBound + 4, width == .dword {
        switch UInt32(truncatingIfNeeded: value) {
        case RegisterBAR.littleEndian: state.vga.isBigEndian = false
        case RegisterBAR.bigEndian: state.vga.isBigEndian = true
        default: break
        }
      }
      for index in stride(from: 0, to: UInt64(width.bytes) & ~1, by: 2) where offset & 1 == 0 {
        let at = offset &+ index
        guard RegisterBAR.dispi.contains(at) else { continue }
        state.vga.writeDISPI(
          Int(at &- RegisterBAR.dispi.lowerBound) / 2, UInt16(truncatingIfNeeded: value >> (index * 8)))
      }
    }
  }

  private func romByte(_ offset: UInt64) -> UInt8 {
    guard let rom, offset < UInt64(rom.bytes.count) else { return 0xFF }
    return rom.bytes[Int(offset)]
  }

  /// Puts a wide read together from bytes, given each one's distance from the first.
  private func bytes(_ width: AccessWidth, _ byte: (UInt64) -> UInt8) -> UInt64 {
    var value: UInt64 = 0
    for index in 0..<UInt64(width.bytes) { value |= UInt64(byte(index)) << (index * 8) }
    return value
  }

  private func forEachByte(_ width: AccessWidth, _ value: UInt64, _ body: (UInt64, UInt8) -> Void) {
    for index in 0..<UInt64(width.bytes) { body(index, UInt8(truncatingIfNeeded: value >> (index * 8))) }
  }
}

extension StandardVGA {
  static let model = DeviceModel(
    name: "std-vga", summary: "Standard VGA with Bochs VBE modes and a linear frame buffer", bus: .pci,
    options: [
      OptionSpec("addr", .pciAddress, default: .string("02.0"), "PCI slot and function"),
      OptionSpec(
        "vgamem", .size(1 << 20...256 << 20), default: .integer(16 << 20), "Frame buffer size, a power of two"),
    ],
    needs: SandboxNeeds(
      deviceMemory: { ($0.integer("vgamem") ?? 16 << 20) + UInt64(maximumROMSize) },
      files: { _ in
        ["vgabios": .init(path: "/usr/share/seabios/vgabios-stdvga.bin", package: "seabios")]
      })
  ) { id, properties, board throws(DeviceError) in
    let size = properties.integer("vgamem") ?? 16 << 20
    guard size.nonzeroBitCount == 1, 1 << 20...256 << 20 ~= size else {
      throw DeviceError("vgamem must be a power of two from 1M to 256M")
    }
    let address = properties.pciAddress() ?? (slot: 2, function: 0)
    let display = try StandardVGA(
      id: id, memorySize: Int(size), image: board.resources.file("vgabios"), board: board)
    try display.plug(slot: address.slot, function: address.function, into: board)
    return display
  }
}
