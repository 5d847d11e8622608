import Backends
import DeviceKit
import MachineModel
import Synchronization

/// The console device (virtio 1.2 §5.3): ports of bytes to and from the host, the first of which early drivers have
/// alone. `virtconsole` and `virtserialport` devices plug ports into it.
// Safety: ports are plugged in while the board is built; the rest that changes belongs to the worker.
public final class VirtioConsole: VirtioDevice, @unchecked Sendable {
  /// §5.3.3.
  private enum Feature {
    static let size = VirtioFeatures(bit: 0)
    static let multiport = VirtioFeatures(bit: 1)
    static let emergencyWrite = VirtioFeatures(bit: 2)
  }

  /// §5.3.4.
  private enum Field {
    static let columns = 0
    static let rows = 2
    static let maximumPorts = 4
    static let emergencyWrite = 8..<12
    static let size = 12
  }

  /// §5.3.2: port 0 has the first two queues, control the next two.
  private enum Queue {
    static let controlReceive = 2
    static let controlTransmit = 3

    static func port(_ queue: Int) -> (number: Int, isTransmit: Bool) {
      (queue < 2 ? 0 : queue / 2 - 1, queue & 1 != 0)
    }
    static func receive(_ port: Int) -> Int { port == 0 ? 0 : port * 2 + 2 }
    static func transmit(_ port: Int) -> Int { receive(port) + 1 }
  }

  /// Messages that wait for the driver's buffers; a driver that gives none loses those beyond.
  private static let outboxLimit = 256

  private var ports: [ConsolePort] = []
  private let maximumPorts: Int
  /// Rows go before columns in the message that tells of a size.
  private let rowsFirst: Bool
  private var outbox: [ConsoleControl] = []
  /// The driver speaks about ports.
  private var isReady = false

  init(id: String, maximumPorts: Int, rowsFirst: Bool = false, board: Board) throws(DeviceError) {
    self.maximumPorts = maximumPorts
    self.rowsFirst = rowsFirst
    var configuration = [UInt8](repeating: 0, count: Field.size)
    configuration[Field.maximumPorts] = UInt8(truncatingIfNeeded: maximumPorts)
    try super.init(
      id: id, kind: VirtioKind(id: 3, transitionalID: 0x1003, pciClass: 0x078000),
      features: [Feature.size, Feature.multiport, Feature.emergencyWrite],
      queues: (0..<maximumPorts * 2 + 2).map { _ in QueueSpec(size: 64) }, configuration: configuration, board: board)
  }

  /// Adds a port; while the board is built. Port 0 is a console (§5.3.5): Linux takes the first as hvc0.
  func plug(isConsole: Bool, name: String, backend: (any CharacterBackend)?) throws(DeviceError) {
    guard ports.count < maximumPorts else {
      throw DeviceError("all \(maximumPorts) ports of \(id) are taken; give it more with max-ports=")
    }
    let port = ConsolePort(number: ports.count, isConsole: isConsole, name: name, backend: backend) { [weak self] in
      self?.wake()
    }
    ports.append(port)
  }

  public override func start() { for port in ports { port.start() } }

  public override func isWritable(configuration offset: Int) -> Bool { Field.emergencyWrite.contains(offset) }

  public override func configurationWritten(_ range: Range<Int>) {
    guard range.contains(Field.emergencyWrite.lowerBound) else { return }
    ports.first?.emergencyWrite(configuration[Field.emergencyWrite.lowerBound])
  }

  public override func activate() {
    // Without messages about ports the one that there is counts as open.
    if !accepted.contains(Feature.multiport) { ports.first?.setOpen(true) }
  }

  public override func released(_ queue: Int?) {
    guard let queue else {
      outbox = []
      isReady = false
      for port in ports { port.reset() }
      return
    }
    guard queue != Queue.controlReceive, queue != Queue.controlTransmit else { return }
    let (number, isTransmit) = Queue.port(queue)
    if isTransmit, ports.indices.contains(number) { ports[number].dropPending() }
  }

  public override func service(group: Int) throws(VirtqueueFault) -> Bool {
    var worked = announceSizes()
    for port in ports {
      if try port.receive(into: &queues[Queue.receive(port.number)]) { worked = true }
      if try port.send(from: &queues[Queue.transmit(port.number)]) { worked = true }
    }
    return worked
  }

