import LinuxSystem

/// The user's keys on their way to the guest: takes out the Ctrl-A commands.
struct EscapeFilter {
  enum Command: Equatable {
    case quit
    case help
  }

  private static let escape: UInt8 = 0x01
  private var isEscaped = false

  /// Splits input into what goes to the guest and the commands in it, in order.
  mutating func filter(_ input: some Sequence<UInt8>) -> (forGuest: [UInt8], commands: [Command]) {
    var forGuest: [UInt8] = []
    var commands: [Command] = []
    for byte in input {
      guard isEscaped else {
        if byte == Self.escape { isEscaped = true } else { forGuest.append(byte) }
        continue
      }
      isEscaped = false
      switch byte {
      case Self.escape, UInt8(ascii: "a"): forGuest.append(Self.escape)
      case UInt8(ascii: "x"): commands.append(.quit)
      default: commands.append(.help)
      }
    }
    return (forGuest, commands)
  }

  static let help = """
    \r
    Ctrl-A x       ends the machine\r
    Ctrl-A h       prints this help\r
    Ctrl-A Ctrl-A  sends Ctrl-A to the guest\r

    """
}

/// Carries standard input to the serial port that is connected to it.
struct InputPump: ~Copyable {
  /// The write end of the pipe whose read end the device process has.
  private let pipe: Descriptor
  private var filter = EscapeFilter()
  private var backlog: [UInt8] = []
  private var isOpen = true
  private let isTerminal: Bool

  /// What a person may type ahead of a guest that does not read. More is lost, so that the commands are always seen.
  private static let typeAhead = 64 << 10

  init(pipe: consuming Descriptor, isTerminal: Bool) {
    self.pipe = pipe
    self.isTerminal = isTerminal
  }

  /// What to wait for: first the user's input, then room in the pipe while something is held back.
  var interests: [PollEntry] {
    let wantsInput = isOpen && (isTerminal || backlog.isEmpty)
    return [
      PollEntry(wantsInput ? StandardStream.input.rawValue : -1, .readable),
      PollEntry(backlog.isEmpty ? -1 : pipe.raw, .writable),
    ]
  }

  /// Moves what there is and returns the commands in it. `hasInput` is whether the user's input was ready.
  mutating func pump(hasInput: Bool) -> [EscapeFilter.Command] {
    if !backlog.isEmpty { flush() }
    guard hasInput else { return [] }
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try StandardStream.input.read(limit: 4096)
    } catch {
      isOpen = error.errno == ErrorNumber.again
      return []
    }
    guard !bytes.isEmpty else {
      isOpen = false
      return []
    }
    guard isTerminal else {
      backlog = bytes
      flush()
      return []
    }
    let (forGuest, commands) = filter.filter(bytes)
    backlog += forGuest.prefix(Self.typeAhead - backlog.count)
    if !backlog.isEmpty { flush() }
    return commands
  }

  private mutating func flush() {
    do throws(SystemError) {
      let count = try backlog.withUnsafeBytes { buffer in Result { () throws(SystemError) in try pipe.write(buffer) } }
        .get()
      backlog.removeFirst(count)
    } catch {
      guard error.errno != ErrorNumber.again else { return }
      // Nobody reads any more; the commands of a terminal still count.
      backlog = []
      isOpen = isTerminal
    }
  }
}
