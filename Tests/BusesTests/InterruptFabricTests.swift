import Buses
import Synchronization
import TestKit
import Testing

@Suite struct InterruptFabricTests {
  let sink = RecordingInterrupts()
  let fabric: InterruptFabric

  init() { fabric = InterruptFabric(sink: sink) }

  @Test func edgeLinesInterruptOnEachRise() {
    let line = fabric.edge(4)
    line.set(true)
    line.set(true)
    line.set(false)
    line.pulse()
    #expect(sink.takePulses(4) == 2)
    #expect(!line.isAsserted)
  }

  /// A sink in which another event of the line's comes while the first one's pulse is under way.
  private final class SlowSink: InterruptSink {
    let pulses = Mutex(0)
    let during = Mutex<(@Sendable () -> Void)?>(nil)

    func pulse(_ input: Int) {
      pulses.withLock { $0 += 1 }
      let next = during.withLock { during in
        defer { during = nil }
        return during
      }
      next?()
    }
    func setLevel(_ input: Int, _ asserted: Bool) {}
    func trigger(_ input: Int) {}
    func messageInterrupt() -> MessageInterrupt? { nil }
  }

  @Test func noPulseIsLostWhileAnotherIsUnderWay() {
    let slow = SlowSink()
    let line = InterruptFabric(sink: slow).edge(7)
    slow.during.withLock { $0 = { line.pulse() } }
    line.pulse()
    #expect(slow.pulses.withLock { $0 } == 2)
  }

  @Test func aSharedLevelLineFallsWithItsLastSource() {
    let first = fabric.level(9)
    let second = fabric.level(9)
    first.set(true)
    second.set(true)
    first.set(false)
    #expect(sink.level(9))
    second.set(false)
    #expect(!sink.level(9))
  }

  @Test(arguments: [(1, 1, 0), (1, 4, 3), (2, 1, 1), (3, 1, 2), (4, 1, 3), (5, 1, 0), (31, 2, 3), (0, 1, 3)])
  func pinsAreSwizzledOverThePIRQs(slot: Int, pin: Int, pirq: Int) {
    fabric.route(pirq: pirq, to: 11)
    fabric.intx(slot: slot, pin: pin).set(true)
    #expect(sink.level(11))
  }

  @Test func anUnroutedPIRQReachesNothingUntilItIsRouted() {
    let line = fabric.intx(slot: 3, pin: 1)
    line.set(true)
    #expect(!(0..<InterruptFabric.inputCount).contains { sink.level($0) })
    fabric.route(pirq: 2, to: 10)
    #expect(sink.level(10))
  }

  @Test func assertedSourcesMoveWithTheRoute() {
    fabric.route(pirq: 2, to: 10)
    let line = fabric.intx(slot: 3, pin: 1)
    line.set(true)
    fabric.route(pirq: 2, to: 11)
    #expect(!sink.level(10) && sink.level(11))
    fabric.route(pirq: 2, to: nil)
    #expect(!sink.level(11))
    line.set(false)
    fabric.route(pirq: 2, to: 11)
    #expect(!sink.level(11))
  }

  @Test func twoPIRQsOnOneInputShareIt() {
    fabric.route(pirq: 0, to: 11)
    fabric.route(pirq: 1, to: 11)
    let first = fabric.intx(slot: 1, pin: 1)
    let second = fabric.intx(slot: 1, pin: 2)
    let third = fabric.intx(slot: 5, pin: 1)
    first.set(true)
    second.set(true)
    third.set(true)
    first.set(false)
    #expect(sink.level(11))
    fabric.route(pirq: 0, to: 5)
    #expect(sink.level(11) && sink.level(5))
    second.set(false)
    #expect(!sink.level(11) && sink.level(5))
    third.set(false)
    #expect(!sink.level(5))
  }

  @Test func anUnconnectedLineOnlyRemembersItsLevel() {
    let line = InterruptLine.unconnected()
    line.set(true)
    #expect(line.isAsserted)
  }
}
