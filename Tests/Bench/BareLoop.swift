import Engines
import KVMEngine
import LinuxSystem

/// Runs a ROM with KVM and nothing else: one thread around KVM_RUN that answers each access itself. What a port read
/// costs here is what KVM costs. Returns what the guest wrote to COM1.
func runBare(rom path: String) throws -> String {
  let image = try Descriptor.open(path, .readOnly).contents(limit: 1 << 20)
  let ram = try Mapping(anonymous: 16 << 20)
  let rom = try Mapping(anonymous: image.count)
  rom.bytes.copyBytes(from: image)
  let machine = try KVMMachine(try KVMHost(), vcpus: 1)
  let size = UInt64(image.count)
  let mappings = [
    HostMapping(guestAddress: 0, size: UInt64(ram.count), host: ram.base, readOnly: false),
    HostMapping(guestAddress: 1 << 32 - size, size: size, host: rom.base, readOnly: true),
  ]
  for (slot, mapping) in mappings.enumerated() {
    guard machine.map(slot: slot, mapping) else { throw BenchError("KVM refused guest memory") }
  }
  let cpu = try machine.makeVCPU(0)
  var output: [UInt8] = []
  while true {
    switch cpu.run(.run) {
    case .portIn(let port, let width, let count, let data):
      let value: UInt32 =
        switch port {
        // The transmitter is empty.
        case 0x3FD: 0x60
        // The ACPI timer.
        case 0x608: UInt32(truncatingIfNeeded: monotonicNanoseconds() / 1000 * 3_579_545 / 1_000_000) & 0xFF_FFFF
        default: 0
        }
      for index in 0..<width * count {
        data.storeBytes(
          of: UInt8(truncatingIfNeeded: value >> UInt32(8 * (index % width))), toByteOffset: index, as: UInt8.self)
      }
    case .portOut(0x3F8, _, _, let data): output.append(data.load(as: UInt8.self))
    case .portOut(0xF4, _, _, _): return String(decoding: output, as: UTF8.self)
    case .portOut, .mmioRead, .mmioWrite, .interrupted: break
    case .halt, .tripleFault: throw BenchError("the guest stopped in the bare loop")
    case .failure(let failure): throw failure
    }
  }
}
