import Backends
import Buses
import DeviceKit
import GuestMemory
import Synchronization

/// A clock that moves when the test says so.
public final class ManualClock: MachineClock {
  private let time = Atomic<UInt64>(0)
  private let wall: Atomic<UInt64>

  /// `wallTime` is the wall clock at power-on, in nanoseconds since 1970.
  public init(wallTime: UInt64 = 1_700_000_000_000_000_000) { wall = Atomic(wallTime) }

  public var now: UInt64 { time.load(ordering: .relaxed) }
  public var wallTime: UInt64 { wall.load(ordering: .relaxed) + now }
  public func set(_ now: UInt64) { time.store(now, ordering: .relaxed) }
}

/// Records what reaches the interrupt controllers.
public final class RecordingInterrupts: InterruptSink {
  public struct Record: Sendable {
    /// Edges per input since the last `take`.
    public var pulses = [Int](repeating: 0, count: InterruptFabric.inputCount)
    public var levels = [Bool](repeating: false, count: InterruptFabric.inputCount)
    /// Of sources with shared registers, since the last `take`.
    public var triggers = [Int](repeating: 0, count: InterruptFabric.inputCount)
    /// Messages that were sent since the last `take`; nil where the source had no route.
    public var messages: [MSIMessage?] = []
  }

  /// A source that sends into the record.
  private final class Message: MessageInterrupt, @unchecked Sendable {
    private let route = Mutex<MSIMessage?>(nil)
    private unowned let owner: RecordingInterrupts

    init(_ owner: RecordingInterrupts) { self.owner = owner }
    override func route(_ message: MSIMessage) { route.withLock { $0 = message } }
    override func signal() {
      let message = route.withLock { $0 }
      owner.record.withLock { $0.messages.append(message) }
    }
  }

  private let record = Mutex(Record())

  public init() {}
  public func pulse(_ input: Int) { record.withLock { $0.pulses[input] += 1 } }
  public func setLevel(_ input: Int, _ asserted: Bool) { record.withLock { $0.levels[input] = asserted } }
  public func trigger(_ input: Int) { record.withLock { $0.triggers[input] += 1 } }

  public func messageInterrupt() -> MessageInterrupt? { Message(self) }

  /// Messages since the last call, in order.
  public func takeMessages() -> [MSIMessage?] {
    record.withLock { record in
      defer { record.messages = [] }
      return record.messages
    }
  }

  /// Edges on an input since the last call.
  public func takePulses(_ input: Int) -> Int {
    record.withLock { record in
      defer { record.pulses[input] = 0 }
      return record.pulses[input]
    }
  }
  /// Triggers of an input since the last call.
  public func takeTriggers(_ input: Int) -> Int {
    record.withLock { record in
      defer { record.triggers[input] = 0 }
      return record.triggers[input]
    }
  }
  public func level(_ input: Int) -> Bool { record.withLock { $0.levels[input] } }
}

/// Records machine events.
public final class RecordingEvents: MachineEvents {
  private let events = Mutex<[MachineEvent]>([])
  public init() {}
  public func post(_ event: MachineEvent) { events.withLock { $0.append(event) } }
  public func take() -> [MachineEvent] {
    events.withLock { events in
      defer { events = [] }
      return events
    }
  }
}

/// Records the part of the memory map that devices set.
public final class RecordingMapper: MemoryMapper {
  private let slots = Mutex<[MemoryMapping?]>([])
  public init() {}
  public func reserve() -> Int? {
    slots.withLock { slots in
      slots.append(nil)
      return slots.count - 1
    }
  }
  public func set(_ slot: Int, _ mapping: MemoryMapping?) { slots.withLock { $0[slot] = mapping } }
  /// What is mapped now.
  public var mappings: [MemoryMapping] { slots.withLock { $0.compactMap { $0 } } }
}

/// Workers that run on the thread that wakes them, and the places of their doorbells.
public final class InlineWorkers: DeviceWorkers {
  private final class Worker: DeviceWorker, @unchecked Sendable {
    private let work: @Sendable (_ mayPoll: Bool) -> WorkerState
    private let places: Places
    private let timer = Mutex<MachineTimer?>(nil)
    /// Wakes that are not yet answered; the first runs the work for all.
    private let waiting = Atomic<Int>(0)

    init(_ places: Places, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState) {
      self.places = places
      self.work = work
    }

    override func wake() {
      guard waiting.add(1, ordering: .sequentiallyConsistent).oldValue == 0 else { return }
      var seen = 1
      while true {
        while work(false) != .idle {}
        let left = waiting.subtract(seen, ordering: .sequentiallyConsistent).newValue
        if left == 0 { return }
        seen = left
      }
    }

    override func wake(at deadline: UInt64) {
      let timer = timer.withLock { timer in
        if timer == nil { timer = places.timers.withLock { $0 }?.timer { [unowned self] in wake() } }
        return timer
      }
      timer?.arm(at: deadline)
    }

    override func doorbell() -> Doorbell { Bell(self, places) }
  }

