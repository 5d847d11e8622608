/// Buttons of a mouse.
public struct MouseButtons: OptionSet, Sendable {
  public let rawValue: UInt8
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  public static let left = MouseButtons(rawValue: 1 << 0)
  public static let right = MouseButtons(rawValue: 1 << 1)
  public static let middle = MouseButtons(rawValue: 1 << 2)
  /// Fourth and fifth button (IntelliMouse Explorer).
  public static let back = MouseButtons(rawValue: 1 << 3)
  public static let forward = MouseButtons(rawValue: 1 << 4)
}

/// A PS/2 mouse (IBM PS/2 Hardware Interface Technical Reference, "Mouse") as a value, with the wheel and the
/// extra buttons that a driver unlocks by setting certain sample rates (Microsoft IntelliMouse and Explorer).
struct PS2Mouse: Sendable {
  /// Commands from the system.
  enum Command {
    static let resetScaling: UInt8 = 0xE6
    static let setScaling: UInt8 = 0xE7
    static let setResolution: UInt8 = 0xE8
    static let statusRequest: UInt8 = 0xE9
    static let setStreamMode: UInt8 = 0xEA
    static let readData: UInt8 = 0xEB
    static let resetWrapMode: UInt8 = 0xEC
    static let setWrapMode: UInt8 = 0xEE
    static let setRemoteMode: UInt8 = 0xF0
    static let readDeviceType: UInt8 = 0xF2
    static let setSamplingRate: UInt8 = 0xF3
    static let enable: UInt8 = 0xF4
    static let disable: UInt8 = 0xF5
    static let setDefault: UInt8 = 0xF6
    static let resend: UInt8 = 0xFE
    static let reset: UInt8 = 0xFF
  }

  /// What "read device type" answers.
  enum DeviceType {
    static let standard: UInt8 = 0
    static let wheel: UInt8 = 3
    static let fiveButtons: UInt8 = 4
  }

  private static let acknowledge: UInt8 = 0xFA
  private static let refuse: UInt8 = 0xFE
  /// Movement kept for later packets, at most; a guest that does not read loses the rest.
  private static let travelLimit = 4096

  private(set) var deviceType = DeviceType.standard
  private(set) var isReporting = false
  private var isRemote = false
  private var isWrapping = false
  private var isScaled = false
  private var resolution: UInt8 = 2
  private var samplingRate: UInt8 = 100
  private var awaitsOptionOf: UInt8?
  /// The last three sampling rates, the newest in the low byte.
  private var rates: UInt32 = 0
  private var queue = ByteQueue(capacity: 32)
  private var lastSent: UInt8 = 0
  private var buttons: MouseButtons = []
  private var reportedButtons: MouseButtons = []
  private var (x, y, z) = (0, 0, 0)

  var hasData: Bool { !queue.isEmpty }

  /// The next byte on the wire.
  mutating func next() -> UInt8? {
    guard let byte = queue.removeFirst() else { return nil }
    lastSent = byte
    report()
    return byte
  }

  /// The mouse moves right and up by counts, its wheel turns towards the user by notches, its buttons are these.
  mutating func move(dx: Int, dy: Int, wheel: Int, buttons: MouseButtons) {
    let limit = Self.travelLimit
    x = min(max(x + min(max(dx, -limit), limit), -limit), limit)
    y = min(max(y + min(max(dy, -limit), limit), -limit), limit)
    z = min(max(z + min(max(wheel, -limit), limit), -limit), limit)
    self.buttons = buttons
    report()
  }

