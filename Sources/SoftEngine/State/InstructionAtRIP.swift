import CSoftCPU
import X86

/// The instruction at RIP without executing it.
extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Up to 15 bytes from RIP on, as far as they are in memory.
  func code() -> [UInt8] {
    let linear = wrap(segment(SegmentRegister.cs).pointee.linear_base &+ pointee.rip)
    var bytes: [UInt8] = []
    for part in [linear, wrap((linear | 0xFFF) &+ 1)] {
      do throws(Fault) {
        guard let host = try page(part, .execute).host else { break }
        bytes += UnsafeRawBufferPointer(start: host, count: min(15 - bytes.count, 4096 - Int(part & 0xFFF)))
      } catch { break }
    }
    return bytes
  }

  /// Nil: it cannot be read, or is none.
  func instruction() -> Instruction? {
    let mode: DecodeMode = pointee.mode & 3 == 2 ? .bits64 : pointee.mode & 3 == 1 ? .bits32 : .bits16
    let result = code().withUnsafeBytes { context.pointee.decoder.decode($0, mode: mode) }
    guard case .instruction(let instruction) = result else { return nil }
    return instruction
  }
}
