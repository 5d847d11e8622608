import MachineModel

extension Recipe {
  /// The machine as a boot protocol describes it to a kernel. Where firmware starts the machine, it says the rest.
  /// - Parameter arguments: the kernel's command line, to which the board may add.
  public static func bootMachine(_ spec: MachineSpec, arguments: String) throws(BoardError) -> BootMachine {
    guard spec.mode == .pv else {
      var machine = BootMachine(layout: try layout(spec), arguments: arguments)
      machine.reserve(FirmwareKernel.firmwareMemory)
      return machine
    }
    return BootMachine(
      layout: try layout(spec), tables: PV.tables(spec).map { BootPlan.Load($0.bytes, at: $0.address) },
      rootPointer: PV.rootPointer, arguments: PV.arguments(arguments, spec))
  }

  /// What Linux calls the consoles that the machine has, the one to use first.
  public static func consoles(_ spec: MachineSpec) -> [String] {
    let ports: [UInt64] = [0x3F8, 0x2F8, 0x3E8, 0x2E8]
    let serial = spec.devices.filter { $0.model == "isa-serial" }.compactMap { device in
      device.integer("iobase").flatMap { ports.firstIndex(of: $0) }
    }
    let virtual = spec.devices.filter { $0.model == "virtconsole" }
    return serial.sorted().map { "ttyS\($0)" } + virtual.indices.map { "hvc\($0)" }
  }
}
