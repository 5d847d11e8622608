import CLinux
import Glibc

/// Signals by number, as the shell names them.
public enum SignalNumber {
  public static let hangUp = SIGHUP
  public static let interrupt = SIGINT
  public static let terminate = SIGTERM
  public static let continued = SIGCONT
  public static let windowChanged = SIGWINCH
  public static let brokenPipe = SIGPIPE
  /// A write beyond `ulimit -f`; passed over, the write fails with EFBIG.
  public static let fileSizeExceeded = SIGXFSZ
  public static let kill = SIGKILL
  public static let stop = SIGSTOP
  public static let user1 = SIGUSR1
  public static let user2 = SIGUSR2
  /// Those that end a run.
  public static let endings = [hangUp, interrupt, terminate]
}

/// A descriptor that becomes readable when one of its signals arrives; the signals are blocked in this thread and
/// those it starts afterwards.
public struct SignalDescriptor: ~Copyable, Sendable {
  public let descriptor: Descriptor

  public init(_ signals: [CInt]) throws(SystemError) {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in signals { sigaddset(&set, signal) }
    pthread_sigmask(SIG_BLOCK, &set, nil)
    let raw = signalfd(-1, &set, CInt(SFD_CLOEXEC) | CInt(SFD_NONBLOCK))
    guard raw >= 0 else { throw SystemError("signalfd") }
    descriptor = Descriptor(owning: raw)
  }

  /// The next signal's number, or nil when none is waiting.
  public borrowing func next() -> CInt? {
    var info = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    guard read(descriptor.raw, &info, size) == size else { return nil }
    return CInt(info.ssi_signo)
  }
}

/// Makes a signal interrupt system calls of the thread it is sent to, and nothing else. It is unblocked in this thread
/// and those it starts afterwards.
public func installInterruptingHandler(_ signal: CInt) { clinux_handle_by_interrupting(signal) }

/// Makes the process pass over a signal.
public func ignore(_ signal: CInt) { clinux_ignore(signal) }
