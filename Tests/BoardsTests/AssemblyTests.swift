import DeviceKit
import Devices
import MachineModel
import TestKit
import Testing

@testable import Boards

@Suite struct AssemblyTests {
  private let network = RecordingNetwork()
  private let characters = [RecordingCharacter(), RecordingCharacter()]

  private func devices(_ mode: Mode, _ card: NetworkCard) throws -> [Device] {
    var spec = MachineSpec(mode: mode, memory: 4 << 20)
    spec.characters = [CharacterSpec(id: "serial0", endpoint: .null), CharacterSpec(id: "serial1", endpoint: .null)]
    spec.networks = [
      NetworkSpec(id: "net0", endpoint: .user(forwards: []), card: card, mac: MACAddress(machine: "a", index: 0))
    ]
    if mode == .pv {
      spec.devices = [
        DeviceSpec(model: "virtio-serial-device", id: "console"),
        DeviceSpec(model: "virtconsole", id: "port", properties: ["chardev": .string("serial1")]),
      ]
    }
    let resources = FakeResources(
      characters: ["serial0": characters[0], "serial1": characters[1]], networks: ["net0": network],
      files: ["firmware": [UInt8](repeating: 0x90, count: 256 << 10), "vgabios": [UInt8](repeating: 0x55, count: 4096)])
    let fake = FakeBoard(ramSize: 4 << 20, resources: resources)
    return try Recipe.assemble(try Recipe.resolve(spec, registry: catalog), registry: catalog, on: fake.board)
  }

  @Test(arguments: [(.hvm, .e1000), (.hvm, .rtl8139), (.pvhvm, .virtio), (.pv, .virtio)] as [(Mode, NetworkCard)])
  func noBackendCallsADeviceBeforeTheMachineIsComplete(_ mode: Mode, _ card: NetworkCard) throws {
    let devices = try devices(mode, card)
    #expect(network.attached == nil)
    #expect(characters.allSatisfy { $0.attached == nil })
    for device in devices { device.start() }
    #expect(network.attached != nil)
    #expect(characters.allSatisfy { $0.attached != nil })
  }
}
