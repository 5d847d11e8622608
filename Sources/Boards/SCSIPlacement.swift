import DeviceKit
import MachineModel

extension HVM {
  /// The controller that SCSI drives plug into.
  static let scsiController = "virtio-scsi-pci"

  /// A place for a SCSI drive: logical unit 0 of a target.
  struct SCSIPosition: Hashable, Sendable, CustomStringConvertible {
    /// The controller, in the order of the devices.
    let controller: Int
    let target: Int

    static let targets = 256

    init(controller: Int, target: Int) { (self.controller, self.target) = (controller, target) }

    /// Where a drive with a place is.
    init?(_ device: DeviceSpec) {
      guard let bus = device.string("bus"), bus.hasPrefix("scsi."), let controller = Int(bus.dropFirst(5)),
        let target = device.integer("scsi-id")
      else { return nil }
      self.init(controller: controller, target: Int(clamping: target))
    }

    var description: String { "scsi.\(controller) target \(target)" }
  }

  /// Gives every SCSI drive a place on a controller that is made before it, and makes one where there is none. Targets
  /// that the user chose come first, then the lowest that are free, in order.
  static func placeSCSIDrives(
    _ devices: inout [DeviceSpec], queues: Int, _ registry: Registry
  ) throws(BoardError) {
    var others: [DeviceSpec] = []
    var drives: [DeviceSpec] = []
    for device in devices {
      if try Recipe.model(of: device, registry).bus == .scsi { drives.append(device) } else { others.append(device) }
    }
    guard !drives.isEmpty else { return }
    if !others.contains(where: { $0.model == scsiController }) {
      let queues = PropertyValue.integer(UInt64(queues))
      others.append(DeviceSpec(model: scsiController, id: "scsi", properties: ["queues": queues]))
    }
    var taken: [SCSIPosition: String] = [:]
    // A target that is given leaves no choice.
    for index in drives.indices.filter({ drives[$0].integer("scsi-id") != nil })
      + drives.indices.filter({ drives[$0].integer("scsi-id") == nil })
    {
      let drive = drives[index]
      let bus = drive.properties["bus"] ?? .string("scsi.0")
      drives[index].properties["bus"] = bus
      let target = drive.integer("scsi-id").map { Int(clamping: $0) }
      let places = (target.map { $0...$0 } ?? 0...SCSIPosition.targets - 1).compactMap { target in
        var placed = drives[index]
        placed.properties["scsi-id"] = .integer(UInt64(target))
        return SCSIPosition(placed)
      }
      guard let place = places.first(where: { taken[$0] == nil }) else {
        guard let place = places.first, target != nil, let other = taken[place] else {
          throw BoardError("no place for \(drive.id): all targets of its controller are taken; use fewer disks")
        }
        throw BoardError("devices \(other) and \(drive.id) are both at \(place): change bus= or scsi-id= of one")
      }
      taken[place] = drive.id
      drives[index].properties["scsi-id"] = .integer(UInt64(place.target))
    }
    devices = others + drives
  }
}
