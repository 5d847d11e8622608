import Boards
import Devices
import LinuxSystem
import MachineModel
import Options
import Processes
import Sandbox

let start = monotonicNanoseconds()
StandardStream.ensureOpen()
let arguments = Array(CommandLine.arguments.dropFirst())
if arguments == [DeviceProcessMain.argument] { DeviceProcessMain.run() }
if arguments == [NetworkProcessMain.argument] { NetworkProcessMain.run() }

let status = VMRunCommand.launch(
  arguments,
  in: Environment(
    registry: catalog,
    resolve: { spec, registry in try Recipe.resolve(spec, registry: registry) },
    run: { spec, logLevel in
      let outcome = Supervisor.run(spec, registry: catalog, logLevel: logLevel, start: start)
      if let message = outcome.message { StandardStream.report("vmrun: \(message)") }
      return outcome.status
    },
    listEntries: { spec in try Supervisor.listEntries(spec) },
    sandboxPolicy: { policyText() }))
endProcessNow(status.code)
