import Testing

@testable import Buses

struct PostedInterruptsTests {
  @Test func nothingIsPostedWhileNoProcessorLooks() {
    let posted = PostedInterrupts(processors: 2)
    #expect(!posted.post(3))
    #expect(posted.take(0) == 0)
    posted.setAwake(1, true)
    posted.setAwake(1, false)
    #expect(!posted.post(3))
    #expect(posted.notice(0).pointee == 0 && posted.notice(1).pointee == 0)
  }

  @Test func oneProcessorThatLooksFindsAllThatIsPosted() {
    let posted = PostedInterrupts(processors: 3)
    posted.setAwake(2, true)
    #expect(posted.post(0) && posted.post(31))
    #expect(posted.notice(0).pointee == 0 && posted.notice(2).pointee != 0)
    #expect(posted.take(2) == 1 << 31 | 1)
    #expect(posted.notice(2).pointee == 0)
    #expect(posted.take(2) == 0)
  }

  @Test func whatIsPostedIsLeftToItsProcessorWhichLooksAgainAsItStops() {
    let posted = PostedInterrupts(processors: 1)
    posted.setAwake(0, true)
    #expect(posted.post(4))
    posted.setAwake(0, false)
    #expect(posted.take(0) == 1 << 4)
  }

  @Test func bothSidesSeeSharedMemory() {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: PostedInterrupts.size(processors: 1), alignment: 64)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: PostedInterrupts.size(processors: 1))
    let (device, processor) = (PostedInterrupts(memory, processors: 1), PostedInterrupts(memory, processors: 1))
    processor.setAwake(0, true)
    #expect(device.post(7))
    #expect(processor.take(0) == 1 << 7)
  }
}
