import Testing

@testable import SoftEngine

/// A channel with a count of two bytes written at clock 0, so that it is loaded at clock 1.
private func channel(_ mode: UInt8, _ count: UInt16, gate: Bool = true, bcd: Bool = false) -> I8254Channel {
  var channel = I8254Channel(gate: gate)
  channel.setControl(0x30 | mode << 1 | (bcd ? 1 : 0), now: 0)
  channel.load(count, 0)
  return channel
}

extension I8254Channel {
  fileprivate mutating func load(_ count: UInt16, _ now: Int) {
    write(UInt8(truncatingIfNeeded: count), now: now)
    write(UInt8(truncatingIfNeeded: count >> 8), now: now)
  }

  fileprivate mutating func readCount(_ now: Int) -> UInt16 {
    latchCount(now: now)
    return UInt16(read(now: now)) | UInt16(read(now: now)) << 8
  }

  /// OUT at each clock of a range, high as "1".
  fileprivate func waveform(_ clocks: ClosedRange<Int>) -> String {
    var copy = self
    return String(
      clocks.map { clock -> Character in
        copy.advance(to: clock)
        return copy.output(clock) ? "1" : "0"
      })
  }

  fileprivate mutating func status(_ now: Int) -> UInt8 {
    latchStatus(now: now)
    return read(now: now)
  }
}

@Suite struct I8254Tests {
  @Test(
    arguments: [
      (mode: 0, count: 4, wave: "0000011111111"),
      (mode: 2, count: 3, wave: "1110110110110"),
      (mode: 3, count: 4, wave: "1110011001100"),
      (mode: 3, count: 5, wave: "1111001110011"),
      (mode: 4, count: 4, wave: "1111101111111"),
      (mode: 6, count: 3, wave: "1110110110110"),
      (mode: 7, count: 4, wave: "1110011001100"),
    ] as [(mode: UInt8, count: UInt16, wave: String)])
  func theModesHaveTheirWaveforms(mode: UInt8, count: UInt16, wave: String) {
    #expect(channel(mode, count).waveform(0...12) == wave)
  }

  @Test func modes1And5StartWithTheGate() {
    for (mode, wave) in [(1, "1000111"), (5, "1111011")] as [(UInt8, String)] {
      var channel = channel(mode, 3, gate: false)
      #expect(channel.waveform(0...6) == "1111111")
      channel.setGate(true, now: 10)
      #expect(channel.waveform(10...16) == wave)
      channel.setGate(false, now: 12)
      channel.setGate(true, now: 13)
      #expect(channel.nextRise == 14 + (mode == 1 ? 3 : 4))
    }
  }

  @Test func retriggeringModeOneKeepsItsOutputLow() {
    var channel = channel(1, 5, gate: false)
    channel.setGate(true, now: 0)
    channel.setGate(false, now: 2)
    channel.setGate(true, now: 3)
    #expect(channel.waveform(3...10) == "00000011")
    channel.advance(to: 20)
    #expect(channel.takeEdges() == 1)
  }

  @Test func aLowGateStopsModes0And4WhereTheyAre() {
    for (mode, clocks) in [(0, 10), (4, 11)] as [(UInt8, Int)] {
      var channel = channel(mode, 10)
      channel.setGate(false, now: 4)
      #expect(channel.readCount(50) == 7)
      #expect(channel.nextRise == nil)
      channel.setGate(true, now: 100)
      #expect(channel.nextRise == 100 - 3 + clocks)
    }
  }

  @Test func aLowGateHoldsModes2And3HighAndARiseStartsAnew() {
    for mode in [2, 3] as [UInt8] {
      var channel = channel(mode, 4)
      channel.setGate(false, now: 4)
      #expect(channel.waveform(4...8) == "11111")
      channel.setGate(true, now: 10)
      #expect(channel.nextRise == 15)
    }
  }

  @Test func aNewCountTakesEffectAtTheEndOfThePeriod() {
    var rate = channel(2, 4)
    rate.load(6, 2)
    #expect(rate.waveform(2...16) == "110111110111110")
    rate.advance(to: 17)
    #expect(rate.takeEdges() == 3)
    var square = channel(3, 8)
    square.load(4, 2)
    #expect(square.nextRise == 1 + 4 + 2)
    #expect(square.waveform(2...12) == "11100110011")
  }

  @Test func aNewCountRestartsModes0And4() {
    for mode in [0, 4] as [UInt8] {
      var channel = channel(mode, 10)
      channel.load(20, 5)
      #expect(channel.nextRise == 6 + 20 + (mode == 4 ? 1 : 0))
    }
    var channel = channel(0, 3)
    channel.advance(to: 10)
    channel.write(5, now: 10)
    #expect(!channel.output(10))
    #expect(channel.nextRise == nil)
  }

  @Test(
    arguments: [
      (mode: 0, count: 10, values: [10, 9, 8]), (mode: 2, count: 3, values: [3, 2, 1, 3]),
      (mode: 3, count: 6, values: [6, 4, 2, 6, 4, 2, 6]), (mode: 3, count: 5, values: [4, 2, 0, 4, 2, 4]),
      (mode: 0, count: 1, values: [1, 0, 0xFFFF, 0xFFFE]), (mode: 4, count: 0, values: [0, 0xFFFF]),
    ] as [(mode: UInt8, count: UInt16, values: [UInt16])])
  func theCountGoesDown(mode: UInt8, count: UInt16, values: [UInt16]) {
    var channel = channel(mode, count)
    #expect(values.indices.map { channel.readCount(1 + $0) } == values)
  }

