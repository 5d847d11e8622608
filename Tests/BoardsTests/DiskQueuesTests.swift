import DeviceKit
import Devices
import MachineModel
import Testing

@testable import Boards

@Suite struct DiskQueuesTests {
  /// The queues of the virtio disk that the recipe makes of an image.
  private func queues(_ mode: Mode, cpus: Int, _ interface: BlockInterface? = .virtio) throws -> UInt64? {
    let block = BlockSpec(id: "disk0", path: "/disk0", format: .raw, interface: interface)
    let resolved = try Recipe.resolve(MachineSpec(mode: mode, cpus: cpus, blocks: [block]), registry: catalog)
    return resolved.devices.compactMap { $0.integer("queues") }.first
  }

  @Test func disksHaveAQueueForEachProcessorAndAtLeastTwoWhereTheModeIsParavirtual() throws {
    #expect(try [1, 2, 5, 64].map { try queues(.pvhvm, cpus: $0) } == [2, 2, 5, 16])
    #expect(try [1, 2, 5, 64].map { try queues(.hvm, cpus: $0) } == [1, 2, 5, 16])
    // One interrupt for all of them.
    #expect(try [1, 2, 5, 64].map { try queues(.pv, cpus: $0) } == [2, 2, 2, 2])
    #expect(try queues(.pvhvm, cpus: 1, .scsi) == 2)
  }

  @Test func oneProcessorHasAnAbsentOneBesideItWhereTheModeIsParavirtual() {
    #expect(Mode.allCases.map { MachineSpec(mode: $0, cpus: 1).absentCPUs }.sorted() == [0, 1, 1])
    #expect(MachineSpec(mode: .hvm, cpus: 1).absentCPUs == 0)
    #expect(Mode.allCases.allSatisfy { MachineSpec(mode: $0, cpus: 2).absentCPUs == 0 })
  }
}
