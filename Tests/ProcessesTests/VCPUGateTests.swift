import LinuxSystem
import Synchronization
import Testing

@testable import Processes

@Suite struct VCPUGateTests {
  private final class Worker: Sendable {
    let accesses = Atomic<Int>(0)
    let resets = Atomic<Int>(0)
    let isInside = Atomic<Bool>(false)
  }

  /// Threads that do what vCPU threads do with the gate.
  private func start(_ gate: VCPUGate, _ workers: [Worker]) throws -> [HostThread] {
    try workers.map { worker in
      try HostThread("worker") {
        var seen: UInt32 = 0
        while true {
          let word = gate.word
          guard word != seen else {
            worker.isInside.store(true, ordering: .sequentiallyConsistent)
            worker.accesses.add(1, ordering: .relaxed)
            worker.isInside.store(false, ordering: .sequentiallyConsistent)
            continue
          }
          seen = word
          switch VCPUGate.command(in: word) {
          case .run: break
          case .pause: gate.arrive(word)
          case .reset:
            worker.resets.add(1, ordering: .relaxed)
            gate.arrive(word)
          case .stop: return
          }
        }
      }
    }
  }

  @Test func nobodyWorksBetweenPauseAndRunAndEachResetReachesEachThreadOnce() throws {
    let gate = VCPUGate(count: 3)
    let workers = (0..<3).map { _ in Worker() }
    let threads = try start(gate, workers)
    for round in 1...200 {
      gate.issue(.pause, kick: {})
      #expect(gate.awaitAll(nanoseconds: 10_000_000_000))
      let before = workers.map { $0.accesses.load(ordering: .relaxed) }
      #expect(workers.allSatisfy { !$0.isInside.load(ordering: .sequentiallyConsistent) })
      gate.issue(.reset, kick: {})
      #expect(gate.awaitAll(nanoseconds: 10_000_000_000))
      #expect(workers.map { $0.accesses.load(ordering: .relaxed) } == before)
      #expect(workers.allSatisfy { $0.resets.load(ordering: .relaxed) == round })
      gate.issue(.run, kick: {})
    }
    gate.issue(.stop, kick: {})
    for thread in threads { thread.join() }
  }

  @Test func aThreadThatDoesNotComeIsNotWaitedForLongerThanAsked() {
    let gate = VCPUGate(count: 1)
    gate.issue(.pause, kick: {})
    let start = monotonicNanoseconds()
    #expect(!gate.awaitAll(nanoseconds: 50_000_000))
    #expect(monotonicNanoseconds() - start < 5_000_000_000)
  }

  @Test func theKickComesAfterTheCommandCanBeSeen() {
    let gate = VCPUGate(count: 1)
    var command: VCPUGate.Command?
    gate.issue(.reset) { command = VCPUGate.command(in: gate.word) }
    #expect(command == .reset)
  }

  @Test func handledEventsWakeWhoeverWaitsForThem() throws {
    let handled = HandledEvents()
    let waiter = try HostThread("waiter") { while handled.count < 3 { handled.wait(while: handled.count) } }
    for _ in 0..<3 { handled.add() }
    waiter.join()
    #expect(handled.count == 3)
  }
}
