import Backends

/// One device on the cable: the host interface they all have, and its command set.
struct IDEDrive: Sendable {
  enum CommandSet: Sendable {
    case disk(ATADisk)
    case packet(ATAPIDrive)
  }

  var interface: ATAInterface
  private(set) var commands: CommandSet

  init(unit: Int, _ commands: CommandSet) {
    interface = ATAInterface(unit: unit)
    self.commands = commands
  }

  var isPacket: Bool { if case .packet = commands { true } else { false } }

  private mutating func update(
    disk: (inout ATADisk, inout ATAInterface) -> Void, packet: (inout ATAPIDrive, inout ATAInterface) -> Void
  ) {
    switch commands {
    case .disk(var chip):
      disk(&chip, &interface)
      commands = .disk(chip)
    case .packet(var chip):
      packet(&chip, &interface)
      commands = .packet(chip)
    }
  }

  mutating func execute(_ code: UInt8) {
    update(disk: { $0.execute(code, &$1) }, packet: { $0.execute(code, &$1) })
  }
  mutating func requestDone(_ result: Result<Void, BlockError>) {
    update(disk: { $0.requestDone(result, &$1) }, packet: { $0.requestDone(result, &$1) })
  }
  mutating func dmaRanShort() { update(disk: { $0.dmaRanShort(&$1) }, packet: { $0.dmaRanShort(&$1) }) }
  mutating func dmaFailed() { update(disk: { $0.dmaFailed(&$1) }, packet: { $0.dmaFailed(&$1) }) }

  private mutating func blockDone() { update(disk: { $0.blockDone(&$1) }, packet: { $0.blockDone(&$1) }) }

  /// Reads the data port as often as fits into `target`; without data it reads as zero.
  mutating func readData(into target: UnsafeMutableRawBufferPointer) {
    var done = 0
    while done < target.count {
      let moved = interface.takeData(into: UnsafeMutableRawBufferPointer(rebasing: target[done...]))
      guard moved > 0 else {
        UnsafeMutableRawBufferPointer(rebasing: target[done...]).initializeMemory(as: UInt8.self, repeating: 0)
        return
      }
      done += moved
      if interface.isBlockDone { blockDone() }
    }
  }

  /// Writes the data port; what the drive does not wait for is lost.
  mutating func writeData(from source: UnsafeRawBufferPointer) {
    var done = 0
    while done < source.count {
      let moved = interface.giveData(from: UnsafeRawBufferPointer(rebasing: source[done...]))
      guard moved > 0 else { return }
      done += moved
      if interface.isBlockDone { blockDone() }
    }
  }

  /// Sets BSY and drops the command under way.
  mutating func beginReset(powerOn: Bool) {
    interface.beginReset()
    update(disk: { chip, _ in chip.reset(powerOn: powerOn) }, packet: { chip, _ in chip.reset(powerOn: powerOn) })
  }

  mutating func beginDeviceReset() {
    interface.beginReset()
    update(disk: { _, _ in }, packet: { chip, _ in chip.deviceReset() })
  }

  /// Shows the signature; `interrupt` after EXECUTE DEVICE DIAGNOSTIC.
  mutating func endReset(interrupt: Bool = false) {
    interface.endReset(packet: isPacket)
    if interrupt { interface.isInterrupting = true }
  }
}

/// Two devices on one cable and the registers that both hear (ATA/ATAPI-4 §7, §9.1).
///
/// A device that was reset while a request of it was under way stays busy until `requestEnded`: nothing reaches
/// memory or the medium behind the back of a host that believes the device idle.
struct IDECable: Sendable {
  private(set) var drives: [IDEDrive?] = [nil, nil]
  /// The unit that the DEV bit selects.
  private(set) var selected = 0
  private(set) var control: ATADeviceControl = []
  /// Resets that wait for their device's last request.
  private var resetting = [false, false]
  /// Counts resets: a request that was made under another number is stale.
  private(set) var generation: UInt64 = 0
  /// A request is under way.
  private(set) var isRequesting = false

  /// Plugs a drive in; false where the unit is taken.
  mutating func attach(_ commands: IDEDrive.CommandSet, unit: Int) -> Bool {
    guard drives.indices.contains(unit), drives[unit] == nil else { return false }
    var drive = IDEDrive(unit: unit, commands)
    drive.beginReset(powerOn: true)
    drive.endReset()
    drives[unit] = drive
    return true
  }

