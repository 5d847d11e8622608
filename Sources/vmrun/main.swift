import Devices
import LinuxSystem
import MachineModel
import Options

let status = VMRunCommand.launch(
  Array(CommandLine.arguments.dropFirst()),
  in: Environment(
    registry: catalog,
    resolve: { spec, _ in spec },
    run: { _, _ in throw SystemError("run", "this build", errno: 38) },
    sandboxPolicy: { "" }))
endProcess(status.code)
