/// A VGA with the Bochs display interface: registers, frame buffer and the paths between them, as one chip. What a
/// guest writes changes which bytes are shown or written, never whether they exist: addresses wrap.
struct VGA: Sendable {
  var registers = VGARegisters()
  private(set) var dispi: BochsDISPI
  /// Pixels of 16 to 32 bits have their high byte first.
  var isBigEndian = false
  let memory: VideoMemory

  init(_ memory: VideoMemory) {
    self.memory = memory
    dispi = BochsDISPI(memorySize: memory.count)
  }

  /// Registers go to power-on; the frame buffer keeps its bytes.
  mutating func reset() { self = VGA(memory) }

  func readDISPI(_ index: Int) -> UInt16 { dispi.read(index) }

  mutating func writeDISPI(_ index: Int, _ value: UInt16) {
    memory.clear(dispi.write(index, value))
    registers.isWideDAC = dispi.enable.contains(.wideDAC)
  }

  /// Reads a byte of the window 0xA0000–0xBFFFF.
  mutating func readWindow(_ offset: Int) -> UInt8 {
    guard dispi.isEnabled else {
      guard let decoded = registers.decode(offset) else { return 0xFF }
      return registers.readMemory(decoded, memory)
    }
    guard 0..<0x1_0000 ~= offset else { return 0xFF }
    if dispi.depth == 4 { return registers.readMemory(offset, bank: dispi.bank << 16, memory) }
    return memory[dispi.bank << 16 | offset]
  }

  mutating func writeWindow(_ offset: Int, _ value: UInt8) {
    guard dispi.isEnabled else {
      if let decoded = registers.decode(offset) { registers.writeMemory(decoded, value, memory) }
      return
    }
    guard 0..<0x1_0000 ~= offset else { return }
    if dispi.depth == 4 {
      registers.writeMemory(offset, bank: dispi.bank << 16, value, memory)
    } else {
      memory[dispi.bank << 16 | offset] = value
    }
  }
}
