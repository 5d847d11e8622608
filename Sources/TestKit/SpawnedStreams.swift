import Glibc
import LinuxSystem

/// What a program under test has as its standard input, output and error.
public struct ProgramStreams: Sendable {
  public enum Stream: Sendable, Equatable {
    /// A pipe whose other end the test has.
    case pipe
    case file(String)
    /// Not open at all.
    case closed

    public static let null = file("/dev/null")
  }

  var input: Stream
  var output: Stream
  var isTerminal = false

  /// Standard error is a pipe in any case.
  public init(input: Stream = .null, output: Stream = .pipe) {
    self.input = input
    self.output = output
  }

  /// Input and output are the program's controlling terminal: a new pseudoterminal in the mode a shell has it in.
  public static let terminal: ProgramStreams = {
    var streams = ProgramStreams()
    streams.isTerminal = true
    return streams
  }()
}

/// Whose rights a program under test has, where the tests have root's.
public enum ProgramRights: Sendable, Equatable {
  /// The test program's own.
  case same
  case user(String)
  /// Root that file modes apply to, as in many containers: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
  case rootUnderFileModes

  /// For setpriv(1).
  var options: [String] {
    switch self {
    case .same: []
    case .user(let name): ["--reuid", name, "--regid", name, "--clear-groups"]
    case .rootUnderFileModes: ["--bounding-set=-dac_override,-dac_read_search"]
    }
  }
}

/// The test's ends of a program's streams; -1 where there is none.
final class SpawnedStreams: Sendable {
  let input: CInt
  let output: CInt
  let error: CInt
  /// What the pipe of standard error is called in /proc/PID/fd.
  let leash: String
  /// The terminal's mode at the start.
  let terminalMode: TerminalMode?
  /// Held open so that the terminal does not hang up before the program has ended.
  private let slave: CInt

  private init(input: CInt, output: CInt, error: CInt, slave: CInt) {
    (self.input, self.output, self.error, self.slave) = (input, output, error, slave)
    leash = linkTarget("/proc/self/fd/\(error)")
    terminalMode = TerminalMode(of: output)
  }

  func closeInputAndOutput() {
    for descriptor in Set([input, output]) where descriptor >= 0 { Glibc.close(descriptor) }
  }

  func closeError() { Glibc.close(error) }

  /// To be called once, when the program has ended: others may still have the terminal open.
  func releaseTerminal() { if slave >= 0 { Glibc.close(slave) } }

  /// Starts a program that gets SIGKILL when the calling thread ends.
  static func spawn(
    _ program: String, _ arguments: [String], _ streams: ProgramStreams, rights: ProgramRights
  ) throws(SystemError) -> (pid: CInt, streams: SpawnedStreams) {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    prepare(&attributes)

    var theirs: [CInt] = []
    defer { for descriptor in theirs { Glibc.close(descriptor) } }
    let errors = try Pipe.make()
    theirs.append(errors.write)
    posix_spawn_file_actions_adddup2(&actions, errors.write, 2)
    let ours: SpawnedStreams
    if streams.isTerminal {
      let terminal = try Pseudoterminal()
      let path = terminal.slavePath
      let master = terminal.takeMaster().release()
      let slave = try Descriptor.open(path, O_RDWR | O_NOCTTY).release()
      makeCooked(slave)
      // The first terminal that a session leader opens becomes its controlling terminal.
      posix_spawn_file_actions_addopen(&actions, 0, path, O_RDWR, 0)
      posix_spawn_file_actions_adddup2(&actions, 0, 1)
      ours = SpawnedStreams(input: master, output: master, error: errors.read, slave: slave)
    } else {
      func connect(_ number: CInt, _ stream: ProgramStreams.Stream, flags: CInt) throws(SystemError) -> CInt {
        switch stream {
        case .closed: posix_spawn_file_actions_addclose(&actions, number)
        case .file(let path): posix_spawn_file_actions_addopen(&actions, number, path, flags, 0o600)
        case .pipe:
          let pipe = try Pipe.make()
          let (near, far) = number == 0 ? (pipe.write, pipe.read) : (pipe.read, pipe.write)
          setBlocking(pipe.write)
          posix_spawn_file_actions_adddup2(&actions, far, number)
          theirs.append(far)
          return near
        }
        return -1
      }
      let input = try connect(0, streams.input, flags: O_RDONLY)
      let output = try connect(1, streams.output, flags: O_WRONLY | O_CREAT)
      ours = SpawnedStreams(input: input, output: output, error: errors.read, slave: -1)
    }
    setBlocking(errors.write)

    let command = ["setpriv", "--pdeathsig", "KILL"] + rights.options + ["--", program] + arguments
    var pid: pid_t = 0
    let strings = command.map { strdup($0) } + [nil]
    defer { for string in strings { free(string) } }
    let status = posix_spawn(&pid, "/usr/bin/setpriv", &actions, &attributes, strings, environ)
    guard status == 0 else {
      ours.closeInputAndOutput()
      ours.closeError()
      ours.releaseTerminal()
      throw SystemError("posix_spawn", "setpriv (util-linux)", errno: status)
    }
    return (pid, ours)
  }

  /// A session of its own, no signal blocked or ignored.
  private static func prepare(_ attributes: inout posix_spawnattr_t) {
    var signals = sigset_t()
    sigemptyset(&signals)
    posix_spawnattr_setsigmask(&attributes, &signals)
    sigfillset(&signals)
    posix_spawnattr_setsigdefault(&attributes, &signals)
    // POSIX_SPAWN_SETSIGDEF, _SETSIGMASK and _SETSID (spawn.h): the last is not among what Glibc shows of it.
    posix_spawnattr_setflags(&attributes, 0x04 | 0x08 | 0x80)
  }

  private static func setBlocking(_ descriptor: CInt) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
  }

  /// The mode in which login(1) and shells leave a terminal.
  private static func makeCooked(_ terminal: CInt) {
    var mode = termios()
    guard tcgetattr(terminal, &mode) == 0 else { return }
    mode.c_iflag = tcflag_t(ICRNL | IXON)
    mode.c_oflag = tcflag_t(OPOST | ONLCR)
    mode.c_lflag = tcflag_t(ISIG | ICANON | ECHO | ECHOE | ECHOK | IEXTEN)
    tcsetattr(terminal, TCSANOW, &mode)
  }
}

// MARK: Processes

/// Sends a signal; a process that has ended is no error.
public func signalProcess(_ pid: CInt, _ number: CInt) { kill(pid, number) }

/// How a child ended, nil while it runs.
func waitForProcess(_ pid: CInt) -> RunningProgram.Ending? {
  var status: CInt = 0
  guard waitpid(pid, &status, WNOHANG) == pid else { return nil }
  // wait(2): the low seven bits are the signal, the next byte the status.
  return status & 0x7F == 0 ? .exited(status >> 8 & 0xFF) : .killed(signal: status & 0x7F)
}

/// Kills whoever has this file open as standard error.
func killProcesses(holding file: String) {
  guard file.hasPrefix("pipe:[") else { return }
  for pid in ProcessTable.all where linkTarget("/proc/\(pid)/fd/2") == file { kill(pid, SIGKILL) }
}

/// Where a symbolic link points, empty where it cannot be read.
public func linkTarget(_ path: String) -> String {
  var bytes = [UInt8](repeating: 0, count: 4096)
  let count = bytes.withUnsafeMutableBytes { buffer in
    buffer.withMemoryRebound(to: CChar.self) { $0.baseAddress.map { readlink(path, $0, buffer.count) } ?? 0 }
  }
  return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : ""
}
