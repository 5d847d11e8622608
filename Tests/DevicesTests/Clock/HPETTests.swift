import DeviceKit
import TestKit
import Testing

@testable import Devices

private struct Timers {
  let fake = FakeBoard()
  let device: Device

  init() throws {
    device = try HPETDevice.model.make("hpet", Properties([:]), fake.board)
    device.reset()
  }

  subscript(_ offset: UInt64) -> UInt64 {
    get { fake.board.mmio.read(0xFED0_0000 + offset, .qword) }
    nonmutating set { fake.board.mmio.write(0xFED0_0000 + offset, .qword, newValue) }
  }

  func read32(_ offset: UInt64) -> UInt64 { fake.board.mmio.read(0xFED0_0000 + offset, .dword) }
  func write32(_ offset: UInt64, _ value: UInt64) { fake.board.mmio.write(0xFED0_0000 + offset, .dword, value) }
}

@Suite struct HPETTests {
  @Test func capabilitiesSayThreeTimersOf100Megahertz() throws {
    let hpet = try Timers()
    #expect(hpet[0] == 0x0098_9680_8086_A201)
    #expect(hpet.read32(4) == 10_000_000)
    #expect(hpet[0x100] == 0x00FF_0104_0000_0030)
  }

  @Test func theCounterRunsOnlyWhileEnabled() throws {
    let hpet = try Timers()
    hpet.fake.advance(nanoseconds: 1_000)
    #expect(hpet[0xF0] == 0)
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 1_000)
    #expect(hpet[0xF0] == 100)
    hpet[0x10] = 0
    hpet.fake.advance(nanoseconds: 1_000)
    #expect(hpet[0xF0] == 100)
    hpet[0xF0] = 0x1_0000_0000
    hpet.write32(0xF0, 7)
    #expect(hpet[0xF0] == 0x1_0000_0007)
  }

  @Test func aOneShotPulsesItsRouteOnce() throws {
    let hpet = try Timers()
    hpet[0x120] = 20 << 9 | 1 << 2
    hpet[0x128] = 500
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 4_999)
    #expect(hpet.fake.interrupts.takePulses(20) == 0)
    hpet.fake.advance(nanoseconds: 20_000)
    #expect(hpet.fake.interrupts.takePulses(20) == 1)
    hpet.fake.advance(nanoseconds: 100_000_000_000)
    #expect(hpet.fake.interrupts.takePulses(20) == 0)
  }

  @Test func pinTwoIsTheIRQ0Input() throws {
    let hpet = try Timers()
    hpet[0x100] = 2 << 9 | 1 << 2
    hpet[0x108] = 10
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 50_000)
    #expect(hpet.fake.interrupts.takePulses(0) == 1)
  }

  @Test func aRouteThatDoesNotExistIsNotTaken() throws {
    let hpet = try Timers()
    hpet[0x100] = 8 << 9
    hpet[0x100] = 5 << 9
    #expect(hpet[0x100] & 0x3E00 == 8 << 9)
  }

  @Test func periodicModeRepeatsAndMovesTheComparator() throws {
    let hpet = try Timers()
    hpet[0x100] = 16 << 9 | 1 << 2 | 1 << 3 | 1 << 6
    hpet[0x108] = 100_000
    hpet[0x108] = 200_000
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 1_000_000)
    #expect(hpet.fake.interrupts.takePulses(16) == 1)
    #expect(hpet[0x108] == 300_000)
    hpet.fake.advance(nanoseconds: 10_000_000)
    #expect(hpet.fake.interrupts.takePulses(16) == 5)
    #expect(hpet[0x100] & 1 << 6 == 0)
  }

  @Test func a32BitOneShotComesAgainAfterTheWrap() throws {
    let hpet = try Timers()
    hpet[0x100] = 16 << 9 | 1 << 2 | 1 << 8
    hpet[0x108] = 0xF_0000_1000
    #expect(hpet[0x108] == 0x1000)
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 50_000_000_000)
    #expect(hpet.fake.interrupts.takePulses(16) == 2)
  }

  @Test func aLevelInterruptStaysUntilItsStatusIsCleared() throws {
    let hpet = try Timers()
    hpet[0x140] = 17 << 9 | 1 << 2 | 1 << 1
    hpet[0x148] = 10
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 50_000)
    #expect(hpet.fake.interrupts.level(17))
    #expect(hpet[0x20] == 4)
    hpet[0x20] = 1
    #expect(hpet.fake.interrupts.level(17))
    hpet[0x20] = 4
    #expect(!hpet.fake.interrupts.level(17))
  }

  @Test func movingALevelRouteLeavesTheOldInputFree() throws {
    let hpet = try Timers()
    hpet[0x140] = 17 << 9 | 1 << 2 | 1 << 1
    hpet[0x148] = 10
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 50_000)
    hpet[0x140] = 18 << 9 | 1 << 2 | 1 << 1
    #expect(!hpet.fake.interrupts.level(17))
    #expect(hpet.fake.interrupts.level(18))
    hpet.device.reset()
    #expect(!hpet.fake.interrupts.level(18))
  }

  @Test func legacyReplacementIsAnnouncedAndDrivesIRQ0AndIRQ8() throws {
    let hpet = try Timers()
    hpet[0x100] = 1 << 2
    hpet[0x108] = 100
    hpet[0x120] = 1 << 2
    hpet[0x128] = 100
    hpet[0x10] = 3
    #expect(hpet.fake.events.take() == [.legacyReplacement(true)])
    hpet.fake.advance(nanoseconds: 50_000)
    #expect(hpet.fake.interrupts.takePulses(0) == 1)
    #expect(hpet.fake.interrupts.takePulses(8) == 1)
    hpet.device.reset()
    #expect(hpet.fake.events.take() == [.legacyReplacement(false)])
  }

  @Test func aPeriodOfOneTickDoesNotFloodTheHost() throws {
    let hpet = try Timers()
    hpet[0x100] = 16 << 9 | 1 << 2 | 1 << 3 | 1 << 6
    hpet[0x108] = 1
    hpet[0x10] = 1
    hpet.fake.advance(nanoseconds: 1_000_000)
    #expect(hpet.fake.interrupts.takePulses(16) <= 101)
  }

  @Test func periodsThatPassedUnseenCountAsOneAndTheNextLiesAhead() {
    var chip = HPET()
    chip.write(0x100, 16 << 9 | 1 << 2 | 1 << 3 | 1 << 6, mask: .max, now: 0)
    chip.write(0x108, 100, mask: .max, now: 0)
    chip.write(0x10, 1, mask: .max, now: 0)
    chip.advance(now: 1_000_050)
    let first = chip.takeEdge(0)
    #expect(first)
    #expect(chip.nextDeadline == 1_001_000)
    let comparator = chip.read(0x108, now: 1_000_060)
    #expect(comparator == 100_100)
    let second = chip.takeEdge(0)
    #expect(!second)
  }

  @Test func oddAccessesAreIgnored() throws {
    let hpet = try Timers()
    hpet.fake.board.mmio.write(0xFED0_0010, .byte, 1)
    hpet.fake.board.mmio.write(0xFED0_0014, .qword, .max)
    hpet.fake.board.mmio.write(0xFED0_03FC, .qword, .max)
    #expect(hpet[0x10] == 0)
    #expect(hpet.fake.board.mmio.read(0xFED0_0002, .word) == 0x8086)
  }
}