  /// INTRQ as the controller sees it.
  var interrupt: Bool {
    !control.contains(.interruptDisable) && drives[selected]?.interface.isInterrupting == true
  }

  // MARK: Registers

  /// Reads a command block register. Reading Status ends the interrupt; a device that is not there reads as zero.
  mutating func read(_ register: ATARegister) -> UInt8 {
    let value = drives[selected]?.interface.read(register, highOrder: control.contains(.highOrderByte)) ?? 0
    if register == .status { drives[selected]?.interface.isInterrupting = false }
    return value
  }

  /// Alternate Status: the interrupt stays.
  var alternateStatus: UInt8 { drives[selected]?.interface.status.rawValue ?? 0 }

  mutating func write(_ register: ATARegister, _ value: UInt8) {
    control.remove(.highOrderByte)
    let code = register == .status ? ATACommand(rawValue: value) : nil
    if drives[selected]?.interface.isBusy == true {
      // A busy device hears nothing but DEVICE RESET (ATA/ATAPI-4 §8.7).
      let isHeard = code == .deviceReset && drives[selected]?.isPacket == true
      guard isHeard, !control.contains(.softwareReset) else { return }
    }
    switch register {
    case .data: break
    case .status: execute(value, code)
    default:
      if register == .device { selected = value & ATADeviceBits.unit != 0 ? 1 : 0 }
      for unit in drives.indices { drives[unit]?.interface.write(register, value) }
    }
  }

  private mutating func execute(_ value: UInt8, _ code: ATACommand?) {
    drives[selected]?.interface.isInterrupting = false
    switch code {
    case .executeDiagnostic:
      for unit in drives.indices where !resetting[unit] {
        drives[unit]?.interface.device = 0
        drives[unit]?.endReset(interrupt: unit == 0)
      }
      selected = 0
    case .deviceReset where drives[selected]?.isPacket == true:
      drives[selected]?.beginDeviceReset()
      resetting[selected] = true
      generation &+= 1
      endResets()
    default: drives[selected]?.execute(value)
    }
  }

  /// Writes the Device Control register; SRST resets both devices when it is set and lets them go when it is cleared.
  mutating func writeControl(_ value: UInt8) {
    let previous = control
    control = ATADeviceControl(rawValue: value).intersection([
      .interruptDisable, .softwareReset, .highOrderByte,
    ])
    if control.contains(.softwareReset), !previous.contains(.softwareReset) { beginReset(powerOn: false) }
    endResets()
  }

  mutating func readData(into target: UnsafeMutableRawBufferPointer) {
    guard drives[selected] != nil else {
      target.initializeMemory(as: UInt8.self, repeating: 0)
      return
    }
    drives[selected]?.readData(into: target)
  }

  mutating func writeData(from source: UnsafeRawBufferPointer) { drives[selected]?.writeData(from: source) }

  // MARK: Reset

  /// Power-on or RESET#.
  mutating func reset() {
    control = []
    beginReset(powerOn: true)
    endResets()
  }

  private mutating func beginReset(powerOn: Bool) {
    generation &+= 1
    selected = 0
    for unit in drives.indices {
      drives[unit]?.interface.device = 0
      drives[unit]?.beginReset(powerOn: powerOn)
      resetting[unit] = true
    }
  }

  private mutating func endResets() {
    guard !isRequesting, !control.contains(.softwareReset) else { return }
    for unit in resetting.indices where resetting[unit] {
      resetting[unit] = false
      drives[unit]?.endReset()
    }
  }

  // MARK: Requests

  /// What a drive wants done next, unless a request is under way.
  var request: (unit: Int, request: DriveRequest)? {
    guard !isRequesting else { return nil }
    for unit in drives.indices {
      if let request = drives[unit]?.interface.request { return (unit, request) }
    }
    return nil
  }

  /// The request of a drive goes to the medium; `requestEnded` must follow.
  mutating func requestBegan(unit: Int) {
    drives[unit]?.interface.request = nil
    isRequesting = true
  }

  /// The request is over. False: a reset came between and its outcome is of no interest.
  mutating func requestEnded(generation: UInt64) -> Bool {
    isRequesting = false
    if generation == self.generation { return true }
    endResets()
    return false
  }

  /// Changes the drive whose request it was.
  mutating func update(_ unit: Int, _ body: (inout IDEDrive) -> Void) {
    guard var drive = drives[unit] else { return }
    drives[unit] = nil
    body(&drive)
    drives[unit] = drive
  }
}
