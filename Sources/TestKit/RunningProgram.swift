import LinuxSystem
import Synchronization

/// Why a test could not go on with a program, with what the program has said so far.
public struct ProgramError: Error, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// A program under test.
///
/// It gets SIGKILL when its time limit is over and when the test program ends, however that comes about. Standard error
/// is also a leash: whoever has inherited it keeps the pipe open, so that its end says that no process is left.
public final class RunningProgram: Sendable {
  public enum Ending: Sendable, Equatable {
    case exited(CInt)
    case killed(signal: CInt)
    /// The time limit killed it.
    case outOfTime
  }

  public enum Source: Sendable {
    /// Standard output, or the terminal.
    case output
    case error
  }

  private struct State {
    var output: [UInt8] = []
    var error: [UInt8] = []
    var ending: Ending?
    var endTime: UInt64 = 0
    /// When nobody had the streams open any more.
    var releaseTime: UInt64?
    /// The test's ends of input and output are closed.
    var isHungUp = false
    /// Everything is over: the test's end of standard error is closed, too.
    var isClosed = false
    var isLimited = false
    /// The terminal's mode when nobody had it open any more.
    var lastTerminalMode: [UInt8]?
  }

  public let pid: CInt
  private let streams: SpawnedStreams
  private let state = Mutex(State())

  /// How long processes that it has started may have the streams open after its end, in nanoseconds.
  private static let grace: UInt64 = 1_000_000_000

  /// Starts `program` with these arguments (its name not among them), in the test program's environment.
  /// - Parameter seconds: the time limit.
  public static func start(
    _ program: String, _ arguments: [String], streams: ProgramStreams = ProgramStreams(), seconds: Double,
    rights: ProgramRights = .same
  ) throws -> RunningProgram {
    final class Slot: Sendable { let result = Mutex<Result<RunningProgram, SystemError>?>(nil) }
    let slot = Slot()
    let started = try SharedEvent()
    // The parent-death signal is the thread's: this one lives as long as the program.
    _ = try HostThread("program") {
      let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
      do throws(SystemError) {
        let spawned = try SpawnedStreams.spawn(program, arguments, streams, rights: rights)
        let running = RunningProgram(pid: spawned.pid, streams: spawned.streams)
        slot.result.withLock { $0 = .success(running) }
        _ = signalEvent(started.raw)
        running.watch(until: deadline)
      } catch {
        slot.result.withLock { $0 = .failure(error) }
        _ = signalEvent(started.raw)
      }
    }
    started.event.wait()
    guard let result = slot.result.withLock({ $0 }) else { throw ProgramError("\(program) did not start") }
    return try result.get()
  }

  private init(pid: CInt, streams: SpawnedStreams) {
    self.pid = pid
    self.streams = streams
  }

  // MARK: What the test sees

  /// Standard output so far, or what is on the terminal.
  public var output: String { text { $0.output } }
  /// Standard error so far.
  public var error: String { text { $0.error } }
  public var ending: Ending? { state.withLock { $0.ending } }

  private func text(_ bytes: (borrowing State) -> [UInt8]) -> String {
    String(decoding: state.withLock { bytes($0) }, as: UTF8.self)
  }

  /// The mode of its terminal, as tcgetattr(3) gives it; after the program's end, the one it was left in.
  public var terminalMode: [UInt8]? {
    state.withLock { $0.isHungUp ? $0.lastTerminalMode : TerminalMode(of: streams.output)?.bytes }
  }

  /// The mode of its terminal before it was started.
  public var initialTerminalMode: [UInt8]? { streams.terminalMode?.bytes }

  /// Puts the terminal back into the mode it had at the start, as a shell does with a job that is stopped.
  public func restoreTerminal() { streams.terminalMode?.restore() }

  /// Waits until `text` is in what it wrote after the first `offset` bytes. A processor of a loaded host may stand still
  /// for seconds.
  /// - Parameter failures: texts after which there is no use in waiting.
  public func wait(
    for text: String, on source: Source = .output, after offset: Int = 0, unless failures: [String] = [],
    seconds: Double = 60
  ) async throws {
    let wanted = Array(text.utf8)
    let unwanted = failures.map { Array($0.utf8) }
    let overlap = unwanted.reduce(wanted.count) { max($0, $1.count) } - 1
    var failure: String?
    var searched = offset
    try await wait(seconds: seconds, "'\(text)'") {
      let bytes = state.withLock { source == .output ? $0.output : $0.error }
      guard bytes.count > searched else { return wanted.isEmpty }
      let new = bytes[max(offset, searched - overlap)...]
      searched = bytes.count
      if new.contains(wanted) { return true }
      failure = zip(failures, unwanted).first { new.contains($0.1) }?.0
      return failure != nil
    }
    if let failure {
      // What follows says why.
      try await Task.sleep(for: .seconds(2))
      throw ProgramError("'\(failure)' instead of '\(text)'\n\(transcript)")
    }
  }

  /// Waits for the program's end.
  @discardableResult
  public func end(seconds: Double = 600) async throws -> Ending {
    try await wait(seconds: seconds, "the end", afterEnd: true) { ending != nil }
    guard let ending else { throw ProgramError("no ending") }
    return ending
  }

