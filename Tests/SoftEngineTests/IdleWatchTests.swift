import Testing

@testable import SoftEngine

@Suite struct IdleWatchTests {
  private let second: UInt64 = 1_000_000_000

  @Test func aProcessorThatSleepsForAPeriodBecomesIdleOnce() {
    var watch = IdleWatch()
    var reports: [UInt64] = []
    for time in 0..<20 {
      if watch.becomesIdle(at: UInt64(time) * second) { reports.append(UInt64(time)) }
      watch.slept(second * 99 / 100)
    }
    #expect(reports == [5])
  }

  @Test func workInBetweenMakesItBusyAndALittleWorkDoesNot() {
    var watch = IdleWatch()
    var reports: [UInt64] = []
    for time in 0..<40 {
      if watch.becomesIdle(at: UInt64(time) * second) { reports.append(UInt64(time)) }
      // A tenth of the time from 10 on, all of it from 20 to 25.
      let asleep = (20..<25).contains(time) ? 0 : time >= 10 && time < 20 ? second * 9 / 10 : second
      watch.slept(asleep)
    }
    #expect(reports == [5, 30])
  }

  @Test func aBusyProcessorIsNeverIdle() {
    var watch = IdleWatch()
    for time in 0..<100 {
      let isIdle = watch.becomesIdle(at: UInt64(time) * second)
      #expect(!isIdle)
      watch.slept(second / 2)
    }
  }
}
