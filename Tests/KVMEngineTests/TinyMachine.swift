import Engines
import KVMEngine
import LinuxSystem
import Synchronization
import Testing

/// Whether a machine can be made here; the trait prints the reason where not.
let kvmIsUsable: Bool = {
  do throws(EngineFailure) {
    _ = try KVMHost()
    return true
  } catch {
    return false
  }
}()

/// An exit with its bytes copied out.
enum Seen: Equatable {
  case input(port: UInt16, width: Int, count: Int)
  case output(port: UInt16, width: Int, [UInt8])
  case load(UInt64, width: Int)
  case store(UInt64, [UInt8])
  case halt, interrupted, tripleFault
  case failure(String)
}

/// A machine of one vCPU with 64 KiB of RAM at 0 and a reset vector that jumps to real-mode code at 0000:1000.
// Safety: the mappings live as long as the machine; tests touch RAM while the vCPU stands still.
final class TinyMachine: @unchecked Sendable {
  static let ramSize = 64 << 10
  static let code = 0x1000
  let machine: KVMMachine
  let cpu: KVMVCPU
  private let memory: Mapping
  private let rom: Mapping

  init(_ program: [UInt8], interpreter: (@Sendable () -> any InstructionInterpreter)? = nil) throws {
    memory = try Mapping(anonymous: Self.ramSize)
    rom = try Mapping(anonymous: Self.ramSize)
    // jmp far 0000:1000, at FFFF:FFF0.
    rom.bytes[0xFFF0..<0xFFF5].copyBytes(from: [0xEA, 0x00, 0x10, 0x00, 0x00])
    memory.bytes[Self.code..<Self.code + program.count].copyBytes(from: program)
    machine = try KVMMachine(try KVMHost(), vcpus: 1, interpreter: interpreter)
    let size = UInt64(Self.ramSize)
    guard machine.map(slot: 0, HostMapping(guestAddress: 0, size: size, host: memory.base, readOnly: false)),
      machine.map(slot: 1, HostMapping(guestAddress: 0xFFFF_0000, size: size, host: rom.base, readOnly: true))
    else { throw EngineFailure(reason: "mapping refused") }
    cpu = try machine.makeVCPU(0)
  }

  subscript(_ address: Int) -> UInt8 {
    get { memory.bytes[address] }
    set { memory.bytes[address] = newValue }
  }

  var ram: UnsafeMutableRawPointer { memory.base }

  /// Writes bytes into RAM.
  func put(_ address: Int, _ bytes: [UInt8]) { memory.bytes[address..<address + bytes.count].copyBytes(from: bytes) }

  /// Makes an interrupt vector point to 0000:`offset`.
  func vector(_ number: Int, _ offset: Int) {
    put(number * 4, [UInt8(truncatingIfNeeded: offset), UInt8(truncatingIfNeeded: offset >> 8), 0, 0])
  }

  /// Runs once. `answer` is what the guest reads.
  func run(_ entry: Entry = .run, answer: [UInt8] = []) -> Seen {
    switch cpu.run(entry) {
    case .portIn(let port, let width, let count, let data):
      fill(data, width * count, answer)
      return .input(port: port, width: width, count: count)
    case .portOut(let port, let width, let count, let data):
      return .output(port: port, width: width, bytes(data, width * count))
    case .mmioRead(let address, let width, let data):
      fill(data, width, answer)
      return .load(address, width: width)
    case .mmioWrite(let address, let width, let data): return .store(address, bytes(data, width))
    case .halt: return .halt
    case .interrupted: return .interrupted
    case .tripleFault: return .tripleFault
    case .failure(let failure):
      var failure = failure
      if failure.instruction.isEmpty, let address = failure.physicalAddress, address < UInt64(Self.ramSize - 15) {
        failure.instruction = Array(memory.bytes[Int(address)..<Int(address) + 15])
      }
      return .failure(failure.description)
    }
  }

  private func fill(_ data: UnsafeMutableRawPointer, _ count: Int, _ answer: [UInt8]) {
    guard !answer.isEmpty else { return }
    for index in 0..<count { data.storeBytes(of: answer[index % answer.count], toByteOffset: index, as: UInt8.self) }
  }

  private func bytes(_ data: UnsafeRawPointer, _ count: Int) -> [UInt8] {
    Array(UnsafeRawBufferPointer(start: data, count: count))
  }
}

private final class Box<Value: Sendable>: Sendable { let value = Mutex<Value?>(nil) }

/// Runs `body` on a thread of its own, as vCPUs need it, and kicks the vCPU where it takes longer than a test should.
func onVCPUThread<Result: Sendable>(
  _ tiny: TinyMachine, _ body: @escaping @Sendable (TinyMachine) -> Result
) throws -> Result {
  let box = Box<Result>()
  let done = try SharedEvent()
  let vcpu = try HostThread("vcpu") {
    installInterruptingHandler(KVMVCPU.kickSignal)
    let result = body(tiny)
    box.value.withLock { $0 = result }
    done.event.signal()
  }
  let watchdog = try HostThread("watchdog") {
    var entries = [PollEntry(done.raw, .readable)]
    waitForDescriptors(&entries, milliseconds: 20_000)
    while done.event.drain() == 0 {
      tiny.cpu.kick()
      waitForDescriptors(&entries, milliseconds: 10)
    }
  }
  vcpu.join()
  watchdog.join()
  return try #require(box.value.withLock { $0 })
}
