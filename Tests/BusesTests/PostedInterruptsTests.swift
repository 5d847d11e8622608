import Testing

@testable import Buses

struct PostedInterruptsTests {
  @Test func nothingIsPostedWhileNoProcessorLooks() {
    let posted = PostedInterrupts(processors: 2)
    #expect(!posted.post(edge: 3) && !posted.post(level: 9))
    #expect(posted.take(0) == (0, 0))
    posted.setAwake(1, true)
    posted.setAwake(1, false)
    #expect(!posted.post(edge: 3))
    #expect(posted.notice(0).pointee == 0 && posted.notice(1).pointee == 0)
  }

  @Test func oneProcessorThatLooksFindsAllThatIsPosted() {
    let posted = PostedInterrupts(processors: 3)
    posted.setAwake(2, true)
    #expect(posted.post(edge: 0) && posted.post(edge: 31) && posted.post(level: 9))
    #expect(posted.notice(0).pointee == 0 && posted.notice(2).pointee != 0)
    #expect(posted.take(2) == (1 << 31 | 1, 1 << 9))
    #expect(posted.notice(2).pointee == 0)
    #expect(posted.take(2) == (0, 0))
  }

  @Test func whatIsPostedIsLeftToWhoeverLooksWhenItsProcessorStops() {
    let posted = PostedInterrupts(processors: 1)
    posted.setAwake(0, true)
    #expect(posted.post(level: 4))
    posted.setAwake(0, false)
    #expect(posted.take(0) == (0, 1 << 4), "it looks once more")
  }

  @Test func bothSidesSeeSharedMemory() {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: PostedInterrupts.size(processors: 1), alignment: 64)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: PostedInterrupts.size(processors: 1))
    let (device, processor) = (PostedInterrupts(memory, processors: 1), PostedInterrupts(memory, processors: 1))
    processor.setAwake(0, true)
    #expect(device.post(edge: 7))
    #expect(processor.take(0) == (1 << 7, 0))
  }
}
