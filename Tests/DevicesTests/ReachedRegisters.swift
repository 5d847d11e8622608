import Buses

/// Registers that processors reach, in memory of the test's.
// Safety: the memory is allocated with the object and freed with it, after the device.
final class ReachedRegisters: PostedRanges, @unchecked Sendable {
  private let memory: UnsafeMutableRawPointer
  let registers: SharedRegisters

  init() {
    memory = .allocate(byteCount: SharedRegisters.stride, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: SharedRegisters.stride)
    registers = SharedRegisters(memory, index: 4)
  }

  deinit { memory.deallocate() }

  func reserve(_ registers: SharedRegisters?, isPosted: Bool) -> Int? { 0 }
  func makeRegisters() -> SharedRegisters? { registers }
  func set(_ slot: Int, _ range: Range<UInt64>?) {}
}
