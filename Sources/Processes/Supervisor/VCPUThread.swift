import Engines
import LinuxSystem
import Sandbox
import Synchronization

/// Why a vCPU thread cannot go on; the supervisor decides what becomes of the machine.
enum VCPUReport: Sendable {
  case tripleFault
  case failure(EngineFailure)
  /// The device process no longer answers.
  case deviceProcessGone
}

/// What vCPU threads tell the supervisor, which waits on `event`.
final class VCPUReports: Sendable {
  let event: EventDescriptor
  private let reports = Mutex<[VCPUReport]>([])

  init() throws(SystemError) { event = try EventDescriptor() }

  func post(_ report: VCPUReport) {
    reports.withLock { $0.append(report) }
    event.signal()
  }

  func take() -> VCPUReport? {
    _ = event.drain()
    return reports.withLock { $0.isEmpty ? nil : $0.removeFirst() }
  }
}

/// Where a vCPU thread's forbidden system call is recorded; the thread itself never returns from it.
final class ThreadViolations: Sendable {
  let event: SharedEvent
  // Safety: allocated once and never freed: the signal handler may write it until the process ends.
  nonisolated(unsafe) let word: UnsafeMutablePointer<Atomic<UInt64>>

  init() throws(SystemError) {
    event = try SharedEvent()
    word = .allocate(capacity: 1)
    word.initialize(to: Atomic(0))
  }

  /// The name of the call, when there was one.
  var callName: String? { Violation.callName(word.pointee.load(ordering: .acquiring)) }
}

/// Counts the events of the device process that the supervisor has acted on.
final class HandledEvents: Sendable {
  // Safety: allocated once and never freed: vCPU threads may wait on it until the process ends.
  private nonisolated(unsafe) let word: UnsafeMutablePointer<Atomic<UInt32>>

  init() {
    word = .allocate(capacity: 1)
    word.initialize(to: Atomic(0))
  }

  var count: UInt32 { word.pointee.load(ordering: .acquiring) }

  func add() {
    word.pointee.add(1, ordering: .acquiringAndReleasing)
    Futex.wake(word, count: .max)
  }

  /// Wakes those who wait, for another reason than an event.
  func wakeAll() { Futex.wake(word, count: .max) }

  /// Waits while `count` events have been handled; at most a tenth of a second, for the caller looks at the gate, too.
  func wait(while count: UInt32) { Futex.wait(word, while: count, nanoseconds: 100_000_000) }
}

/// Where the bootstrap processor begins when the machine starts or resets.
final class StartPlace: Sendable {
  private let place = Mutex(StartState.resetVector)

  var state: StartState {
    get { place.withLock { $0 } }
    set { place.withLock { $0 = newValue } }
  }
}

/// The thread of one vCPU: runs guest code and carries its bus accesses to the device process.
final class VCPUThread<Machine: VirtualMachine>: Sendable {
  let cpu: Machine.CPU
  private let index: Int
  private let mailbox: MailboxClient
  private let page: MachinePage
  private let map: GuestMap<Machine>
  private let registers: RegisterAccess
  private let connections: Connections<Machine>
  private let gate: VCPUGate
  private let handled: HandledEvents
  private let reports: VCPUReports
  /// Nil: this is not the bootstrap processor.
  private let start: StartPlace?

  init(
    _ index: Int, _ cpu: Machine.CPU, mailbox: MailboxClient, page: MachinePage, map: GuestMap<Machine>,
    registers: RegisterAccess, connections: Connections<Machine>, gate: VCPUGate, handled: HandledEvents,
    reports: VCPUReports, start: StartPlace?
  ) {
    self.index = index
    self.cpu = cpu
    self.mailbox = mailbox
    self.page = page
    self.map = map
    self.registers = registers
    self.connections = connections
    self.gate = gate
    self.handled = handled
    self.reports = reports
    self.start = start
  }

  /// Starts the thread, which does nothing unless `confine` succeeds.
  func start(confine: @escaping @Sendable () -> Bool) throws(SystemError) {
    _ = try HostThread("vcpu\(index)") { [self] in if confine() { loop() } else { park() } }
  }

