import Buses
import DeviceKit
import GuestMemory
import Synchronization

/// How a device reaches its driver; made by the transport. Any thread, with locks held: it must not call back.
// Safety: the base holds no state; each subclass restates the promise.
open class VirtioInterrupts: @unchecked Sendable {
  public init() {}
  /// Buffers of the queue were used (virtio 1.2 §2.3).
  open func used(queue: Int) {}
  /// The configuration space or the status changed (§2.4).
  open func configurationChanged() {}
}

/// A virtio device without its transport: features, configuration space, queues and their service.
///
/// To add a device: make a subclass in a folder of its own beside `Block/`; give `super.init` its kind, features, queues
/// and configuration space; override `process` (take chains from `queues[index]`, `put` them back), `start` where a
/// backend calls the device, and `activate`, `configurationWritten`, `quiesce` and `released` where there is something to
/// do. A `VirtioModel` in the same folder makes it, for either transport; list that model in Catalog.swift.
///
/// Work is done by groups of queues. Each group has a worker (a thread of its own) and a lock: `process`, `service`,
/// `activate` and `released` are called with the group's lock held, one at a time, so state that only they touch needs
/// no other. What comes back from a backend on another thread is put where `service` finds it, and `wake` makes the
/// worker look. No virtqueue is touched anywhere else.
// Safety: `control` and the groups' locks guard everything that changes; `queues` is allocated once, and each element
// is used under the lock of its group.
open class VirtioDevice: @unchecked Sendable {
  /// A queue as the device has it.
  public struct QueueSpec: Sendable {
    /// Largest size, a power of two; also the size that legacy drivers get.
    public let size: UInt16
    public let group: Int

    public init(size: UInt16, group: Int = 0) {
      self.size = size
      self.group = group
    }
  }

  /// A queue as the driver has set it up.
  struct QueueState: Sendable {
    var layout: VirtqueueLayout
    var isEnabled = false
  }

  struct Control: Sendable {
    var status: VirtioStatus = []
    var features: VirtioFeatures = []
    var queues: [QueueState]
    var configuration: [UInt8]
    var generation: UInt8 = 0
  }

  private final class Group: Sendable {
    let lock = Mutex<Bool>(false)
    let worker: DeviceWorker
    let queues: [Int]
    init(_ worker: DeviceWorker, _ queues: [Int]) { (self.worker, self.queues) = (worker, queues) }
  }

  public let id: String
  public let kind: VirtioKind
  public let memory: GuestMemory
  /// The device's own features and those of the rings, as offered.
  public let features: VirtioFeatures
  public let specs: [QueueSpec]
  public let queues: VirtqueueSet
  /// What the driver accepted; set when the device is activated.
  public private(set) var accepted: VirtioFeatures = []

  let control: Mutex<Control>
  private var groups: [Group] = []
  private let isBroken = Atomic<Bool>(false)
  private let fault = Mutex<VirtqueueFault?>(nil)
  private var interrupts = VirtioInterrupts()
  private let powerOnConfiguration: [UInt8]

  /// `features` are the device's own bits; `configuration` its configuration space at power-on.
  public init(
    id: String, kind: VirtioKind, features: VirtioFeatures, queues specs: [QueueSpec], configuration: [UInt8],
    board: Board
  ) throws(DeviceError) {
    self.id = id
    self.kind = kind
    self.features = features.union(.ring)
    self.specs = specs
    memory = board.memory
    powerOnConfiguration = configuration
    queues = VirtqueueSet(count: specs.count, memory: board.memory)
    control = Mutex(
      Control(
        queues: specs.map { QueueState(layout: VirtqueueLayout(size: $0.size)) }, configuration: configuration))
    for number in 0...(specs.map(\.group).max() ?? 0) {
      let worker = try board.workers.worker(number == 0 ? id : "\(id)-\(number)") { [unowned self] mayPoll in
        serve(number, mayPoll: mayPoll)
      }
      groups.append(Group(worker, specs.indices.filter { specs[$0].group == number }))
    }
  }

  // MARK: What a device overrides

  /// The driver is ready: `accepted` and the enabled queues are valid. All groups' locks are held.
  open func activate() {}

  /// Takes what is available in the queue and gives used buffers back. False: nothing was there to do.
  open func process(_ queue: Int) throws(VirtqueueFault) -> Bool { false }

  /// Whether `process` has something to do once the driver has made buffers available in the queue. Where it has not, as
  /// with receive buffers while no frame waits for them, the driver need not notify. The group's lock is held.
  open func wantsBuffers(_ queue: Int) -> Bool { true }

  /// Looks at what others have put there for the group, such as completions. False: there was nothing.
  open func service(group: Int) throws(VirtqueueFault) -> Bool { false }