  @Test func bcdCountsInDecimal() {
    var channel = channel(0, 0x1000, bcd: true)
    #expect(channel.readCount(1) == 0x1000)
    #expect(channel.readCount(2) == 0x0999)
    #expect(channel.nextRise == 1001)
    #expect(channel.readCount(1002) == 0x9999)
    var whole = I8254Channel(gate: true)
    whole.setControl(0x35, now: 0)
    whole.load(0, 0)
    #expect(whole.nextRise == 10_001)
    // Digits beyond nine are no BCD, and harm nothing.
    whole.load(0xFFFF, 0)
    whole.advance(to: 100_000)
  }

  @Test func accessOfOneByteLeavesTheOtherZero() {
    var channel = I8254Channel(gate: true)
    channel.setControl(0x14, now: 0)
    channel.write(0x80, now: 0)
    #expect(channel.nextRise == 0x81)
    #expect(channel.read(now: 1) == 0x80)
    channel.setControl(0x24, now: 10)
    channel.write(0x02, now: 10)
    #expect(channel.nextRise == 0x20B)
    #expect(channel.read(now: 12) == 0x01)
  }

  @Test func aLatchedCountStaysUntilItWasRead() {
    var channel = channel(2, 1000)
    channel.latchCount(now: 1)
    channel.latchCount(now: 500)
    #expect(channel.read(now: 600) == 0xE8)
    #expect(channel.read(now: 600) == 0x03)
    #expect(channel.read(now: 601) == 0x90)
    #expect(channel.read(now: 601) == 0x01)
  }

  @Test func readBackLatchesStatusBeforeTheCount() {
    var channel = channel(2, 1000)
    #expect(channel.status(0) == 0x80 | 0x40 | 0x30 | 0x04)
    #expect(channel.status(1) == 0x80 | 0x30 | 0x04)
    channel.load(500, 10)
    channel.latchStatus(now: 10)
    channel.latchCount(now: 10)
    #expect(channel.read(now: 20) == 0xF4)
    #expect(channel.read(now: 20) == 0xDF)
    #expect(channel.read(now: 20) == 0x03)
    #expect(channel.status(1001) == 0xB4)
    var zero = I8254Channel(gate: true)
    zero.setControl(0x31, now: 0)
    #expect(zero.status(0) == 0x71)
  }

  @Test func periodsThatPassedAreAllCounted() {
    var channel = channel(2, 10)
    channel.advance(to: 1_000_001)
    #expect(channel.takeEdges() == 100_000)
    #expect(channel.nextRise == 1_000_011)
  }

  @Test func aCountOfOneGivesNoEdgesWherePeriodsAreIllegal() {
    for mode in [2, 3] as [UInt8] {
      var channel = channel(mode, 1)
      channel.load(1, 5)
      channel.advance(to: 1000)
      #expect(channel.takeEdges() == 0 && channel.nextRise == nil)
    }
  }

  @Test func clocksAndNanosecondsConvertExactly() {
    #expect(I8254.clocks(1_000_000_000) == 1_193_182)
    #expect(I8254.clocks(838) == 0 && I8254.clocks(839) == 1)
    #expect(I8254.nanoseconds(1_193_182) == 1_000_000_000)
    for clock in [1, 2, 3, 65_536, 1_000_003] {
      guard let time = I8254.nanoseconds(clock) else { continue }
      #expect(I8254.clocks(time) == clock && I8254.clocks(time - 1) == clock - 1)
    }
    #expect(I8254.clocks(.max) > 0 && I8254.nanoseconds(.max) == nil)
  }

  @Test func port61ShowsAndDrivesChannelTwo() {
    var pit = I8254()
    pit.write(3, 0xB0, now: 0)
    pit.write(2, 100, now: 0)
    pit.write(2, 0, now: 0)
    #expect(pit.readSystemControl(now: 1_000_000) & 0x2F == 0)
    pit.writeSystemControl(0xF3, now: 1_000_000)
    #expect(pit.readSystemControl(now: 1_000_000) & 0x2F == 0x03)
    #expect(pit.readSystemControl(now: 1_090_000) & 0x2F == 0x23)
    #expect((0..<4).map { pit.readSystemControl(now: 15_085 * $0) & 0x10 } == [0, 0x10, 0, 0x10])
  }

  @Test func theReadBackCommandSelectsChannels() {
    var pit = I8254()
    for channel in 0..<3 {
      pit.write(3, UInt8(channel) << 6 | 0x10, now: 0)
      pit.write(channel, UInt8(10 + channel), now: 0)
    }
    // Status of channels 0 and 2, then the count of 1.
    pit.write(3, 0xEA, now: 839)
    pit.write(3, 0xD4, now: 839)
    #expect(pit.read(0, now: 10_000) == 0x10)
    #expect(pit.read(1, now: 10_000) == 11)
    #expect(pit.read(2, now: 10_000) & 0x3F == 0x10)
    #expect(pit.read(3, now: 10_000) == 0xFF)
  }
}
