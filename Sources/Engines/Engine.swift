/// Why a vCPU stopped. Buffers are valid until the vCPU runs again.
public enum Exit {
  /// IN or INS: fill `count` items of `width` bytes at `data`.
  case portIn(port: UInt16, width: Int, count: Int, data: UnsafeMutableRawPointer)
  /// OUT or OUTS: `count` items of `width` bytes stand at `data`.
  case portOut(port: UInt16, width: Int, count: Int, data: UnsafeRawPointer)
  /// A load from an address that is not RAM: put `width` bytes (1–8) at `data`.
  case mmioRead(address: UInt64, width: Int, data: UnsafeMutableRawPointer)
  case mmioWrite(address: UInt64, width: Int, data: UnsafeRawPointer)
  /// HLT with nothing to wake it (only engines whose interrupt controller is not their own).
  case halt
  /// Something outside asked the vCPU to stop.
  case interrupted
  /// The processor shut down: a triple fault.
  case tripleFault
  /// The engine cannot go on with this guest.
  case failure(EngineFailure)
}

/// What the launcher says when an engine gives up on a guest.
public struct EngineFailure: Error, Sendable, CustomStringConvertible {
  /// The engine's reason, one line.
  public let reason: String
  /// RIP of the instruction that could not be executed.
  public let instructionPointer: UInt64?
  /// The bytes at RIP as far as they could be read.
  public var instruction: [UInt8]
  /// Guest physical address of the instruction, for reading the bytes where the engine did not give them.
  public let physicalAddress: UInt64?

  public init(
    reason: String, instructionPointer: UInt64? = nil, instruction: [UInt8] = [], physicalAddress: UInt64? = nil
  ) {
    self.reason = reason
    self.physicalAddress = physicalAddress
    self.instructionPointer = instructionPointer
    self.instruction = instruction
  }

  public var description: String {
    var text = reason
    if let instructionPointer { text += ", RIP 0x" + String(instructionPointer, radix: 16) }
    if !instruction.isEmpty {
      text +=
        ", instruction bytes " + instruction.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }
    return text
  }
}
