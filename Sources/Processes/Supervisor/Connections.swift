import Engines
import LinuxSystem
import Sandbox
import Synchronization

/// The message interrupts and doorbells of the engine, as devices ask for them in the connection table.
final class Connections<Machine: VirtualMachine>: Sendable {
  private struct Message: Sendable {
    let event: SharedEvent
    var sequence: UInt32 = 0
  }

  private struct Bell: Sendable {
    let event: SharedEvent
    var sequence: UInt32 = 0
    var place: DoorbellAddress?
    /// The number of the shared registers that ring it.
    var registers: Int?
  }

  private struct State: Sendable {
    var messages: [Int: Message] = [:]
    /// By their numbers, which devices take from 0 up.
    var bells: [Bell?] = []
  }

  private let machine: Machine
  private let table: ConnectionTable
  private let registers: RegisterAccess
  private let state = Mutex(State())
  /// The table's changes that the engine has.
  private let applied = Atomic<UInt32>(0)

  init(_ machine: Machine, table: ConnectionTable, registers: RegisterAccess) {
    self.machine = machine
    self.table = table
    self.registers = registers
  }

  /// The eventfd of a message interrupt. False: there is no such number, or it is taken.
  func add(message index: Int, _ event: SharedEvent) throws(EngineFailure) -> Bool {
    guard index < ConnectionTable.messageCount, state.withLock({ $0.messages[index] == nil }) else { return false }
    try machine.connect(message: index, event: event.event)
    state.withLock { $0.messages[index] = Message(event: event) }
    return true
  }

  /// The eventfd of a doorbell, as `add(message:_:)`.
  func add(doorbell index: Int, _ event: SharedEvent) -> Bool {
    guard index < ConnectionTable.doorbellCount else { return false }
    return state.withLock { state in
      while state.bells.count <= index { state.bells.append(nil) }
      guard state.bells[index] == nil else { return false }
      state.bells[index] = Bell(event: event)
      return true
    }
  }

  /// Brings the engine in line with the table.
  func update() throws(EngineFailure) {
    guard applied.load(ordering: .acquiring) != table.changes else { return }
    try state.withLock { state in
      // What changes from here on is seen by the next update.
      let changes = table.changes
      let result = Result { () throws(EngineFailure) in
        moveBells(&state)
        try route(&state)
      }
      applied.store(changes, ordering: .releasing)
      return result
    }.get()
  }

  private func route(_ state: inout State) throws(EngineFailure) {
    var changes: [MessageRoute] = []
    for (index, message) in state.messages {
      guard let (sequence, route) = table.route(message: index), sequence != message.sequence else { continue }
      state.messages[index]?.sequence = sequence
      changes.append(MessageRoute(index: index, address: route.address, data: route.data))
    }
    guard !changes.isEmpty else { return }
    try machine.route(changes)
    for change in changes {
      guard let message = state.messages[change.index] else { continue }
      if table.applied(message: change.index, sequence: message.sequence) { message.event.event.signal() }
    }
  }

  /// Doorbells that leave their place go first: another may take it.
  private func moveBells(_ state: inout State) {
    var moved: [(index: Int, place: DoorbellAddress)] = []
    for index in state.bells.indices {
      guard let bell = state.bells[index], let (sequence, shared) = table.place(doorbell: index),
        sequence != bell.sequence
      else { continue }
      state.bells[index]?.sequence = sequence
      if let old = bell.registers { registers.setBell(old, nil) }
      state.bells[index]?.registers = nil
      if case .sharedRegisters(let number) = shared {
        state.bells[index]?.registers = Int(number)
        registers.setBell(Int(number), bell.event)
      }
      let place: DoorbellAddress? =
        switch shared {
        case nil, .sharedRegisters: nil
        case .port(let port): .port(port)
        case .memory(let address): .memory(address)
        case .register(let address, let value): .register(address, value: value)
        }
      guard place != bell.place else { continue }
      if let old = bell.place { try? machine.disconnect(doorbell: old, event: bell.event.event) }
      state.bells[index]?.place = nil
      if let place { moved.append((index, place)) }
    }
    for (index, place) in moved {
      guard let bell = state.bells[index] else { continue }
      // Where the engine refuses, as for two at one address, the guest's writes arrive on the bus.
      guard (try? machine.connect(doorbell: place, event: bell.event.event)) != nil else { continue }
      state.bells[index]?.place = place
    }
  }
}
