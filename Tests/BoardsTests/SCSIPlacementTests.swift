import DeviceKit
import Devices
import MachineModel
import Testing

@testable import Boards

@Suite struct SCSIPlacementTests {
  private func block(_ id: String, _ interface: BlockInterface? = .scsi) -> BlockSpec {
    BlockSpec(id: id, path: "/\(id).img", interface: interface)
  }
  private func drive(_ id: String, _ block: String, _ more: [String: PropertyValue] = [:]) -> DeviceSpec {
    DeviceSpec(model: "scsi-hd", id: id, properties: ["drive": .string(block)].merging(more) { $1 })
  }
  private func resolve(_ spec: MachineSpec) throws -> MachineSpec { try Recipe.resolve(spec, registry: catalog) }
  /// The controllers and drives in order: `scsi-hd disk0 scsi.0 0`.
  private func drives(_ spec: MachineSpec) -> [String] {
    spec.devices.compactMap { device in
      guard device.model != "virtio-scsi-pci" else { return device.id }
      guard device.model.hasPrefix("scsi-") else { return nil }
      return "\(device.model) \(device.string("drive") ?? "-") \(device.string("bus") ?? "?") "
        + "\(device.integer("scsi-id") ?? 999)"
    }
  }

  @Test(arguments: [Mode.hvm, .pvhvm]) func disksAndDiscsShareAControllerThatIsMadeForThem(mode: Mode) throws {
    let spec = MachineSpec(
      mode: mode, cpus: 3, blocks: [block("disk0"), block("disk1", nil), block("disk2"), block("cdrom0")])
    let resolved = try resolve(spec)
    #expect(
      drives(resolved) == ["scsi", "scsi-hd disk0 scsi.0 0", "scsi-hd disk2 scsi.0 1", "scsi-cd cdrom0 scsi.0 2"])
    #expect(resolved.devices.first { $0.id == "scsi" }?.integer("queues") == 3)
    let other = mode == .hvm ? "ide-hd" : "virtio-blk-pci"
    #expect(resolved.devices.contains { $0.model == other && $0.string("drive") == "disk1" })
  }

  @Test func withoutSCSIDrivesThereIsNoController() throws {
    let resolved = try resolve(MachineSpec(blocks: [block("disk0", nil), block("cdrom0", nil)]))
    #expect(drives(resolved).isEmpty)
    #expect(resolved.devices.contains { $0.model == "ide-cd" })
  }

  @Test func aControllerOfTheUsersIsUsedWhereverItStands() throws {
    let controller = DeviceSpec(model: "virtio-scsi-pci", id: "mine", properties: ["queues": .integer(5)])
    let resolved = try resolve(
      MachineSpec(blocks: [block("disk0"), block("disk1", nil)], devices: [drive("hd", "disk1"), controller]))
    #expect(drives(resolved) == ["mine", "scsi-hd disk0 scsi.0 0", "scsi-hd disk1 scsi.0 1"])
  }

  @Test func targetsThatTheUserChoseComeFirst() throws {
    let resolved = try resolve(
      MachineSpec(
        blocks: [block("disk0"), block("disk1"), block("disk2", nil)],
        devices: [drive("hd", "disk2", ["scsi-id": .integer(0)])]))
    #expect(
      drives(resolved) == ["scsi", "scsi-hd disk0 scsi.0 1", "scsi-hd disk1 scsi.0 2", "scsi-hd disk2 scsi.0 0"])
  }

  @Test func aTargetForTwoIsAnError() {
    let devices = ["disk0", "disk1"].map { drive("my-\($0)", $0, ["scsi-id": .integer(7)]) }
    let error = #expect(throws: BoardError.self) {
      try resolve(MachineSpec(blocks: [block("disk0"), block("disk1")], devices: devices))
    }
    #expect(
      error?.description == "devices my-disk0 and my-disk1 are both at scsi.0 target 7: change bus= or scsi-id= of one")
  }

  @Test func moreDrivesThanTargetsAreAnError() {
    let blocks = (0...256).map { block("disk\($0)") }
    let error = #expect(throws: BoardError.self) { try resolve(MachineSpec(blocks: blocks)) }
    #expect(error?.description.contains("no place for scsi-disk256") == true)
  }

  @Test func firmwareIsToldOfSCSIDrivesInTheBootOrder() throws {
    let target = drive("far", "disk2", ["scsi-id": .integer(0x1F)])
    var spec = MachineSpec(
      mode: .pvhvm, blocks: [block("disk0"), block("disk1", nil), block("disk2"), block("cdrom0")], devices: [target])
    func paths() throws -> [String] { try HVM.bootPaths(try resolve(spec), catalog) }
    // The virtio disk is in the first slot of a card, the controller in the next; the mode prefers virtio.
    let scsi = "/pci@i0cf8/scsi@4/channel@0/disk@"
    #expect(try paths() == ["/pci@i0cf8/scsi@3/disk@0,0", scsi + "0,0", scsi + "1f,0", scsi + "1,0"])
    spec.bootOrder = [.cdrom]
    #expect(try paths() == [scsi + "1,0"])
    spec.devices[0].properties["bootindex"] = .integer(0)
    #expect(try paths() == [scsi + "1f,0", scsi + "1,0"])
  }
}
