import CSandboxProbe
import Glibc
import LinuxSystem
import Sandbox
import Synchronization

/// The number of rt_sigreturn(2).
private let rtSigreturn = 15

/// Makes each system call with worthless arguments in a process of its own and prints how the filter took it.
func sweep(_ policy: BuiltInPolicy) {
  guard let file = try? Descriptor.memory(named: "record", size: 4096) else { give(up: "memfd") }
  let word = recordWord(in: file.raw)
  for number in 0..<462 {
    word.pointee.store(0, ordering: .releasing)
    let child = probe_fork()
    if child == 0 {
      do {
        let filter = try SystemCallFilter(try policy.policy())
        try Violation.report(to: word)
        signal(SIGUSR1) { _ in }
        alarm(5)
        try filter.install(on: .process)
        // Called out of place it loads registers and the signal mask from whatever is on the stack.
        if number == rtSigreturn { raise(SIGUSR1) } else { _ = probe_call(number, -1, -1, -1, -1, -1, -1) }
        _ = call("exit_group")
      } catch {
        give(up: "\(error)")
      }
    }
    var status: CInt = 0
    waitpid(child, &status, 0)
    let record = word.pointee.load(ordering: .acquiring)
    let died =
      record != 0 && status >> 8 & 0xff == Violation.exitStatus && UInt64(UInt32(number)) == record & 0xffff_ffff
    let forced = status & 0x7f == SIGSYS
    say("\(died ? "denied" : forced ? "killed" : "runs") \(syscallName(CInt(number)))")
  }
}

func onThread(_ name: String) {
  guard let file = try? Descriptor.memory(named: "record", size: 4096), let event = try? EventDescriptor(),
    let body = calls[name]
  else { give(up: "set-up") }
  let word = recordWord(in: file.raw)
  let number = event.descriptor.raw
  do {
    let filter = try SystemCallFilter(try BuiltInPolicy.vcpu.policy())
    try Violation.report(to: word, notify: number)
    let thread = try HostThread("vcpu") {
      do { try filter.install(on: .thread) } catch { give(up: "\(error)") }
      let result = body()
      _ = write(1, "result: \(result)\n", "result: \(result)\n".utf8.count)
      _ = signalEvent(number)
    }
    var entry = pollfd(fd: number, events: Int16(POLLIN), revents: 0)
    poll(&entry, 1, 5000)
    if let name = Violation.callName(word.pointee.load(ordering: .acquiring)) {
      say("violation: \(name)")
      // The other threads go on unfiltered.
      say("launcher: \(call("socket", 1, 1) >= 0 ? "alive" : "hurt")")
      exit(0)
    }
    thread.join()
    say("done")
  } catch {
    give(up: "\(error)")
  }
}
