import DeviceKit
import TestKit
import Testing

@testable import Devices

/// 2023-11-14 22:13:20 UTC, a Tuesday.
private let start: UInt64 = 1_700_000_000_000_000_000

@Suite struct CivilTimeTests {
  @Test(arguments: [
    (Int64(0), CivilTime(year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0), Int64(5)),
    (951_782_399, CivilTime(year: 2000, month: 2, day: 28, hour: 23, minute: 59, second: 59), 2),
    (951_782_400, CivilTime(year: 2000, month: 2, day: 29, hour: 0, minute: 0, second: 0), 3),
    (1_700_000_000, CivilTime(year: 2023, month: 11, day: 14, hour: 22, minute: 13, second: 20), 3),
    (4_107_542_400, CivilTime(year: 2100, month: 3, day: 1, hour: 0, minute: 0, second: 0), 2),
    (-1, CivilTime(year: 1969, month: 12, day: 31, hour: 23, minute: 59, second: 59), 4),
  ])
  func secondsAndDatesCorrespond(seconds: Int64, time: CivilTime, weekday: Int64) {
    #expect(CivilTime(secondsSince1970: seconds) == time)
    #expect(time.secondsSince1970 == seconds)
    #expect(time.dayOfWeek == weekday)
  }

  @Test func everyDayOfFourCenturiesRoundTrips() {
    for day in Int64(0)..<146_097 {
      #expect(CivilTime(secondsSince1970: day * 86_400).secondsSince1970 == day * 86_400)
    }
  }

  @Test func fieldsOutOfRangeCarry() {
    let time = CivilTime(year: 2023, month: 13, day: 0, hour: 24, minute: 60, second: 60)
    #expect(CivilTime(secondsSince1970: time.secondsSince1970).year == 2024)
  }
}

/// The device on a board, through ports 0x70 and 0x71.
private struct Clock {
  let fake: FakeBoard
  let device: Device

  init(cmos: [UInt8: UInt8] = [:]) throws {
    fake = FakeBoard()
    device = try RealTimeClock.model.make("rtc", Properties([:]), fake.board)
    for (register, value) in cmos { fake.board.firmware.set(cmos: register, value) }
    device.reset()
  }

  subscript(_ register: UInt8) -> UInt8 {
    get {
      fake.outb(0x70, register)
      return fake.inb(0x71)
    }
    nonmutating set {
      fake.outb(0x70, register)
      fake.outb(0x71, newValue)
    }
  }

  /// Seconds, minutes, hours, weekday, day, month, year, century.
  var time: [UInt8] { [0, 2, 4, 6, 7, 8, 9, 0x32].map { self[$0] } }
}

@Suite struct RealTimeClockTests {
  @Test func timeIsTheWallClockInBCD() throws {
    let clock = try Clock()
    #expect(clock.time == [0x20, 0x13, 0x22, 0x03, 0x14, 0x11, 0x23, 0x20])
    clock.fake.advance(nanoseconds: 41_000_000_000)
    #expect(clock.time == [0x01, 0x14, 0x22, 0x03, 0x14, 0x11, 0x23, 0x20])
  }

  @Test func binaryAndTwelveHourModesShowTheSameTime() throws {
    let clock = try Clock()
    clock[0x0B] = 0x06
    #expect(clock.time == [20, 13, 22, 3, 14, 11, 23, 20])
    clock[0x0B] = 0x04
    #expect(clock[4] == 0x8A)
    clock[0x0B] = 0x00
    #expect(clock[4] == 0x90)
    // 12 AM and 12 PM.
    clock[4] = 0x12
    clock[0x0B] = 0x02
    #expect(clock[4] == 0x00)
    clock[0x0B] = 0x00
    clock[4] = 0x92
    clock[0x0B] = 0x02
    #expect(clock[4] == 0x12)
  }

