// A program that locks itself down as the device process does, for the tests:
//   sandbox-probe [--user] [--container] [--without-user-namespace] [--without-namespaces] [--open] run CALL
//                                                          one call in a locked-down device process, and how it ended
//   sandbox-probe [...] inspect                            what /proc shows of an idle one
//   sandbox-probe sweep POLICY                             which of the calls 0... run under the policy alone
//   sandbox-probe thread CALL                              one call on a thread under the vcpu policy
//   sandbox-probe orphan                                   dies after it printed the number of its device process
import CSandboxProbe
import Glibc
import Sandbox

var arguments = Array(CommandLine.arguments.dropFirst())
var namespaces = DeviceProcess.Namespaces.all
var filtered = true

if arguments.count >= 3, arguments[0] == "--device-process" {
  runDevice(arguments[1], filtered: arguments[2] == "filtered")
}
loop: while let first = arguments.first {
  switch first {
  case "--user":
    guard probe_become(1001, 1001) == 0 else { give(up: "setuid") }
  case "--without-user-namespace": namespaces = .process
  case "--without-namespaces": namespaces = []
  case "--container":
    guard probe_lose_administration() == 0 else { give(up: "capabilities") }
    namespaces = []
  case "--open": filtered = false
  default: break loop
  }
  arguments.removeFirst()
}
switch (arguments.first, arguments.dropFirst().first) {
case ("run", let call?): launch(call, namespaces: namespaces, filtered: filtered)
case ("inspect", _): launch("hold", namespaces: namespaces, filtered: filtered)
case ("orphan", _): launch("stay", namespaces: namespaces, filtered: filtered, orphan: true)
case ("sweep", let name?):
  guard let policy = BuiltInPolicy(rawValue: name) else { give(up: "no policy \(name)") }
  sweep(policy)
case ("thread", let call?): onThread(call)
case ("policies", _): print(policyText(), terminator: "")
default: give(up: "usage")
}