  /// For how long it is worth to look for more. The group's lock is held.
  open var pollingTime: PollingTime { .short }

  /// The driver wrote these bytes of the configuration space, which has them already. No lock is held.
  open func configurationWritten(_ range: Range<Int>) {}

  /// Whether the driver may change the byte of the configuration space.
  open func isWritable(configuration offset: Int) -> Bool { false }

  /// Returns when nothing that was taken from any queue touches guest memory any more. Nothing new is taken meanwhile.
  /// No lock is held.
  open func quiesce() {}

  /// The queue (nil: every queue and the device) is reset: forget what was taken from it.
  open func released(_ queue: Int?) {}

  // MARK: What a device calls

  /// Lets `service` and `process` of the group run soon. Any thread.
  public func wake(group: Int = 0) { groups[group].worker.wake() }

  /// Does work on a queue on the calling thread, as `process` does on the worker's: with the lock of its group held, and
  /// telling the driver of what was given back. Does nothing while the device does not run.
  public func perform(queue: Int, _ body: () throws(VirtqueueFault) -> Void) {
    groups[specs[queue].group].lock.withLock { isRunning in
      guard isRunning, !isBroken.load(ordering: .relaxed) else { return }
      do throws(VirtqueueFault) {
        try body()
      } catch {
        fail(error)
      }
      if queues[queue].publish() { interrupts.used(queue: queue) }
    }
  }

  /// Changes the configuration space from the device's side; `notify` tells the driver (§2.5.2).
  public func changeConfiguration(notify: Bool = true, _ body: (inout [UInt8]) -> Void) {
    let isRunning = control.withLock { control -> Bool in
      body(&control.configuration)
      control.generation &+= 1
      return control.status.contains(.driverOK)
    }
    if notify, isRunning { interrupts.configurationChanged() }
  }

  /// The configuration space as it is now.
  public var configuration: [UInt8] { control.withLock { $0.configuration } }

  // MARK: Service

  private func serve(_ number: Int, mayPoll: Bool) -> WorkerState {
    let group = groups[number]
    return group.lock.withLock { isRunning in
      guard isRunning, !isBroken.load(ordering: .relaxed) else { return .idle }
      do throws(VirtqueueFault) {
        if try turn(number, group.queues) { return .busy }
        if mayPoll { return .polling(pollingTime) }
        for index in group.queues where waits(index) { queues[index].setNotifications(true) }
        for index in group.queues where waits(index) && queues[index].hasAvailable { return .busy }
        return .idle
      } catch {
        fail(error)
        return .idle
      }
    }
  }

  private func waits(_ index: Int) -> Bool { queues[index].isOpen && wantsBuffers(index) }

  /// One look at everything. False: there was nothing to do.
  private func turn(_ number: Int, _ indices: [Int]) throws(VirtqueueFault) -> Bool {
    var worked = try service(group: number)
    // The driver may go on with what came back while more is begun.
    if worked { publish(indices) }
    for index in indices where queues[index].isOpen && queues[index].hasAvailable && wantsBuffers(index) {
      queues[index].setNotifications(false)
      if try process(index) { worked = true }
    }
    publish(indices)
    return worked
  }

  private func publish(_ indices: [Int]) {
    for index in indices where queues[index].isOpen && queues[index].publish() { interrupts.used(queue: index) }
  }

  /// The driver broke the rules: the device stops until it is reset (§2.1.2).
  private func fail(_ fault: VirtqueueFault) {
    self.fault.withLock { $0 = fault }
    guard !isBroken.exchange(true, ordering: .sequentiallyConsistent) else { return }
    interrupts.configurationChanged()
  }

  /// Why the device needs a reset, for tests.
  public var lastFault: VirtqueueFault? { fault.withLock { $0 } }

  // MARK: What a transport calls

  /// Once, before the driver can reach the device.
  func connect(_ interrupts: VirtioInterrupts) { self.interrupts = interrupts }

  /// The workers' doorbells, by group.
  func doorbells() -> [Doorbell] { groups.map { $0.worker.doorbell() } }
  func doorbell(group: Int) -> Doorbell { groups[group].worker.doorbell() }

  var groupCount: Int { groups.count }

  /// The driver has made buffers available in some queue of the group.
  func notify(group: Int) { if groups.indices.contains(group) { groups[group].worker.wake() } }

  func notify(queue: Int) { if specs.indices.contains(queue) { notify(group: specs[queue].group) } }

  var status: VirtioStatus {
    let status = control.withLock { $0.status }
    return isBroken.load(ordering: .acquiring) ? status.union(.needsReset) : status
  }

