import Engines
import Glibc
import Testing

@testable import SoftEngine

/// Guests of `guests/` on the software CPU, with a serial port and the exit device for a bus.
@Suite(.serialized) struct GuestTests {
  private static func exists(_ name: String) -> Bool { access("guests/build/" + name, R_OK) == 0 }

  private static func run(_ name: String) throws -> Outcome {
    var rom = [UInt8](repeating: 0, count: 65536)
    let file = try #require(fopen("guests/build/" + name, "r"))
    defer { fclose(file) }
    let read = fread(&rom, 1, rom.count, file)
    #expect(read == rom.count)
    return try boot(rom)
  }

  @Test(.enabled(if: exists("triple-fault.rom"), "make -C guests"))
  func anExceptionWithoutAHandlerShutsTheProcessorDown() throws {
    let outcome = try Self.run("triple-fault.rom")
    #expect(outcome.end.hasPrefix("triple fault"), "\(outcome)")
  }

  @Test(.enabled(if: exists("hello.rom"), "make -C guests"))
  func aGuestGoesFromTheResetVectorTo64BitModeAndExits() throws {
    let outcome = try Self.run("hello.rom")
    #expect(outcome.status == 0, "\(outcome)")
    #expect(outcome.output.contains("Hello from ring 0, in 64-bit mode."), "\(outcome)")
  }

  private struct Outcome: CustomStringConvertible {
    var output = ""
    var status: UInt8?
    var end = ""
    var exits = 0
    var description: String { "\(output) status \(String(describing: status)) \(end) after \(exits) exits" }
  }

  private static func boot(_ rom: [UInt8]) throws -> Outcome {
    let ramSize = 64 << 20
    let ram = UnsafeMutableRawPointer.allocate(byteCount: ramSize, alignment: 4096)
    memset(ram, 0, ramSize)
    let firmware = UnsafeMutableRawPointer.allocate(byteCount: rom.count, alignment: 4096)
    firmware.copyMemory(from: rom, byteCount: rom.count)
    defer {
      ram.deallocate()
      firmware.deallocate()
    }
    let machine = try SoftMachine(vcpus: 1)
    let mappings: [(UInt64, Int, UnsafeMutableRawPointer, Bool)] = [
      (0, 0xF_0000, ram, false), (0xF_0000, rom.count, firmware, true),
      (0x10_0000, ramSize - 0x10_0000, ram + 0x10_0000, false), (0xFFFF_0000, rom.count, firmware, true),
    ]
    for (slot, mapping) in mappings.enumerated() {
      #expect(
        machine.map(
          slot: slot,
          HostMapping(
            guestAddress: mapping.0, size: UInt64(mapping.1), host: mapping.2, readOnly: mapping.3)))
    }
    let cpu = try machine.makeVCPU(0)
    var outcome = Outcome()
    while outcome.exits < 100_000 {
      outcome.exits += 1
      switch cpu.run(.run) {
      case .portOut(0x3F8, _, _, let data):
        outcome.output.unicodeScalars.append(UnicodeScalar(data.load(as: UInt8.self)))
      case .portOut(0xF4, _, _, let data):
        outcome.status = data.load(as: UInt8.self)
        return outcome
      case .portIn(let port, let width, _, let data):
        memset(data, port == 0x3FD ? 0x60 : 0xFF, width)
      case .mmioRead(_, let width, let data): memset(data, 0xFF, width)
      case .tripleFault:
        outcome.end = "triple fault, RIP 0x" + String(cpu.state.pointee.rip, radix: 16)
        return outcome
      case .failure, .halt:
        outcome.end =
          "stopped at RIP 0x" + String(cpu.state.pointee.rip, radix: 16)
          + " vector \(cpu.state.pointee.vector) mode \(cpu.state.pointee.mode) CR2 \(String(cpu.state.pointee.cr2, radix: 16))"
        return outcome
      default: break
      }
    }
    return outcome
  }
}
