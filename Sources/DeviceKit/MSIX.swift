import Buses
import Synchronization

/// The MSI-X vectors of a PCI function: the table that the guest writes, joined to the board's message interrupts.
///
/// Made before the function, which gives its capability to the configuration space and maps the table's BAR.
// Safety: the table is guarded by its lock, `vectors` is written once; a slot's `isOpen` is atomic.
public final class MSIX: BusTarget, @unchecked Sendable {
  private struct Vector: ~Copyable {
    /// The vector may send, and what it sends is routed.
    let isOpen = Atomic<Bool>(false)
    let interrupt: MessageInterrupt

    init(_ interrupt: MessageInterrupt) { self.interrupt = interrupt }
  }

  private struct State {
    var table: MSIXTable
    /// What each vector's interrupt was last routed to.
    var routes: [MSIMessage?]
  }

  // Safety: allocated and initialised for `count` vectors for the life of the object.
  private let vectors: UnsafeMutablePointer<Vector>
  public let count: Int
  private let state: Mutex<State>
  /// Whether the guest has turned MSI-X on, so that the function must not use its pin (PCI 3.0 §6.8.2.3).
  private let enabled = Atomic<Bool>(false)

  /// `count` vectors, 1 to 2048.
  public init(vectors count: Int, board: Board) throws(DeviceError) {
    var interrupts: [MessageInterrupt] = []
    for _ in 0..<count {
      guard let interrupt = board.interrupts.message() else {
        throw DeviceError("no message interrupts are left for \(count) MSI-X vectors; use fewer devices or queues")
      }
      interrupts.append(interrupt)
    }
    vectors = .allocate(capacity: count)
    for (index, interrupt) in interrupts.enumerated() { (vectors + index).initialize(to: Vector(interrupt)) }
    self.count = count
    state = Mutex(State(table: MSIXTable(vectors: count), routes: Array(repeating: nil, count: count)))
  }

  deinit {
    vectors.deinitialize(count: count)
    vectors.deallocate()
  }

  /// The table as it is, for the capability that describes it.
  public var table: MSIXTable { state.withLock { $0.table } }

  public var isEnabled: Bool { enabled.load(ordering: .acquiring) }

  /// Sends the vector's message, or remembers it while the vector is masked. A vector that there is not sends nothing.
  public func signal(_ vector: Int) {
    guard vector >= 0, vector < count else { return }
    if vectors[vector].isOpen.load(ordering: .acquiring) { return vectors[vector].interrupt.signal() }
    let isOpen = state.withLock { state -> Bool in
      if state.table.isOpen(vector) { return true }
      state.table.setPending(vector)
      return false
    }
    if isOpen { vectors[vector].interrupt.signal() }
  }

  public override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 {
    state.withLock { $0.table.read(offset, width) }
  }

  public override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    state.withLock { state in
      guard let vector = state.table.write(offset, width, value) else { return }
      follow(vector, &state)
    }
  }

  /// The configuration space may have changed.
  func configure(_ control: MSIXTable.Control, isBusMaster: Bool) {
    state.withLock { state in
      guard control != state.table.control || isBusMaster != state.table.isBusMaster else { return }
      state.table.control = control
      state.table.isBusMaster = isBusMaster
      enabled.store(control.contains(.enable), ordering: .releasing)
      for vector in 0..<count { follow(vector, &state) }
    }
  }

  /// Power-on state; the configuration space is reset beside it.
  func reset() {
    state.withLock { state in
      state.table.reset()
      enabled.store(false, ordering: .releasing)
      for vector in 0..<count { follow(vector, &state) }
    }
  }

  private func follow(_ vector: Int, _ state: inout State) {
    guard state.table.isOpen(vector) else { return vectors[vector].isOpen.store(false, ordering: .releasing) }
    let message = state.table.message(vector)
    if state.routes[vector] != message {
      state.routes[vector] = message
      vectors[vector].interrupt.route(message)
    }
    vectors[vector].isOpen.store(true, ordering: .releasing)
    if state.table.takePending(vector) { vectors[vector].interrupt.signal() }
  }
}