  /// The driver's write of the status field; zero resets (§2.1.1). `offered` is what the transport let the driver see,
  /// `requires` what the driver must accept.
  func setStatus(_ value: VirtioStatus, offered: VirtioFeatures, requires: VirtioFeatures) {
    guard !value.isEmpty else { return reset() }
    let starts = control.withLock { control -> Bool in
      var value = value.subtracting(.needsReset)
      // §2.2.2: features that were not offered, or fewer than it takes, are refused by not keeping FEATURES_OK.
      if value.contains(.featuresOK), !control.status.contains(.featuresOK),
        !control.features.isSubset(of: offered) || !control.features.isSuperset(of: requires)
      {
        value.remove(.featuresOK)
      }
      let starts = value.contains(.driverOK) && !control.status.contains(.driverOK)
      control.status = value
      return starts
    }
    if starts { begin() }
  }

  /// The driver has set DRIVER_OK (§3.1.1): its queues are served from now on.
  private func begin() {
    let (features, states) = control.withLock { ($0.features, $0.queues) }
    withAllGroups { [self] in
      accepted = features
      for (index, state) in states.enumerated() where state.isEnabled { open(index, state.layout) }
      activate()
    }
    for group in groups { group.lock.withLock { $0 = true } }
    // The driver may have made buffers available before.
    for group in groups { group.worker.wake() }
  }

  private func open(_ index: Int, _ layout: VirtqueueLayout) {
    guard layout.size <= specs[index].size, let queue = Virtqueue(memory, layout, accepted) else { return fail(.ring) }
    queues.open(index, queue)
  }

  private func withAllGroups(_ body: () -> Void) { withGroups(groups[...], body) }

  private func withGroups(_ rest: ArraySlice<Group>, _ body: () -> Void) {
    guard let first = rest.first else { return body() }
    first.lock.withLock { _ in withGroups(rest.dropFirst(), body) }
  }

  /// Everything goes back to power-on. Returns when the device no longer touches guest memory.
  func reset() {
    stop()
    withAllGroups { [self] in
      for index in specs.indices { queues.close(index) }
      accepted = []
      released(nil)
      isBroken.store(false, ordering: .sequentiallyConsistent)
      fault.withLock { $0 = nil }
    }
    control.withLock { control in
      control.status = []
      control.features = []
      control.queues = specs.map { QueueState(layout: VirtqueueLayout(size: $0.size)) }
    }
  }

  /// As `reset`, and the configuration space too.
  func powerOn() {
    reset()
    control.withLock { $0.configuration = powerOnConfiguration }
  }

  /// As `Device.start`; the driver may have set nothing up yet.
  open func start() {}

  /// Takes nothing more, and waits for what was taken.
  func stop() {
    for group in groups { group.lock.withLock { $0 = false } }
    quiesce()
  }

  /// The driver has set the queue up (§4.1.4.3): takes effect at DRIVER_OK, or at once after it.
  func enable(queue index: Int) {
    let layout = control.withLock { control -> VirtqueueLayout? in
      guard control.queues.indices.contains(index), !control.queues[index].isEnabled else { return nil }
      control.queues[index].isEnabled = true
      return control.status.contains(.driverOK) ? control.queues[index].layout : nil
    }
    guard let layout else { return }
    let group = groups[specs[index].group]
    group.lock.withLock { _ in open(index, layout) }
    group.worker.wake()
  }

  /// Puts one queue back to power-on (§2.6.1). Returns when the device no longer touches its buffers.
  func reset(queue index: Int) {
    guard specs.indices.contains(index) else { return }
    let group = groups[specs[index].group]
    let wasRunning = group.lock.withLock { isRunning in
      defer { isRunning = false }
      return isRunning
    }
    quiesce()
    group.lock.withLock { isRunning in
      released(index)
      queues.close(index)
      isRunning = wasRunning
    }
    control.withLock { $0.queues[index] = QueueState(layout: VirtqueueLayout(size: specs[index].size)) }
    group.worker.wake()
  }

  /// Reads the configuration space; beyond its end there is nothing but zeros.
  func readConfiguration(_ offset: Int, _ count: Int) -> UInt64 {
    control.withLock { control in
      var value: UInt64 = 0
      for index in 0..<count where offset &+ index < control.configuration.count {
        value |= UInt64(control.configuration[offset &+ index]) << UInt64(index * 8)
      }
      return value
    }
  }

  func writeConfiguration(_ offset: Int, _ count: Int, _ value: UInt64) {
    let isChanged = control.withLock { control -> Bool in
      var isChanged = false
      for index in 0..<count where offset + index < control.configuration.count {
        guard isWritable(configuration: offset + index) else { continue }
        control.configuration[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        isChanged = true
      }
      return isChanged
    }
    if isChanged { configurationWritten(offset..<offset + count) }
  }
}
