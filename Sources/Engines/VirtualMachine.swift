import Buses
import LinuxSystem

/// How to enter a vCPU.
public enum Entry: Sendable {
  /// Go on with the guest.
  case run
  /// Only finish the access that the last exit reported; execute nothing more.
  case finish
}

/// Host memory to be shown to the guest.
// Safety: `host` stays mapped for `size` bytes as long as the machine lives.
public struct HostMapping: @unchecked Sendable, Equatable {
  public let guestAddress: UInt64
  public let size: UInt64
  public let host: UnsafeMutableRawPointer
  public let readOnly: Bool

  public init(guestAddress: UInt64, size: UInt64, host: UnsafeMutableRawPointer, readOnly: Bool) {
    self.guestAddress = guestAddress
    self.size = size
    self.host = host
    self.readOnly = readOnly
  }
}

/// Guest address of a doorbell.
public enum DoorbellAddress: Sendable, Hashable {
  case port(UInt16)
  case memory(UInt64)
  /// Only writes of 32 bits with this value ring it.
  case register(UInt64, value: UInt32)
}

/// What a message interrupt sends: a write of `data` to `address`, at which local APICs listen (0xFEE00000–0xFEEFFFFF).
public struct MessageRoute: Sendable, Equatable {
  /// Number of the message interrupt.
  public let index: Int
  public let address: UInt64
  public let data: UInt32

  public init(index: Int, address: UInt64, data: UInt32) {
    self.index = index
    self.address = address
    self.data = data
  }
}

/// One virtual processor. `run` and `reset` belong to the thread that drives it; `kick` to any thread.
public protocol VCPU: AnyObject, Sendable {
  /// Runs guest code until something happens that the engine does not handle itself.
  func run(_ entry: Entry) -> Exit
  /// Makes `run` return `.interrupted` soon; a kick while the vCPU is not running makes the next `run` return.
  func kick()
  /// Power-on state: the bootstrap processor at the reset vector, others waiting for SIPI.
  func reset() throws(EngineFailure)
  /// Lets the bootstrap processor, which is in its power-on state, begin at `start`. Before its thread runs, or on it.
  func begin(at start: StartState) throws(EngineFailure)
}

/// A machine's processors, memory map and interrupt controllers. How it does it stays inside the engine.
public protocol VirtualMachine: AnyObject, Sendable {
  associatedtype CPU: VCPU

  /// Shows host memory in a numbered slot, or empties the slot. False: refused, as when it overlaps another.
  func map(slot: Int, _ mapping: HostMapping?) -> Bool
  func makeVCPU(_ index: Int) throws(EngineFailure) -> CPU
  /// Called once, before vCPUs run and before their threads start: starts the engine's own threads, if it has any. Each
  /// first calls `confine` and ends at once when that returns false.
  func start(confine: @escaping @Sendable () -> Bool) throws(EngineFailure)
  /// Each signal of `event` is an edge on an input of the interrupt controllers (0–23, ISA IRQs first).
  func connect(input: Int, edge event: borrowing EventDescriptor) throws(EngineFailure)
  /// A signal of `trigger` raises the level-triggered input; the guest's end of interrupt lowers it and signals
  /// `resample`, upon which a source that is still asserted triggers again. An engine that can ask whether it is does
  /// that instead.
  func connect(
    input: Int, trigger: borrowing EventDescriptor, resample: borrowing EventDescriptor
  ) throws(EngineFailure)
  /// Where an engine that looks there finds edges beside those of eventfds, and how it learns whether the sources of
  /// a level-triggered input are asserted. Called once, before any vCPU is made.
  func share(_ posted: PostedInterrupts, isAsserted: @escaping @Sendable (_ input: Int) -> Bool)
  /// Each signal of `event` sends message interrupt `index` (0–1023), which sends nothing before it has a route.
  func connect(message index: Int, event: borrowing EventDescriptor) throws(EngineFailure)
  /// Sets what message interrupts send; in force when it returns. Any vCPU's thread.
  func route(_ changes: [MessageRoute]) throws(EngineFailure)
  /// A guest write to the address signals `event`, which stays open meanwhile, and the vCPU goes on at once. Any vCPU's
  /// thread; it fails where there is a doorbell already.
  func connect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure)
  /// Takes away what `connect` connected to this event at the address.
  func disconnect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure)
  /// A line for the log about the run, when it is over; nil: there is nothing to say.
  var summary: String? { get }
  /// Interrupt controllers and the 8254 go back to power-on. vCPUs are stopped.
  func resetInterruptControllers() throws(EngineFailure)
  /// Whether the HPET has taken over IRQ 0 from the 8254.
  func setLegacyReplacement(_ enabled: Bool)
}
