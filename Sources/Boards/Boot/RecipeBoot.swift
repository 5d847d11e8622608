import MachineModel

extension Recipe {
  /// The machine as a boot protocol describes it to a kernel; nil: firmware starts the machine.
  /// - Parameter arguments: the kernel's command line, to which the board may add.
  public static func bootMachine(_ spec: MachineSpec, arguments: String) throws(BoardError) -> BootMachine? {
    guard spec.mode == .pv else { return nil }
    return BootMachine(
      layout: try layout(spec), tables: PV.tables(spec).map { BootPlan.Load($0.bytes, at: $0.address) },
      rootPointer: PV.rootPointer, arguments: PV.arguments(arguments, spec))
  }
}