  @Test func aTimeSetByTheGuestRunsOn() throws {
    let clock = try Clock()
    clock[0x0B] = 0x82
    for (register, value) in [
      (0, 0x59), (2, 0x59), (4, 0x23), (6, 0x05), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19),
    ] {
      clock[UInt8(register)] = UInt8(value)
    }
    clock.fake.advance(nanoseconds: 5_000_000_000)
    #expect(clock.time == [0x59, 0x59, 0x23, 0x05, 0x31, 0x12, 0x99, 0x19])
    clock[0x0B] = 0x02
    clock.fake.advance(nanoseconds: 1_000_000_000)
    #expect(clock.time == [0x00, 0x00, 0x00, 0x06, 0x01, 0x01, 0x00, 0x20])
    // The machine's reset does not stop the battery.
    clock.device.reset()
    #expect(clock[9] == 0x00)
  }

  @Test func theDividerHeldInResetStartsTheNextSecondHalfASecondAfterRelease() throws {
    let clock = try Clock()
    clock[0x0A] = 0x76
    clock.fake.advance(nanoseconds: 3_123_000_000)
    #expect(clock[0] == 0x20)
    clock[0x0A] = 0x26
    clock.fake.advance(nanoseconds: 499_000_000)
    #expect(clock[0] == 0x20)
    clock.fake.advance(nanoseconds: 2_000_000)
    #expect(clock[0] == 0x21)
  }

  @Test func updateInProgressShowsShortlyBeforeTheSecond() throws {
    let clock = try Clock()
    clock.fake.advance(nanoseconds: 999_700_000)
    #expect(clock[0x0A] == 0x26)
    clock.fake.advance(nanoseconds: 100_000)
    #expect(clock[0x0A] == 0xA6)
    clock.fake.advance(nanoseconds: 200_000)
    #expect(clock[0x0A] == 0x26)
    clock[0x0B] = 0x82
    clock.fake.advance(nanoseconds: 999_900_000)
    #expect(clock[0x0A] == 0x26)
  }

  @Test func updateEndedInterruptsOnceUntilRegisterCIsRead() throws {
    let clock = try Clock()
    clock[0x0B] = 0x12
    clock.fake.advance(nanoseconds: 3_500_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 1)
    #expect(clock[0x0C] & 0xB0 == 0x90)
    #expect(clock[0x0C] == 0x00)
    clock.fake.advance(nanoseconds: 1_000_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 1)
  }

  @Test func flagsRiseWithoutTheirInterrupt() throws {
    let clock = try Clock()
    _ = clock[0x0C]
    clock.fake.advance(nanoseconds: 1_000_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 0)
    #expect(clock[0x0C] == 0x50)
  }

  @Test(arguments: [(UInt8(6), 1024), (15, 2), (3, 8192), (1, 256), (2, 128)])
  func periodicInterruptsComeAtTheRate(rate: UInt8, perSecond: Int) throws {
    let clock = try Clock()
    clock[0x0A] = 0x20 | rate
    clock[0x0B] = 0x42
    _ = clock[0x0C]
    _ = clock.fake.interrupts.takePulses(8)
    var count = 0
    let end = clock.fake.clock.now + 1_000_000_000
    while let deadline = clock.fake.board.timers.nextDeadline, deadline <= end {
      clock.fake.advance(nanoseconds: deadline - clock.fake.clock.now)
      count += clock.fake.interrupts.takePulses(8)
      #expect(clock[0x0C] & 0xC0 == 0xC0)
    }
    #expect(abs(count - perSecond) <= 1)
  }

  @Test func theAlarmMatchesItsFieldsAndWildcards() throws {
    let clock = try Clock()
    clock[0x05] = 0xC0
    clock[0x03] = 0x15
    clock[0x01] = 0x00
    clock[0x0B] = 0x22
    clock.fake.advance(nanoseconds: 99_000_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 0)
    clock.fake.advance(nanoseconds: 1_000_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 1)
    #expect(clock[0x0C] & 0xA0 == 0xA0)
    clock.fake.advance(nanoseconds: 3_600_000_000_000)
    #expect(clock.fake.interrupts.takePulses(8) == 1)
  }

  @Test func anAlarmThatNeverMatchesNeverComes() throws {
    let clock = try Clock()
    clock[0x05] = 0x99
    clock[0x0B] = 0x22
    #expect(clock.fake.board.timers.nextDeadline == nil)
    clock.fake.advance(nanoseconds: 90_000_000_000_000)
    #expect(clock[0x0C] & 0x20 == 0)
  }

  @Test func cmosIsLoadedAtPowerOnAndKeptAcrossResets() throws {
    let clock = try Clock(cmos: [0x34: 0x12, 0x0F: 0x55, 0x05: 0x77, 0x32: 0x11])
    #expect(clock[0x34] == 0x12)
    #expect(clock[0x05] == 0x00)
    #expect(clock[0x32] == 0x20)
    clock[0x0F] = 0x0A
    clock[0x0B] = 0x72
    clock.device.reset()
    #expect(clock[0x0F] == 0x0A)
    #expect(clock[0x0B] == 0x02)
    #expect(clock[0x0D] == 0x80)
  }

  @Test func theIndexIgnoresTheNMIBitAndAWordWritesBothPorts() throws {
    let clock = try Clock()
    clock.fake.outw(0x70, 0x5A8F)
    #expect(clock[0x0F] == 0x5A)
    #expect(clock.fake.inb(0x70) == 0xFF)
  }
}
