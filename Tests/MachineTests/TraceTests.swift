import TestKit
import Testing

extension Machines {
  /// `--trace`, as a user reads it.
  @Suite struct Traces {
    @Test func fileHoldsInstructionsAndIOInOrder() async throws {
      let file = try TemporaryFile()
      let run = try await trace("first-byte.rom", "in,io,file=\(file.path)")
      #expect(run.ending == .exited(0) && run.output == "!", "\(run.transcript)")
      let said = lines(String(decoding: try file.contents(), as: UTF8.self))
      #expect(said.first?.hasPrefix("0: in f000:0000fff0  ") == true, "\(said.prefix(3))")
      let output = try #require(said.firstIndex { $0.hasSuffix("out dx,al") })
      #expect(said[output + 1] == "0: io out 3f8 1 21")
    }

    @Test func exceptionsAndInterruptsGoToStandardError() async throws {
      let faulting = try await trace("triple-fault.rom", "exc")
      #expect(faulting.ending == .exited(123))
      #expect(faulting.error.contains("exc 14 #PF error 0 address "), "\(faulting.transcript)")
      #expect(!faulting.error.contains(": in "))
      let ticking = try await trace("interrupts.rom", "int")
      #expect(ticking.ending == .exited(0) && ticking.error.contains("0: int 20 at 0008:"), "\(ticking.transcript)")
    }

    private func trace(_ guest: String, _ what: String) async throws -> RunningProgram {
      try await GuestRunner.run(Machines.arguments(guest, "--trace", what, on: .soft))
    }
  }
}