  public override func wantsBuffers(_ queue: Int) -> Bool {
    switch queue {
    case Queue.controlReceive: return !outbox.isEmpty
    case Queue.controlTransmit: return true
    default:
      let (number, isTransmit) = Queue.port(queue)
      guard ports.indices.contains(number) else { return false }
      return isTransmit ? !ports[number].isBlocked : ports[number].hasInput
    }
  }

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    switch queue {
    case Queue.controlReceive: return try deliver()
    case Queue.controlTransmit: return try control()
    default:
      let (number, isTransmit) = Queue.port(queue)
      guard ports.indices.contains(number) else { return false }
      return try isTransmit ? ports[number].send(from: &queues[queue]) : ports[number].receive(into: &queues[queue])
    }
  }

  /// Tells of terminals whose size has changed.
  private func announceSizes() -> Bool {
    var worked = false
    for port in ports where port.isConsole {
      guard let size = port.takeSize() else { continue }
      worked = true
      if port.number == 0 {
        let notify = accepted.contains(Feature.size) && !accepted.contains(Feature.multiport)
        changeConfiguration(notify: notify) { bytes in
          bytes.store(UInt64(size.columns), at: Field.columns, count: 2)
          bytes.store(UInt64(size.rows), at: Field.rows, count: 2)
        }
      }
      if isReady { post(resize(port, size)) }
    }
    return worked
  }

  private func resize(_ port: ConsolePort, _ size: ConsoleSize) -> ConsoleControl {
    let fields = rowsFirst ? [size.rows, size.columns] : [size.columns, size.rows]
    return ConsoleControl(
      ConsoleControl.Event.resize, port: port.number,
      payload: fields.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] })
  }

  // MARK: Control

  private func control() throws(VirtqueueFault) -> Bool {
    var worked = false
    while let chain = try queues[Queue.controlTransmit].take() {
      if let message = ConsoleControl(chain) { handle(message) }
      queues[Queue.controlTransmit].put(chain.token, written: 0)
      worked = true
    }
    if worked { _ = try deliver() }
    return worked
  }

  private func handle(_ message: ConsoleControl) {
    if message.event == ConsoleControl.Event.deviceReady {
      isReady = message.value == 1
      guard isReady else { return }
      for port in ports { post(ConsoleControl(ConsoleControl.Event.portAdd, port: port.number)) }
      return
    }
    guard let port = ports.first(where: { UInt32($0.number) == message.port }) else { return }
    switch message.event {
    case ConsoleControl.Event.portReady where message.value == 1:
      if port.isConsole {
        post(ConsoleControl(ConsoleControl.Event.consolePort, port: port.number, value: 1))
        if let size = port.takeSize(always: true) { post(resize(port, size)) }
      }
      if !port.name.isEmpty {
        post(ConsoleControl(ConsoleControl.Event.portName, port: port.number, value: 1, payload: Array(port.name.utf8)))
      }
      post(ConsoleControl(ConsoleControl.Event.portOpen, port: port.number, value: 1))
    case ConsoleControl.Event.portOpen: port.setOpen(message.value == 1)
    default: break
    }
  }

  private func post(_ message: ConsoleControl) {
    if outbox.count < Self.outboxLimit { outbox.append(message) }
  }

  private func deliver() throws(VirtqueueFault) -> Bool {
    var sent = 0
    while sent < outbox.count, let chain = try queues[Queue.controlReceive].take() {
      let bytes = outbox[sent].bytes
      let written = bytes.withUnsafeBytes { chain.write($0) }
      queues[Queue.controlReceive].put(chain.token, written: UInt32(truncatingIfNeeded: written))
      sent += 1
    }
    if sent > 0 { outbox.removeFirst(sent) }
    return sent > 0
  }

  // MARK: Models

  /// The bus name that ports look for.
  static let socket = "virtio-serial.0"

  public static let model = VirtioModel(
    name: "virtio-serial", summary: "virtio console device; its ports are virtconsole and virtserialport",
    options: [
      OptionSpec("max-ports", .integer(1...31), default: .integer(8), "ports that can be plugged into it"),
      OptionSpec(
        "rows-first", .boolean, default: .boolean(false),
        "tell a terminal's size as old Linux takes it, most before 6.15: rows before columns"),
    ]
  ) { (id, properties, board) throws(DeviceError) in
    let device = try VirtioConsole(
      id: id, maximumPorts: Int(clamping: properties.integer("max-ports") ?? 8),
      rowsFirst: properties.boolean("rows-first"), board: board)
    board.sockets.offer(socket, device)
    return device
  }

  /// `virtconsole`: a console of the guest's, hvc0 and on.
  public static let console = portModel(
    "virtconsole", "console port of a virtio-serial: hvc0 and on", isConsole: true)
  /// `virtserialport`: a port by name, /dev/virtio-ports/NAME.
  public static let port = portModel(
    "virtserialport", "named port of a virtio-serial: /dev/virtio-ports/NAME", isConsole: false)

  private static func portModel(_ model: String, _ summary: String, isConsole: Bool) -> DeviceModel {
    DeviceModel(
      name: model, summary: summary, bus: .virtioSerial,
      options: [
        OptionSpec("chardev", .character, "connection that it is wired to; without one, output is dropped"),
        OptionSpec("name", .string(maximumLength: 64), "name that the guest sees"),
      ]
    ) { (id, properties, board) throws(DeviceError) in
      guard let device = board.sockets.find(socket, as: VirtioConsole.self) else {
        throw DeviceError("there is no virtio-serial: name one in a --device before it")
      }
      try device.plug(
        isConsole: isConsole, name: properties.string("name") ?? "",
        backend: try board.character("chardev", properties))
      return ConsolePortDevice(id: id)
    }
  }
}

/// A port in the list of devices; the console does its work, resets and drains it.
final class ConsolePortDevice: Device, @unchecked Sendable {}
