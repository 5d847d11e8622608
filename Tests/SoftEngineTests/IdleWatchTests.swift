import Testing

@testable import SoftEngine

@Suite struct IdleWatchTests {
  private let second: UInt64 = 1_000_000_000

  @Test func aProcessorThatSleepsForAPeriodBecomesIdleOnce() {
    var watch = IdleWatch()
    var reports: [UInt64] = []
    for time in 0..<20 {
      if watch.becomesIdle(at: UInt64(time) * second, blocks: 100) { reports.append(UInt64(time)) }
      watch.slept(second * 99 / 100)
    }
    #expect(reports == [5])
  }

  @Test func workInBetweenMakesItBusyAndALittleWorkDoesNot() {
    var watch = IdleWatch()
    var reports: [UInt64] = []
    for time in 0..<40 {
      if watch.becomesIdle(at: UInt64(time) * second, blocks: 100) { reports.append(UInt64(time)) }
      // A tenth of the time from 10 on, all of it from 20 to 25.
      let asleep = (20..<25).contains(time) ? 0 : time >= 10 && time < 20 ? second * 9 / 10 : second
      watch.slept(asleep)
    }
    #expect(reports == [5, 30])
  }

  @Test func anIdleProcessorGivesBackWhatABurstOfWorkHasMade() {
    var watch = IdleWatch()
    var reports: [UInt64] = []
    var blocks = 100_000
    for time in 0..<40 {
      // A twentieth of a second's work at 12 makes many blocks, at 22 a few.
      if time == 12 { blocks += IdleWatch.blocksKept + 1 }
      if time == 22 { blocks += IdleWatch.blocksKept / 2 }
      if watch.becomesIdle(at: UInt64(time) * second, blocks: blocks) {
        reports.append(UInt64(time))
        blocks = 0
      }
      watch.slept(second * 99 / 100)
    }
    #expect(reports == [5, 15])
  }

  @Test func aBusyProcessorIsNeverIdle() {
    var watch = IdleWatch()
    for time in 0..<100 {
      let isIdle = watch.becomesIdle(at: UInt64(time) * second, blocks: 100_000)
      #expect(!isIdle)
      watch.slept(second / 2)
    }
  }
}
