import CSoftCPU
import LinuxSystem
import X86

/// What a software processor does, a line each, for debugging.
///
///     0: in 0010:ffffffff81000040  48 89 e5              mov rbp,rsp
///     0: int 20 at 0010:ffffffff81000043
///     0: exc 14 #PF error 2 address 7f0012345678 at 0033:0000000000401000
///     0: io out 3f8 1 41
public final class Trace: Sendable {
  /// Which lines are written.
  public struct Events: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Each instruction, before it is executed. Makes the guest many times slower.
    public static let instructions = Events(rawValue: 1 << 0)
    /// External interrupts and NMI.
    public static let interrupts = Events(rawValue: 1 << 1)
    public static let exceptions = Events(rawValue: 1 << 2)
    /// Ports, and memory of devices and interrupt controllers.
    public static let io = Events(rawValue: 1 << 3)
  }

  let events: Events
  private let file: LinuxSystem.Descriptor

  /// Writes to `file`, each line at once.
  public init(_ events: Events, to file: consuming LinuxSystem.Descriptor) {
    self.events = events
    self.file = file
  }

  private func write(_ vcpu: Int, _ line: String) {
    let bytes = Array("\(vcpu): \(line)\n".utf8)
    // A trace that cannot be written is not the guest's concern.
    _ = try? bytes.withUnsafeBytes { (bytes) throws(SystemError) in try file.write(bytes) }
  }

  func instruction(_ state: State) {
    guard events.contains(.instructions) else { return }
    write(state.context.pointee.index, "in \(Self.place(state))  \(Self.text(state))")
  }

  func interrupt(_ state: State, _ vector: UInt8) {
    guard events.contains(.interrupts) else { return }
    write(state.context.pointee.index, "int \(Self.hex(UInt64(vector), 2)) at \(Self.place(state))")
  }

  /// The exception that the state has recorded.
  func exception(_ state: State) {
    guard events.contains(.exceptions) else { return }
    let vector = state.pointee.vector
    var line = "exc \(vector)"
    if Int(vector) < Self.names.count { line += " #\(Self.names[Int(vector)])" }
    if state.pointee.has_error_code != 0 { line += " error \(Self.hex(UInt64(state.pointee.error_code)))" }
    if vector == Vector.pageFault { line += " address \(Self.hex(state.pointee.cr2))" }
    write(state.context.pointee.index, line + " at \(Self.place(state))")
  }

  /// An access of a device or an interrupt controller that is done. `reason` says of what kind; a string instruction's
  /// items are counted, not shown.
  func access(_ state: State, _ reason: UInt32, _ address: UInt64, _ width: Int, _ value: UInt64, items: Int = 1) {
    guard events.contains(.io) else { return }
    let kind =
      switch reason {
      case LeaveReason.portIn: "in"
      case LeaveReason.portOut: "out"
      case LeaveReason.deviceRead: "read"
      default: "write"
      }
    let data = items > 1 ? "\(items) items" : Self.hex(width < 8 ? value & ((1 << UInt64(8 &* width)) &- 1) : value)
    write(state.context.pointee.index, "io \(kind) \(Self.hex(address)) \(width) \(data)")
  }

  // MARK: Text

  private static let names = [
    "DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP", "PF", "15", "MF", "AC", "MC",
    "XM",
  ]

  private static func hex(_ value: UInt64, _ digits: Int = 1) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
  }

  private static func place(_ state: State) -> String {
    let selector = UInt64(state.segment(SegmentRegister.cs).pointee.selector)
    return hex(selector, 4) + ":" + hex(state.pointee.rip, state.pointee.is64BitCode ? 16 : 8)
  }

  /// The bytes and the text of the instruction at RIP, as far as they are in memory.
  private static func text(_ state: State) -> String {
    guard let instruction = state.instruction() else { return "(cannot be decoded)" }
    let code = state.code().prefix(Int(instruction.length)).map { hex(UInt64($0), 2) }.joined(separator: " ")
    let padding = String(repeating: " ", count: max(1, 22 - code.utf8.count))
    return code + padding + Disassembler.text(instruction, at: state.pointee.rip)
  }
}
