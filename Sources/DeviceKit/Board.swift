import Backends
import Buses
import GuestMemory
import Synchronization

/// What a device tells the machine as a whole.
public enum MachineEvent: Sendable, Equatable {
  /// ACPI S5 or the like.
  case powerOff
  /// Every vCPU and device goes back to power-on.
  case reset
  /// The guest wrote this status to the exit device.
  case exit(UInt8)
  /// The guest has come to where it wants its time told (`--timing`).
  case marked
  /// The guest's kernel panicked (pvpanic).
  case panicked
  /// The HPET takes over (true) or gives back the 8254's interrupt (HPET 1.0a §2.3.5 legacy replacement).
  case legacyReplacement(Bool)
}

/// Receives what devices tell the machine. On a vCPU's access the vCPU does not run on before the machine has
/// acted on the event.
public protocol MachineEvents: AnyObject, Sendable {
  func post(_ event: MachineEvent)
}

/// Something a device needs from the host, opened before the sandbox closed: backends by their name.
public protocol HostResources: AnyObject, Sendable {
  func block(_ id: String) -> (any BlockBackend)?
  func character(_ id: String) -> (any CharacterBackend)?
  func network(_ id: String) -> (any NetworkBackend)?
  /// The host's side of the guest's sockets, where it has any.
  func vsock() -> (any VsockBackend)?
  /// The bytes of a firmware or option ROM file that the device's model asked for.
  func file(_ name: String) -> [UInt8]?
}

/// The board that a device is plugged into: everything it may reach. Devices cannot tell the process it is in.
public final class Board: Sendable {
  public let memory: GuestMemory
  public let ports: AddressSpace
  public let mmio: AddressSpace
  public let interrupts: InterruptFabric
  public let pci: PCIBus
  public let clock: any MachineClock
  public let timers: TimerQueue
  public let events: any MachineEvents
  public let mapper: any MemoryMapper
  public let resources: any HostResources
  public let workers: any DeviceWorkers
  /// Files and values that fw_cfg shows to firmware; complete when the last device was made.
  public let firmware = FirmwareFiles()
  /// Places where other devices plug in: IDE channels, by bus name.
  public let sockets = Sockets()

  private struct DeviceMemory {
    var used: UInt64 = 0
  }

  // Safety: `deviceMemory` stays mapped as long as the machine lives; windows are disjoint parts of it.
  private nonisolated(unsafe) let deviceMemory: UnsafeMutableRawBufferPointer
  private let allocation = Mutex(DeviceMemory())

  public init(
    memory: GuestMemory, ports: AddressSpace = .ports(), mmio: AddressSpace = .mmio(), interrupts: InterruptFabric,
    pci: PCIBus = PCIBus(), timers: TimerQueue, events: any MachineEvents, mapper: any MemoryMapper,
    resources: any HostResources, workers: any DeviceWorkers, deviceMemory: UnsafeMutableRawBufferPointer
  ) {
    self.memory = memory
    self.ports = ports
    self.mmio = mmio
    self.interrupts = interrupts
    self.pci = pci
    self.clock = timers.clock
    self.timers = timers
    self.events = events
    self.mapper = mapper
    self.resources = resources
    self.workers = workers
    self.deviceMemory = deviceMemory
  }

  /// Memory that the guest can map, out of what the model said its devices need; zero-filled.
  public func window(size: Int, readOnly: Bool) throws(DeviceError) -> DeviceWindow {
    let size = (size + 0xFFF) & ~0xFFF
    let start = allocation.withLock { allocation -> Int? in
      let start = Int(allocation.used)
      guard size > 0, size <= deviceMemory.count - start else { return nil }
      allocation.used += UInt64(size)
      return start
    }
    guard let start, let slot = mapper.reserve() else {
      throw DeviceError("no device memory left for \(size >> 10) KiB")
    }
    return DeviceWindow(
      bytes: UnsafeMutableRawBufferPointer(rebasing: deviceMemory[start..<start + size]), offset: UInt64(start),
      readOnly: readOnly, slot: slot, mapper: mapper)
  }
}

/// Why a device could not be made; says what to change.
public struct DeviceError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// An fw_cfg item that is read where it is, such as a kernel: too big to be kept.
public struct FirmwareSource: Sendable {
  /// Bytes of the item.
  public let count: Int
  /// Fills the buffer from `offset`; false: it cannot be read. It is asked for nothing beyond the end.
  public let read: @Sendable (_ offset: Int, _ buffer: UnsafeMutableRawBufferPointer) -> Bool

  public init(count: Int, read: @escaping @Sendable (_ offset: Int, _ buffer: UnsafeMutableRawBufferPointer) -> Bool) {
    self.count = count
    self.read = read
  }
}

/// What the board tells its firmware: fw_cfg items and files, and bytes of CMOS RAM. The devices that show them
/// read them at reset, when all devices have been made.
public final class FirmwareFiles: Sendable {
  public struct Contents: Sendable {
    /// Numbered items (fw_cfg selector keys below 0x20).
    public var items: [UInt16: [UInt8]] = [:]
    /// More of them.
    public var sources: [UInt16: FirmwareSource] = [:]
    /// Files by name, at most 55 characters.
    public var files: [String: [UInt8]] = [:]
    /// CMOS RAM registers (0x0E–0x7F) and their power-on values.
    public var cmos: [UInt8: UInt8] = [:]
  }

  private let contents = Mutex(Contents())

  public init() {}

  public func add(_ name: String, _ bytes: [UInt8]) { contents.withLock { $0.files[name] = bytes } }
  public func add(item key: UInt16, _ bytes: [UInt8]) { contents.withLock { $0.items[key] = bytes } }
  public func add(item key: UInt16, _ source: FirmwareSource) { contents.withLock { $0.sources[key] = source } }
  public func set(cmos register: UInt8, _ value: UInt8) { contents.withLock { $0.cmos[register] = value } }
  public var snapshot: Contents { contents.withLock { $0 } }
}

/// Buses that devices offer to other devices: `ide.0` is the primary IDE channel.
public final class Sockets: Sendable {
  private let offered = Mutex<[String: any Sendable & AnyObject]>([:])

  public init() {}

  public func offer(_ name: String, _ socket: any Sendable & AnyObject) { offered.withLock { $0[name] = socket } }

  public func find<Socket>(_ name: String, as type: Socket.Type) -> Socket? {
    guard let socket = offered.withLock({ $0[name] }) else { return nil }
    return socket as? Socket
  }
}
