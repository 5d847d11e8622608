import Backends
import DeviceKit
import MachineModel

/// Commands that a target answers whatever its logical units are (SPC-4 §6.32, §6.6.2).
enum TargetCommand {
  static let reportLUNs: UInt8 = 0xA0
  private static let inquiry: UInt8 = 0x12
  private static let requestSense: UInt8 = 0x03

  /// A command of at least 16 bytes, to the only logical unit, 0, or one that there is not.
  static func execute(_ command: [UInt8], unit: Int) -> PacketOutcome {
    switch command[0] {
    case reportLUNs:
      guard command[2] <= 2 else { return .check(.invalidField) }
      // Well-known logical units alone: there are none.
      let list = command[2] == 1 ? [] : [UInt8](repeating: 0, count: 8)
      let bytes = bigEndian(UInt64(list.count), 4) + [0, 0, 0, 0] + list
      return cut(bytes, command.number(6, 4))
    case inquiry:
      guard command[1] & 0x01 == 0, command[2] == 0 else { return .check(.invalidField) }
      // No device is there, and none can be.
      return cut([0x7F, 0x00, 0x05, 0x02, 31] + [UInt8](repeating: 0, count: 31), command.number(3, 2))
    case requestSense: return cut(Sense.noSuchUnit.fixed, Int(command[4]))
    default: return .check(.noSuchUnit)
    }
  }

  private static func cut(_ bytes: [UInt8], _ count: Int) -> PacketOutcome {
    count > 0 ? .data(Array(bytes.prefix(count))) : .done
  }
}

/// A drive in the list of devices; the host device does its work, resets and drains it.
final class SCSIDriveDevice: Device, @unchecked Sendable {
  private static let buses = (0..<4).map { "scsi.\($0)" }

  private static let placement: [OptionSpec] = [
    OptionSpec("bus", .choice(buses), default: .string("scsi.0"), "SCSI controller, in the order that they are given"),
    OptionSpec("scsi-id", .integer(0...255), "target; the default is the lowest that is free"),
    OptionSpec("serial", .string(maximumLength: 20), "serial number; the default is the id"),
    OptionSpec("bootindex", .integer(0...255), "place in the boot order, lowest first"),
  ]

  static let controller = VirtioModel(
    name: "virtio-scsi", summary: "virtio SCSI controller for scsi-hd and scsi-cd",
    options: [
      OptionSpec("queues", .integer(1...32), default: .integer(1), "request queues; one for each CPU is best")
    ]
  ) { (id, properties, board) throws(DeviceError) in
    guard let bus = buses.first(where: { board.sockets.find($0, as: VirtioSCSI.self) == nil }) else {
      throw DeviceError("\(id): there are \(buses.count) SCSI controllers already")
    }
    let device = try VirtioSCSI(id: id, queues: Int(clamping: properties.integer("queues") ?? 1), board: board)
    board.sockets.offer(bus, device)
    return device
  }

  /// `scsi-hd`.
  static let disk = DeviceModel(
    name: "scsi-hd", summary: "SCSI hard disk", bus: .scsi,
    options: [OptionSpec("drive", .block, "the disk image that holds its sectors")] + placement
  ) { (id, properties, board) throws(DeviceError) in
    guard let name = properties.string("drive"), let backend = board.resources.block(name) else {
      throw DeviceError("\(id): scsi-hd needs drive=NAME of a disk, such as drive=disk0")
    }
    let blocks = backend.size / UInt64(SCSIDisk.blockSize)
    guard blocks > 0 else { throw DeviceError("\(id): \(name) is smaller than a sector of 512 bytes") }
    let chip = SCSIDisk(
      blocks: blocks, isReadOnly: backend.isReadOnly,
      canDiscard: !backend.isReadOnly && backend.features.contains(.discard), limits: backend.limits,
      identity: identity("VMRUN HARDDISK", id, properties))
    return try plug(id, properties, .disk(chip), backend, board)
  }

  /// `scsi-cd`; without a drive it is empty.
  static let cdrom = DeviceModel(
    name: "scsi-cd", summary: "SCSI CD/DVD reader", bus: .scsi,
    options: [OptionSpec("drive", .block, "the image of the disc in it; without one the drive is empty")] + placement
  ) { (id, properties, board) throws(DeviceError) in
    let backend = properties.string("drive").flatMap { board.resources.block($0) }
    if backend == nil, let name = properties.string("drive") {
      throw DeviceError("\(id): there is no disk named \(name) for drive=\(name)")
    }
    let chip = CDROM(
      discBlocks: backend.map { $0.size / UInt64(CDROM.blockSize) },
      identity: identity("VMRUN DVD-ROM", id, properties),
      transport: .scsi)
    return try plug(id, properties, .cdrom(chip), backend, board)
  }

  private static func identity(_ model: String, _ id: String, _ properties: Properties) -> DriveIdentity {
    DriveIdentity(serial: properties.string("serial") ?? String(id.prefix(20)), model: model)
  }

  private static func plug(
    _ id: String, _ properties: Properties, _ chip: SCSIUnit.Chip, _ backend: (any BlockBackend)?, _ board: Board
  ) throws(DeviceError) -> Device {
    let bus = properties.string("bus") ?? "scsi.0"
    guard let controller = board.sockets.find(bus, as: VirtioSCSI.self) else {
      throw DeviceError("\(id): there is no bus \(bus): name a virtio-scsi in a --device before it")
    }
    try controller.plug(target: properties.integer("scsi-id").map { Int(clamping: $0) }, chip: chip, backend: backend)
    return SCSIDriveDevice(id: id)
  }
}
