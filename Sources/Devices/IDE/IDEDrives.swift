import Backends
import DeviceKit
import MachineModel

/// A drive on an IDE channel. The channel does its work and resets and drains it.
public final class IDEDriveDevice: Device, @unchecked Sendable {}

extension IDEDriveDevice {
  private static let placement: [OptionSpec] = [
    OptionSpec("bus", .choice(["ide.0", "ide.1"]), default: .string("ide.0"), "IDE channel: primary or secondary"),
    OptionSpec("unit", .integer(0...1), default: .integer(0), "master (0) or slave (1) of the channel"),
    OptionSpec("serial", .string(maximumLength: 20), "serial number; the default is made from bus and unit"),
    OptionSpec("bootindex", .integer(0...255), "place in the boot order, lowest first"),
  ]

  /// `ide-hd`: an ATA hard disk.
  public static let disk = DeviceModel(
    name: "ide-hd", summary: "IDE hard disk (ATA, PIO and DMA, 48-bit addresses)", bus: .ide,
    options: [OptionSpec("drive", .block, "the disk image that holds its sectors")] + placement
  ) { (id, properties, board) throws(DeviceError) in
    let place = try Place(id, properties, board)
    guard let name = properties.string("drive"), let backend = board.resources.block(name) else {
      throw DeviceError("\(id): ide-hd needs drive=NAME of a disk, such as drive=disk0")
    }
    let capacity = backend.size / UInt64(ATADisk.sectorSize)
    guard capacity > 0 else { throw DeviceError("\(id): \(name) is smaller than a sector of 512 bytes") }
    let chip = ATADisk(
      capacity: capacity, isReadOnly: backend.isReadOnly,
      identity: DriveIdentity(serial: place.serial, model: "VMRUN HARDDISK"))
    try place.attach(.disk(chip), backend)
    DiskGeometryCMOS.add(chip.defaultGeometry, channel: place.channel.number, unit: place.unit, to: board.firmware)
    return IDEDriveDevice(id: id)
  }

  /// `ide-cd`: an ATAPI CD/DVD reader; without a drive it is empty.
  public static let cdrom = DeviceModel(
    name: "ide-cd", summary: "IDE CD/DVD reader (ATAPI)", bus: .ide,
    options: [OptionSpec("drive", .block, "the image of the disc in it; without one the drive is empty")] + placement
  ) { (id, properties, board) throws(DeviceError) in
    let place = try Place(id, properties, board)
    var backend: (any BlockBackend)?
    if let name = properties.string("drive") {
      backend = board.resources.block(name)
      guard backend != nil else { throw DeviceError("\(id): there is no disk named \(name) for drive=\(name)") }
    }
    let chip = CDROM(
      discBlocks: backend.map { $0.size / UInt64(CDROM.blockSize) },
      identity: DriveIdentity(serial: place.serial, model: "VMRUN DVD-ROM"))
    try place.attach(.packet(ATAPIDrive(cdrom: chip)), backend)
    return IDEDriveDevice(id: id)
  }

  /// Where a drive plugs in.
  private struct Place {
    let id: String
    let channel: IDEChannel
    let bus: String
    let unit: Int
    let serial: String

    init(_ id: String, _ properties: Properties, _ board: Board) throws(DeviceError) {
      let bus = properties.string("bus") ?? "ide.0"
      guard let channel = board.sockets.find(bus, as: IDEChannel.self) else {
        throw DeviceError("\(id): there is no bus \(bus); the machine needs a piix3-ide before its drives")
      }
      let unit = Int(clamping: properties.integer("unit") ?? 0)
      guard 0...1 ~= unit else { throw DeviceError("\(id): unit=\(unit) does not exist; use unit=0 or unit=1") }
      self.id = id
      self.channel = channel
      self.bus = bus
      self.unit = unit
      serial = properties.string("serial") ?? "VM0000\(channel.number)\(unit)"
    }

    func attach(_ commands: IDEDrive.CommandSet, _ backend: (any BlockBackend)?) throws(DeviceError) {
      guard channel.attach(commands, unit: unit, backend: backend) else {
        throw DeviceError(
          "\(id): unit \(unit) of \(bus) is taken; use unit=\(1 - unit) or bus=ide.\(1 - channel.number)")
      }
    }
  }
}

/// What firmware and old systems read of the disks in CMOS RAM.
enum DiskGeometryCMOS {
  /// Types of the first two disks, four bits each: 0Fh says that the extended type counts.
  static let types: UInt8 = 0x12
  /// Extended types of the first two disks; 47 is a type that the user defines.
  static let extendedTypes: [UInt8] = [0x19, 0x1A]
  /// Nine bytes of geometry for each.
  static let geometries: [UInt8] = [0x1B, 0x24]
  /// SeaBIOS: the CHS translation of each drive, two bits, primary master first.
  static let translations: UInt8 = 0x39

  static func add(_ geometry: ATADisk.Geometry, channel: Int, unit: Int, to firmware: FirmwareFiles) {
    let present = firmware.snapshot.cmos
    // Logical block translation where the BIOS's 1024 cylinders are not enough.
    let translation: UInt8 = geometry.cylinders > 1024 ? 1 : 0
    let shift = UInt8(truncatingIfNeeded: channel * 4 + unit * 2)
    firmware.set(cmos: translations, (present[translations] ?? 0) | translation << shift)
    guard channel == 0 else { return }
    firmware.set(cmos: types, (present[types] ?? 0) | (unit == 0 ? 0xF0 : 0x0F))
    firmware.set(cmos: extendedTypes[unit], 47)
    let low = UInt8(truncatingIfNeeded: geometry.cylinders)
    let high = UInt8(truncatingIfNeeded: geometry.cylinders >> 8)
    let bytes: [UInt8] = [
      low, high, UInt8(truncatingIfNeeded: geometry.heads), 0xFF, 0xFF, geometry.heads > 8 ? 0xC8 : 0xC0, low, high,
      UInt8(truncatingIfNeeded: geometry.sectors),
    ]
    for (index, byte) in bytes.enumerated() {
      firmware.set(cmos: geometries[unit] &+ UInt8(truncatingIfNeeded: index), byte)
    }
  }
}