  /// Waits for the end of the program and of everything that it has started, and says how long after `start`
  /// (CLOCK_MONOTONIC) each came, in seconds. A process that stays is killed, and an error.
  @discardableResult
  public func allEnd(since start: UInt64 = 0) async throws -> (program: Double, all: Double) {
    try await end()
    try await wait(seconds: 30, "the streams' end", afterEnd: true) { state.withLock { $0.isClosed } }
    let (end, release) = state.withLock { ($0.endTime, $0.releaseTime) }
    guard let release else { throw ProgramError("a process was left running\n\(transcript)") }
    return (Double(end &- start) / 1e9, Double(release &- start) / 1e9)
  }

  private func wait(seconds: Double, _ what: String, afterEnd: Bool = false, until condition: () -> Bool) async throws {
    let deadline = monotonicNanoseconds() + UInt64(seconds * 1e9)
    while !condition() {
      let closed = state.withLock { $0.isClosed }
      if closed, !afterEnd, !condition() { throw ProgramError("ended without \(what)\n\(transcript)") }
      guard monotonicNanoseconds() < deadline else {
        throw ProgramError("no \(what) within \(seconds) s\n\(transcript)")
      }
      try await Task.sleep(for: .milliseconds(5))
    }
  }

  /// The last that it has said, for a failure's message.
  public var transcript: String {
    "--- \(ending.map { "\($0)" } ?? "running"), output:\n\(Self.end(of: output))\n--- error:\n\(Self.end(of: error))\n---"
  }

  private static func end(of text: String) -> String {
    let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
    return lines.count <= 100 ? text : "(\(lines.count - 100) lines)\n" + lines.suffix(100).joined(separator: "\n")
  }

  // MARK: What the test does to it

  /// Writes to its standard input or terminal.
  public func send(_ text: String) throws {
    try state.withLock { state in
      guard !state.isHungUp, streams.input >= 0 else { throw ProgramError("nobody reads '\(text)'") }
      var bytes = Array(text.utf8)[...]
      while !bytes.isEmpty {
        let count = try bytes.withUnsafeBytes { try writeDescriptor(streams.input, $0) }
        bytes = bytes.dropFirst(count)
      }
    }
  }

  public func signal(_ number: CInt) {
    state.withLock { if $0.ending == nil { signalProcess(pid, number) } }
  }

  /// Closes the test's ends of input and output: the input ends, output finds nobody, a terminal hangs up.
  public func hangUp() { state.withLock { hangUp(&$0) } }

  private func hangUp(_ state: inout State) {
    guard !state.isHungUp else { return }
    state.isHungUp = true
    state.lastTerminalMode = TerminalMode(of: streams.output)?.bytes
    streams.closeInputAndOutput()
  }

  private func close(_ state: inout State) {
    hangUp(&state)
    state.isClosed = true
    streams.closeError()
  }

  // MARK: The thread

  /// Reads what it writes until it has ended and all streams are closed.
  private func watch(until deadline: UInt64) {
    var open: [Source] = [.output, .error].filter { descriptor($0) >= 0 }
    while true {
      let (isHungUp, ending, endTime) = state.withLock { ($0.isHungUp, $0.ending, $0.endTime) }
      if isHungUp { open.removeAll { $0 == .output } }
      let now = monotonicNanoseconds()
      if ending != nil {
        guard !open.isEmpty, now < endTime + Self.grace else {
          if !open.isEmpty { killProcesses(holding: streams.leash) }
          return state.withLock { state in
            if open.isEmpty { state.releaseTime = monotonicNanoseconds() }
            close(&state)
          }
        }
      } else if now >= deadline {
        state.withLock { $0.isLimited = true }
        signalProcess(pid, SignalNumber.kill)
      }
      var entries = open.map { PollEntry(descriptor($0), .readable) }
      // Short, for the program may end and the test hang up at any time.
      waitForDescriptors(&entries, milliseconds: 10)
      for (index, source) in open.enumerated().reversed() where !entries[index].ready.isEmpty {
        if !read(source) { open.remove(at: index) }
      }
      if ending == nil { reap() }
    }
  }

  private func descriptor(_ source: Source) -> CInt { source == .output ? streams.output : streams.error }

  /// Takes what there is; false: this stream has ended.
  private func read(_ source: Source) -> Bool {
    withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 16) { buffer in
      state.withLock { state in
        guard source == .error || !state.isHungUp else { return false }
        // EIO is how a terminal ends that nobody has open.
        guard let count = try? readDescriptor(descriptor(source), into: buffer), count > 0 else { return false }
        switch source {
        case .output: state.output.append(contentsOf: buffer[..<count])
        case .error: state.error.append(contentsOf: buffer[..<count])
        }
        return true
      }
    }
  }

  private func reap() {
    let hasEnded = state.withLock { state in
      guard let status = waitForProcess(pid) else { return false }
      state.endTime = monotonicNanoseconds()
      state.ending = state.isLimited ? .outOfTime : status
      return true
    }
    if hasEnded { streams.releaseTerminal() }
  }
}

extension ArraySlice<UInt8> {
  /// Whether the bytes occur one after the other.
  fileprivate func contains(_ bytes: [UInt8]) -> Bool {
    guard let first = bytes.first else { return true }
    var rest = self
    while let start = rest.firstIndex(of: first) {
      rest = rest[start...]
      if rest.starts(with: bytes) { return true }
      rest = rest.dropFirst()
    }
    return false
  }
}