  private func loop() {
    var gateWord: UInt32 = 0
    var attention: UInt32 = 0
    while true {
      let word = gate.word
      if word != gateWord {
        gateWord = word
        guard obey(word) else { return }
        continue
      }
      let current = page.attention
      if current != attention {
        attention = current
        attend(gateWord)
        continue
      }
      guard handle(cpu.run(.run)) else {
        park()
        return
      }
    }
  }

  /// Stands still until the supervisor, which was told why, ends the machine.
  private func park() {
    while true {
      let word = gate.word
      switch VCPUGate.command(in: word) {
      // Not counted: the count may already be that of the next command.
      case .run: gate.wait(while: word)
      case .pause, .reset: gate.arrive(word)
      case .stop: return
      }
    }
  }

  /// Carries out a gate command; false: the thread ends.
  private func obey(_ word: UInt32) -> Bool {
    switch VCPUGate.command(in: word) {
    case .run: return true
    case .pause:
      _ = cpu.run(.finish)
      mailbox.flush()
      gate.arrive(word)
      return true
    case .reset:
      mailbox.flush()
      do throws(EngineFailure) {
        try cpu.reset()
        if let start { try cpu.begin(at: start.state) }
      } catch {
        reports.post(.failure(error))
      }
      gate.arrive(word)
      return true
    case .stop: return false
    }
  }

  /// The map or connections may have changed, and events must have been acted on before the guest goes on.
  private func attend(_ gateWord: UInt32) {
    map.update()
    do throws(EngineFailure) {
      try connections.update()
    } catch {
      reports.post(.failure(error))
    }
    let posted = page.postedEvents
    while gate.word == gateWord {
      let count = handled.count
      // Modular comparison: the counters wrap.
      guard Int32(bitPattern: posted &- count) > 0 else { return }
      handled.wait(while: count)
    }
  }

  /// Answers an exit; false: this vCPU cannot go on.
  @inline(__always)
  private func handle(_ exit: Exit) -> Bool {
    switch exit {
    case .portIn(let port, let width, let count, let data):
      return access(.portRead, UInt64(port), width, count, data)
    case .portOut(let port, let width, let count, let data):
      return access(.portWrite, UInt64(port), width, count, UnsafeMutableRawPointer(mutating: data))
    case .mmioRead(let address, let width, let data): return memory(.memoryRead, address, width, data)
    case .mmioWrite(let address, let width, let data):
      return memory(.memoryWrite, address, width, UnsafeMutableRawPointer(mutating: data))
    case .interrupted, .halt: return true
    case .tripleFault:
      mailbox.flush()
      reports.post(.tripleFault)
      return false
    case .failure(let failure):
      mailbox.flush()
      reports.post(.failure(failure))
      return false
    }
  }

  @inline(__always)
  private func access(
    _ operation: MailboxOperation, _ address: UInt64, _ width: Int, _ count: Int, _ data: UnsafeMutableRawPointer
  ) -> Bool {
    let fits = Mailbox.capacity / width
    if count == 1 {
      let isDone =
        switch operation {
        case .portRead, .memoryRead:
          registers.read(address, width: width, isPort: operation == .portRead, into: data)
        case .portWrite, .memoryWrite: registers.write(operation, address, width: width, data: data, mailbox)
        case .flush: false
        }
      if isDone { return true }
    }
    if count <= fits {
      if mailbox.access(operation, address, width: width, items: count, data: data) { return true }
    } else {
      var done = 0
      while done < count {
        let items = min(fits, count - done)
        guard mailbox.access(operation, address, width: width, items: items, data: data + done * width) else { break }
        done += items
      }
      if done == count { return true }
    }
    reports.post(.deviceProcessGone)
    return false
  }

  /// A memory access; one of an odd width, such as a store across the end of RAM, goes byte by byte.
  @inline(__always)
  private func memory(
    _ operation: MailboxOperation, _ address: UInt64, _ width: Int, _ data: UnsafeMutableRawPointer
  ) -> Bool {
    if width.nonzeroBitCount == 1 { return access(operation, address, width, 1, data) }
    for index in 0..<width {
      guard access(operation, address &+ UInt64(index), 1, 1, data + index) else { return false }
    }
    return true
  }
}