  /// Takes a byte from the system.
  mutating func receive(_ byte: UInt8) {
    if isWrapping, byte != Command.resetWrapMode, byte != Command.reset {
      queue.append(byte)
      return
    }
    if let command = awaitsOptionOf {
      awaitsOptionOf = nil
      takeOption(byte, of: command)
      return
    }
    if byte == Command.resend {
      queue.append(lastSent)
      return
    }
    // A command stops a report that is under way.
    queue.removeAll()
    switch byte {
    case Command.resetScaling: isScaled = false
    case Command.setScaling: isScaled = true
    case Command.setResolution, Command.setSamplingRate: awaitsOptionOf = byte
    case Command.statusRequest:
      answer(Self.acknowledge)
      answerStatus()
      return
    case Command.setStreamMode: isRemote = false
    case Command.readData:
      answer(Self.acknowledge)
      packet()
      return
    case Command.resetWrapMode: isWrapping = false
    case Command.setWrapMode: isWrapping = true
    case Command.setRemoteMode: isRemote = true
    case Command.readDeviceType:
      answer(Self.acknowledge)
      answer(deviceType)
      return
    case Command.enable: isReporting = true
    case Command.disable: isReporting = false
    case Command.setDefault: setDefaults()
    case Command.reset:
      setDefaults()
      deviceType = DeviceType.standard
      rates = 0
      isWrapping = false
      answer(Self.acknowledge)
      answer(0xAA)
      answer(DeviceType.standard)
      return
    default:
      answer(Self.refuse)
      return
    }
    answer(Self.acknowledge)
  }

  private mutating func takeOption(_ option: UInt8, of command: UInt8) {
    queue.removeAll()
    switch command {
    case Command.setResolution:
      guard option <= 3 else {
        answer(Self.refuse)
        return
      }
      resolution = option
    default:
      samplingRate = option
      rates = (rates << 8 | UInt32(option)) & 0xFF_FFFF
      if rates == 200 << 16 | 100 << 8 | 80, deviceType == DeviceType.standard { deviceType = DeviceType.wheel }
      if rates == 200 << 16 | 200 << 8 | 80, deviceType == DeviceType.wheel { deviceType = DeviceType.fiveButtons }
    }
    answer(Self.acknowledge)
  }

  private mutating func setDefaults() {
    isReporting = false
    isRemote = false
    isScaled = false
    resolution = 2
    samplingRate = 100
    (x, y, z) = (0, 0, 0)
  }

  private mutating func answer(_ byte: UInt8) { queue.append(byte) }

  private mutating func answerStatus() {
    var status: UInt8 = 0
    if isRemote { status |= 1 << 6 }
    if isReporting { status |= 1 << 5 }
    if isScaled { status |= 1 << 4 }
    if buttons.contains(.left) { status |= 1 << 2 }
    if buttons.contains(.middle) { status |= 1 << 1 }
    if buttons.contains(.right) { status |= 1 << 0 }
    for byte in [status, resolution, samplingRate] { answer(byte) }
  }

  /// Sends what happened since the last packet, in stream mode while the wire has nothing else to carry.
  private mutating func report() {
    guard isReporting, !isRemote, !isWrapping, queue.isEmpty, awaitsOptionOf == nil else { return }
    guard x != 0 || y != 0 || buttons != reportedButtons || deviceType != DeviceType.standard && z != 0 else { return }
    packet()
  }

  /// One movement packet: nine-bit two's complement counts, the sign in the first byte.
  private mutating func packet() {
    let (dx, dy) = (min(max(x, -255), 255), min(max(y, -255), 255))
    x -= dx
    y -= dy
    var first = 0x08 | buttons.rawValue & 7
    if dx < 0 { first |= 1 << 4 }
    if dy < 0 { first |= 1 << 5 }
    answer(first)
    // Scaling counts for stream mode only.
    answer(UInt8(truncatingIfNeeded: isScaled && !isRemote ? Self.scaled(dx) : dx))
    answer(UInt8(truncatingIfNeeded: isScaled && !isRemote ? Self.scaled(dy) : dy))
    let dz = min(max(z, -8), 7)
    switch deviceType {
    case DeviceType.wheel: answer(UInt8(truncatingIfNeeded: dz))
    case DeviceType.fiveButtons: answer(UInt8(truncatingIfNeeded: dz) & 0x0F | buttons.rawValue << 1 & 0x30)
    default: break
    }
    z = deviceType == DeviceType.standard ? 0 : z - dz
    reportedButtons = buttons
  }

  /// 2:1 scaling: 1, 1, 3, 6, 9 for one to five counts, twice the counts beyond.
  private static func scaled(_ count: Int) -> Int {
    let magnitude = abs(count)
    let result = magnitude < 6 ? [0, 1, 1, 3, 6, 9][magnitude] : min(magnitude * 2, 255)
    return count < 0 ? -result : result
  }
}
