import LinuxSystem
import Synchronization

/// A character connection over plain descriptors: input from one, output to another, either of which may be absent.
///
/// The output may be a blocking descriptor shared with other processes, such as a duplicate of stdout, whose mode
/// must not be changed: a writer thread of its own waits on it, from the first output on, and a reader thread waits for
/// input.
public final class StreamCharacterBackend: CharacterBackend {
  private let core: Core

  /// `report` is given one line when the host refuses output; output is dropped from then on. The end of
  /// the input just stops input.
  public init(
    input: consuming Descriptor? = nil, output: consuming Descriptor? = nil, report: @escaping CharacterReport
  ) throws(SystemError) {
    let core = try Core(input: input, output: output, report: report)
    self.core = core
    if core.hasInput { _ = try HostThread("char-in", stackSize: 128 << 10) { core.readInput() } }
  }

  deinit { core.stop() }

  public func attach(_ receiver: any CharacterReceiver) { core.attach(receiver) }
  public func send(_ bytes: UnsafeRawBufferPointer) -> Int { core.send(bytes) }
  public func resumeInput() { core.resumeInput() }
  public func drain(nanoseconds: UInt64) { core.drain(nanoseconds) }

  /// The terminal that the descriptors lead to has this size now.
  public func resize(columns: UInt16, rows: UInt16) { core.resize(columns, rows) }
}

extension StreamCharacterBackend {
  /// What the threads share. They keep it, and with it the descriptors, until they end; a writer that the
  /// host blocks is not waited for.
  private final class Core: Sendable {
    private struct Output {
      var queue = OutputQueue()
      /// The writer sleeps until it is signalled, or has not been started.
      var idle = true
      var drainers = 0
      var failed = false
    }

    private let input: Descriptor?
    private let output: Descriptor?
    private let inputNumber: CInt
    private let outputNumber: CInt
    private let report: CharacterReport
    private let hold = InputHold()
    private let queued = Mutex(Output())
    private let stopping = Atomic<Bool>(false)
    private let writer = LazyThread("char-out", stackSize: 128 << 10)
    private let wakeReader: EventDescriptor
    private let wakeWriter: EventDescriptor
    private let drained: EventDescriptor

    init(input: consuming Descriptor?, output: consuming Descriptor?, report: @escaping CharacterReport)
      throws(SystemError)
    {
      wakeReader = try EventDescriptor()
      wakeWriter = try EventDescriptor()
      drained = try EventDescriptor()
      if let input = input.take() {
        inputNumber = input.raw
        self.input = consume input
      } else {
        inputNumber = -1
        self.input = nil
      }
      if let output = output.take() {
        outputNumber = output.raw
        self.output = consume output
      } else {
        outputNumber = -1
        self.output = nil
      }
      self.report = report
    }

    var hasInput: Bool { inputNumber >= 0 }
    var hasOutput: Bool { outputNumber >= 0 }

    func stop() {
      stopping.store(true, ordering: .releasing)
      wakeReader.signal()
      wakeWriter.signal()
    }

    func attach(_ receiver: any CharacterReceiver) {
      hold.attach(receiver)
      wakeReader.signal()
    }

    func resize(_ columns: UInt16, _ rows: UInt16) { hold.resize(columns: columns, rows: rows) }

    func resumeInput() { if hold.resume() { wakeReader.signal() } }

    func send(_ bytes: UnsafeRawBufferPointer) -> Int {
      guard hasOutput else { return bytes.count }
      let (taken, wake) = queued.withLock { output -> (Int, Bool) in
        if output.failed { return (bytes.count, false) }
        let taken = output.queue.append(bytes)
        defer { output.idle = false }
        return (taken, output.idle)
      }
      if wake {
        wakeWriter.signal()
        if !writer.isStarted { startWriter() }
      }
      return taken
    }

    private func startWriter() {
      do throws(SystemError) { try writer.start { [self] in writeOutput() } } catch { fail(error) }
    }

    func drain(_ nanoseconds: UInt64) {
      let start = monotonicNanoseconds()
      while true {
        let done = queued.withLock { output in
          let done = output.failed || output.queue.isEmpty
          if !done { output.drainers += 1 }
          return done
        }
        if done { return }
        let passed = monotonicNanoseconds() &- start
        if passed < nanoseconds { drained.wait(milliseconds: milliseconds(nanoseconds - passed)) }
        queued.withLock { $0.drainers -= 1 }
        if passed >= nanoseconds { return }
      }
    }

    func readInput() {
      withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 16) { buffer in
        var pending = 0..<0
        while !stopping.load(ordering: .acquiring) {
          if !pending.isEmpty {
            let taken = hold.offer(UnsafeRawBufferPointer(rebasing: buffer[pending]))
            pending = pending.lowerBound + taken..<pending.upperBound
            if taken > 0, hold.isOpen { continue }
          }
          guard pending.isEmpty, hold.isOpen else {
            if !hold.isOpen { wakeReader.wait() }
            continue
          }
          var entries = [PollEntry(wakeReader.descriptor.raw, .readable), PollEntry(inputNumber, .readable)]
          waitForDescriptors(&entries)
          if entries[0].ready.contains(.readable) { _ = wakeReader.drain() }
          guard !entries[1].ready.isEmpty else { continue }
          guard !entries[1].ready.contains(.invalid) else { return }
          switch readSome(into: buffer) {
          case .bytes(let count): pending = 0..<count
          case .again: break
          case .ended: return
          }
        }
      }
    }

    private enum ReadResult {
      case bytes(Int)
      case again
      case ended
    }

    private func readSome(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
      do {
        let count = try readDescriptor(inputNumber, into: buffer)
        return count > 0 ? .bytes(count) : .ended
      } catch {
        return error.errno == ErrorNumber.again ? .again : .ended
      }
    }

    func writeOutput() {
      blockBrokenPipeSignal()
      // A pipe that polls as writable takes this much without blocking (PIPE_BUF).
      withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 16) { buffer in
        while !stopping.load(ordering: .acquiring) || queued.withLock({ !$0.queue.isEmpty }) {
          let count = queued.withLock { output -> Int in
            let count = output.queue.copyFirst(into: buffer)
            output.idle = count == 0
            return count
          }
          if count == 0 {
            if stopping.load(ordering: .acquiring) { return }
            wakeWriter.wait()
            continue
          }
          do throws(SystemError) {
            finish(try writeDescriptor(outputNumber, UnsafeRawBufferPointer(rebasing: buffer[0..<count])))
          } catch {
            if error.errno == ErrorNumber.again {
              var entries = [PollEntry(outputNumber, .writable)]
              waitForDescriptors(&entries)
              continue
            }
            fail(error)
            return
          }
        }
      }
    }

    private func finish(_ written: Int) {
      let (heard, empty) = queued.withLock { output in
        output.queue.removeFirst(written)
        return (output.queue.takeRefusal(), output.queue.isEmpty && output.drainers > 0)
      }
      if empty { drained.signal() }
      if heard { hold.receiver?.sendable() }
    }

    private func fail(_ error: SystemError) {
      let heard = queued.withLock { output -> Bool in
        output.failed = true
        output.queue.removeAll()
        return output.queue.takeRefusal()
      }
      report("output is dropped from here on: \(error)")
      drained.signal()
      if heard { hold.receiver?.sendable() }
    }
  }
}

/// A wait in poll(2)'s unit, rounded up and at most a minute.
func milliseconds(_ nanoseconds: UInt64) -> CInt { CInt(min(nanoseconds / 1_000_000 + 1, 60_000)) }
