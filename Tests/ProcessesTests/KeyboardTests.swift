import LinuxSystem
import Testing

@testable import Processes

@Suite struct EscapeFilterTests {
  @Test(
    arguments: [
      ("abc", "abc", []), ("\u{1}x", "", [.quit]), ("a\u{1}hb", "ab", [.help]), ("\u{1}\u{1}", "\u{1}", []),
      ("\u{1}a", "\u{1}", []), ("\u{1}?", "", [.help]), ("\u{1}h\u{1}x", "", [.help, .quit]),
      ("x\u{1}", "x", []), ("", "", []),
    ] as [(String, String, [EscapeFilter.Command])])
  func commandsAreTakenOutOfTheInput(_ input: String, _ forGuest: String, _ commands: [EscapeFilter.Command]) {
    var filter = EscapeFilter()
    let result = filter.filter(input.utf8)
    #expect(result.forGuest == Array(forGuest.utf8))
    #expect(result.commands == commands)
  }

  @Test func anEscapeAtTheEndOfOneReadCountsForTheNext() {
    var filter = EscapeFilter()
    #expect(filter.filter([0x01]).forGuest == [])
    #expect(filter.filter(Array("xy".utf8)).commands == [.quit])
    #expect(filter.filter(Array("x".utf8)).forGuest == Array("x".utf8))
  }
}

@Suite struct InputPumpTests {
  @Test func whileNobodyReadsOnlyRoomInThePipeIsWaitedForWithoutATerminal() throws {
    let ends = try Pipe.make()
    let reader = Descriptor(owning: ends.read)
    let pump = InputPump(pipe: Descriptor(owning: ends.write), isTerminal: false)
    #expect(pump.interests.map(\.descriptor) == [0, -1])
    withExtendedLifetime(reader.raw) {}
  }
}
