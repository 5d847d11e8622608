import DeviceKit
import MachineModel
import Options

/// Swift Testing has one too.
typealias ExitStatus = MachineModel.ExitStatus

/// A registry with an option of every kind.
let registry = Registry([
  model(
    "pc-board", .system, "Board with an option of every kind",
    [
      OptionSpec("iobase", .integer(0...0xFFF8), default: .integer(0x3F8), "First port"),
      OptionSpec("irq", .integer(3...15), default: .integer(4), "Interrupt"),
      OptionSpec("msi", .boolean, default: .boolean(false), "Message signalled interrupts"),
      OptionSpec("vgamem", .size(1 << 20...256 << 20), default: .integer(16 << 20), "Frame buffer"),
      OptionSpec("label", .string(maximumLength: 8), "Text"),
    ]),
  model(
    "isa-serial", .isa, "16550A serial port",
    [OptionSpec("chardev", .character, "Connection")]),
  model("std-vga", .pci, "Standard VGA", [OptionSpec("addr", .pciAddress, default: .string("02.0"), "PCI address")]),
  model(
    "ide-hd", .ide, "Hard disk",
    [
      OptionSpec("drive", .block, "Disk"),
      OptionSpec("bus", .choice(["ide.0", "ide.1"]), "Channel"),
      OptionSpec("unit", .integer(0...1), "0 is the master"),
    ]),
])

private func model(_ name: String, _ bus: BusKind, _ summary: String, _ options: [OptionSpec]) -> DeviceModel {
  DeviceModel(name: name, summary: summary, bus: bus, options: options) {
    (id: String, _: Properties, _: Board) throws(DeviceError) -> Device in Device(id: id)
  }
}

struct BoardFull: Error, CustomStringConvertible {
  let description = "--disk: the board has room for four disks"
}

/// The request that a command line makes of an environment whose board takes four disks.
func request(_ line: String) -> Request { request(line.split(separator: " ").map(String.init)) }

func request(_ arguments: [String]) -> Request {
  VMRunCommand.request(
    arguments,
    in: Environment(
      registry: registry,
      resolve: { spec, _ in
        guard spec.blocks.count <= 4 else { throw BoardFull() }
        return spec
      },
      run: { _, _ in .poweredOff }, sandboxPolicy: { "read: disks\n" }))
}

/// The machine that a command line describes; nil when it is refused.
func machine(_ line: String) -> MachineSpec? {
  guard case .run(let spec, _) = request(line) else { return nil }
  return spec
}
