import DeviceKit
import Devices
import MachineModel

/// The recipe of `--mode pv`: a kernel that knows it is a guest, started without firmware; processors with their local
/// APICs, an I/O APIC, a serial port, and a virtio-mmio slot for each disk, network and what else the user names.
enum PV {
  /// The board's own models in the order they are made.
  static let boardModels = ["acpi-power", "exit", "pvpanic", "virtio-rng-device"]

  /// A disk of the guest's for each image, CD-ROMs too: their drives cannot be told from disks that are read-only.
  static func drives(_ blocks: [BlockSpec], of spec: MachineSpec) throws(BoardError) -> [DeviceSpec] {
    var devices: [DeviceSpec] = []
    for block in blocks {
      guard block.interface ?? .virtio == .virtio else {
        throw BoardError("\(block.id): mode pv has no \(block.interface?.rawValue ?? "") disks; leave if= out")
      }
      // Its queues share one interrupt, so more than two would not help.
      let queues = PropertyValue.integer(UInt64(min(spec.diskQueues, 2)))
      devices.append(
        DeviceSpec(
          model: "virtio-blk-device", id: "virtio-\(block.id)",
          properties: ["drive": .string(block.id), "queues": queues]))
    }
    return devices
  }

  /// Puts the host bridge in front where there is a PCI device.
  static func addHostBridge(_ devices: inout [DeviceSpec], _ registry: Registry) throws(BoardError) {
    for device in devices where try Recipe.model(of: device, registry).bus == .pci {
      return devices.insert(DeviceSpec(model: PCIHostBridge.modelName, id: PCIHostBridge.modelName), at: 0)
    }
  }

  private static func hasPCI(_ devices: [DeviceSpec]) -> Bool {
    devices.contains { $0.model == PCIHostBridge.modelName }
  }

  /// Puts every device without a slot of its own into the lowest free one, in order.
  static func placeDevices(_ devices: inout [DeviceSpec], _ registry: Registry) throws(BoardError) {
    // The PCI bus has the interrupts of some slots.
    let count = UInt64(VirtioMMIO.slotCount)
    let lost =
      hasPCI(devices) ? (0..<count).filter { PCIHostBridge.inputs.contains(VirtioMMIO.interrupts[Int($0)]) } : []
    var taken = lost
    var waiting: [Int] = []
    for (index, device) in devices.enumerated() where try Recipe.model(of: device, registry).bus == .virtioMMIO {
      guard let slot = device.integer(VirtioMMIO.slotOption) else {
        waiting.append(index)
        continue
      }
      guard !lost.contains(slot) else {
        throw BoardError(
          "device \(device.id): the PCI bus has the interrupt of virtio-mmio slot \(slot); give another slot=")
      }
      guard !taken.contains(slot) else {
        throw BoardError("device \(device.id): virtio-mmio slot \(slot) is taken; give another slot=")
      }
      taken.append(slot)
    }
    // Disks first, so that their names do not depend on what else there is.
    let disks = waiting.filter { devices[$0].model == "virtio-blk-device" }
    for index in disks + waiting.filter({ !disks.contains($0) }) {
      guard let slot = (0..<count).first(where: { !taken.contains($0) }) else {
        throw BoardError(
          "no virtio-mmio slot is left for \(devices[index].id): there are \(Int(count) - lost.count); use fewer devices"
        )
      }
      taken.append(slot)
      devices[index].properties[VirtioMMIO.slotOption] = .integer(slot)
    }
  }
}

// MARK: What the kernel is told

extension PV {
  /// Where the RSDP is.
  static let rootPointer = ReducedACPITables.address

  static func description(_ spec: MachineSpec) -> ReducedMachine {
    var slots: [ReducedMachine.Slot] = []
    for device in spec.devices {
      guard let number = device.integer(VirtioMMIO.slotOption).flatMap(Int.init(exactly:)),
        let place = VirtioMMIO.place(slot: number)
      else { continue }
      slots.append(
        ReducedMachine.Slot(
          number: number, address: UInt32(truncatingIfNeeded: place.address), size: UInt32(VirtioMMIO.size),
          interrupt: place.interrupt))
    }
    return ReducedMachine(
      cpus: spec.cpus, absentCPUs: spec.absentCPUs, slots: slots.sorted { $0.number < $1.number },
      serialPorts: ACPIMachine.serialPorts(spec),
      pvpanicPort: ACPIMachine.pvpanicPort(spec), pciHole: hasPCI(spec.devices) ? pciHole(spec.memory) : nil)
  }

  /// Addresses for PCI devices: from the end of RAM below 4 GiB to the slots.
  private static func pciHole(_ memory: UInt64) -> Range<UInt32> {
    let low = UInt32(truncatingIfNeeded: min(memory, PCMemoryLayout.maximumLowMemory))
    return low..<UInt32(truncatingIfNeeded: VirtioMMIO.base)
  }

  /// The tables that a firmware would leave in memory, and where.
  static func tables(_ spec: MachineSpec) -> [(address: UInt64, bytes: [UInt8])] {
    let machine = description(spec)
    return [
      (ReducedACPITables.address, ReducedACPITables(machine).bytes),
      (MultiprocessorTable.address, MultiprocessorTable(machine).bytes),
      (resetEntry, resetCode),
    ]
  }

  /// Where kernels jump to in real mode that reset by the BIOS: F000:FFF0. Linux does under hardware-reduced ACPI, for
  /// which it wants EFI's reset in place of the reset register.
  static let resetEntry: UInt64 = 0xF_FFF0

  /// Writes the reset register's value, and waits: MOV AL, n; OUT n, AL; HLT; JMP to the HLT.
  private static let resetCode: [UInt8] = [
    0xB0, ReducedPowerDevice.resetValue, 0xE6, UInt8(ReducedPowerDevice.resetPort), 0xF4, 0xEB, 0xFD,
  ]

  /// The kernel's command line: as given, and where it turns ACPI off, with the devices that the tables would name
  /// (Linux, virtio_mmio.device=).
  static func arguments(_ given: String, _ spec: MachineSpec) -> String {
    guard given.split(separator: " ").contains("acpi=off") else { return given }
    let devices = description(spec).slots.map { slot in
      "virtio_mmio.device=\(slot.size >> 10)K@0x\(String(slot.address, radix: 16)):\(slot.interrupt)"
    }
    return ([given] + devices).joined(separator: " ")
  }
}
