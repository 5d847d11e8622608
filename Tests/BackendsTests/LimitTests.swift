import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

@Suite struct LimitTests {
  @Test func aBucketHoldsATenthOfASecond() {
    var bucket = TokenBucket(rate: 1000, now: 0)
    var spent = 0
    while bucket.wait(now: 0) == 0 {
      bucket.spend(1)
      spent += 1
    }
    #expect(spent == 100)
    #expect(bucket.wait(now: 0) == 1)
    // A millisecond each from now on.
    #expect(bucket.wait(now: 1_000_000) == 0)
    bucket.spend(1)
    #expect(bucket.wait(now: 1_000_000) > 0)
    // A rest of an hour saves up no more than at the start.
    #expect(bucket.wait(now: 3_600_000_000_000) == 0)
    bucket.spend(100)
    #expect(bucket.wait(now: 3_600_000_000_000) == 1)
  }

  @Test func whatIsLongerThanTheBucketIsADebt() {
    var bucket = TokenBucket(rate: 1 << 20, now: 0)
    #expect(bucket.wait(now: 0) == 0)
    bucket.spend(1 << 20)
    #expect(bucket.wait(now: 0) == 900_000_001)
    bucket.spend(.max)
    #expect(bucket.wait(now: 1 << 40) > 1 << 40)
  }

  @Test(arguments: [BlockRateLimits(requests: 200), BlockRateLimits(bytes: 200 * 512)])
  func requestsComeAtTheRate(_ limits: BlockRateLimits) throws {
    let memory = MemoryBlockBackend(sectors: 64)
    let backend = try LimitedBlockBackend(memory, name: "disk0", limits: limits)
    let buffer = AlignedBuffer(count: 512)
    let part = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<512])
    let done = Mutex(0)
    let start = monotonicNanoseconds()
    for sector in 0..<60 {
      backend.submit(
        BlockRequest(.read, offset: UInt64(sector) * 512, buffers: [part]) { _ in done.withLock { $0 += 1 } })
    }
    // The burst passes at once.
    #expect(done.withLock { $0 } >= 20)
    #expect(done.withLock { $0 } < 50)
    backend.submit(BlockRequest(.flush) { _ in done.withLock { $0 += 1 } })
    backend.drain()
    let seconds = Double(monotonicNanoseconds() - start) / 1e9
    #expect(done.withLock { $0 } == 61)
    #expect(seconds > 0.19 && seconds < 2, "\(seconds) s")
    #expect(memory.records.map(\.offset) == (0..<60).map { UInt64($0) * 512 } + [0])
  }
}