  private final class Bell: Doorbell, @unchecked Sendable {
    private let worker: Worker
    private let places: Places
    init(_ worker: Worker, _ places: Places) { (self.worker, self.places) = (worker, places) }

    override func place(at place: DoorbellPlace?) {
      places.bells.withLock { bells in
        bells = bells.filter { $0.value.bell !== self }
        if let place { bells[place] = (self, worker) }
      }
    }
  }

  private final class Places: Sendable {
    let bells = Mutex<[DoorbellPlace: (bell: Bell, worker: Worker)]>([:])
    let timers = Mutex<TimerQueue?>(nil)
  }

  private let places = Places()
  public init() {}

  /// What wakes workers at points of time.
  func use(_ timers: TimerQueue) { places.timers.withLock { $0 = timers } }

  public func worker(_ name: String, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState) -> DeviceWorker {
    Worker(places, work)
  }

  /// Where doorbells are now.
  public var doorbells: Set<DoorbellPlace> { places.bells.withLock { Set($0.keys) } }

  /// A guest write that the engine turns into a signal; false where there is no doorbell.
  @discardableResult
  public func ring(_ place: DoorbellPlace) -> Bool {
    guard let worker = places.bells.withLock({ $0[place]?.worker }) else { return false }
    worker.wake()
    return true
  }
}

/// Backends that a test hands to its devices.
public final class FakeResources: HostResources {
  private let blocks: [String: any BlockBackend]
  private let characters: [String: any CharacterBackend]
  private let networks: [String: any NetworkBackend]
  private let sockets: (any VsockBackend)?
  private let files: [String: [UInt8]]

  public init(
    blocks: [String: any BlockBackend] = [:], characters: [String: any CharacterBackend] = [:],
    networks: [String: any NetworkBackend] = [:], vsock: (any VsockBackend)? = nil, files: [String: [UInt8]] = [:]
  ) {
    self.blocks = blocks
    self.characters = characters
    self.networks = networks
    sockets = vsock
    self.files = files
  }

  public func block(_ id: String) -> (any BlockBackend)? { blocks[id] }
  public func character(_ id: String) -> (any CharacterBackend)? { characters[id] }
  public func network(_ id: String) -> (any NetworkBackend)? { networks[id] }
  public func vsock() -> (any VsockBackend)? { sockets }
  public func file(_ name: String) -> [UInt8]? { files[name] }
}

/// A board without engine or processes: RAM at zero, recorded interrupts and events, a clock by hand.
// Safety: RAM and device memory are allocated with the board and freed with it; tests keep it alive.
public final class FakeBoard: @unchecked Sendable {
  public let board: Board
  public let clock = ManualClock()
  public let interrupts = RecordingInterrupts()
  public let events = RecordingEvents()
  public let mapper = RecordingMapper()
  public let workers = InlineWorkers()
  private let ram: UnsafeMutableRawBufferPointer
  private let deviceMemory: UnsafeMutableRawBufferPointer

  /// `memory`: RAM that the test owns, in place of `ramSize` bytes of the board's own.
  public init(
    ramSize: Int = 4 << 20, deviceMemorySize: Int = 17 << 20, resources: FakeResources = FakeResources(),
    memory: GuestMemory? = nil, mmio: AddressSpace = .mmio()
  ) {
    ram = .allocate(byteCount: ramSize, alignment: 4096)
    ram.initializeMemory(as: UInt8.self, repeating: 0)
    deviceMemory = .allocate(byteCount: deviceMemorySize, alignment: 4096)
    deviceMemory.initializeMemory(as: UInt8.self, repeating: 0)
    let region = RAMRegion(guestAddress: 0, count: ramSize, fileOffset: 0, host: ram.baseAddress!)
    board = Board(
      memory: memory ?? GuestMemory([region]), mmio: mmio, interrupts: InterruptFabric(sink: interrupts),
      timers: TimerQueue(clock: clock),
      events: events, mapper: mapper, resources: resources, workers: workers, deviceMemory: deviceMemory)
    workers.use(board.timers)
  }

  deinit {
    ram.deallocate()
    deviceMemory.deallocate()
  }

  /// Moves guest time on, calling timers back at their own deadlines.
  public func advance(nanoseconds: UInt64) {
    let end = clock.now + nanoseconds
    while let next = board.timers.nextDeadline, next <= end {
      clock.set(max(next, clock.now))
      board.timers.runDue()
    }
    clock.set(end)
  }

  public func inb(_ port: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: board.ports.read(port, .byte)) }
  public func inw(_ port: UInt64) -> UInt16 { UInt16(truncatingIfNeeded: board.ports.read(port, .word)) }
  public func inl(_ port: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: board.ports.read(port, .dword)) }
  public func outb(_ port: UInt64, _ value: UInt8) { board.ports.write(port, .byte, UInt64(value)) }
  public func outw(_ port: UInt64, _ value: UInt16) { board.ports.write(port, .word, UInt64(value)) }
  public func outl(_ port: UInt64, _ value: UInt32) { board.ports.write(port, .dword, UInt64(value)) }
}
