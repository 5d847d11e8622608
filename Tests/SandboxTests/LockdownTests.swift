import Glibc
import Testing

@testable import Sandbox

struct LockdownTests {
  static let needsRoot: Comment = "only root can take the parts of other users"
  static let noneMissing = Comment(rawValue: "refused by this host: \(Host.missingLayers.joined(separator: "; "))")

  @Test(.enabled(if: Host.offersAll, noneMissing), arguments: Host.users)
  func nothingIsLeftOfTheHost(_ user: String) {
    let output = Probe.run("\(user) inspect")
    #expect(output.all("missing") == [])
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
      #expect(output[set] == "0000000000000000", "\(set)")
    }
    #expect(output["NoNewPrivs"] == "1")
    #expect(output["Seccomp"] == "2")
    #expect(output["NSpid"]?.split(separator: "\t").last == "1")
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts"] {
      #expect(output["ns \(namespace)"] == "own", "\(namespace)")
    }
    #expect(output["root"] == "empty")
    #expect(output["status"] == "exited 0")
  }

  @Test(.enabled(if: Host.isRoot, needsRoot), .enabled(if: Host.offersAll, noneMissing))
  func rootsDeviceProcessIsNotRootAndHasOnlyTheGivenDescriptors() {
    let output = Probe.run("inspect")
    #expect(output["Uid"] == "65534\t65534\t65534\t65534")
    #expect(output["Gid"] == "65534\t65534\t65534\t65534")
    // An ordinary user's process cannot leave its groups (user_namespaces(7)).
    #expect(output["Groups"] == "")
    #expect(output["descriptors"] == "0 1 2 3 4")
    #expect(output["stdin"] == "/dev/null")
    #expect(output["core limit"] == "0 0")
  }

  @Test(.enabled(if: Host.offersAll, noneMissing), arguments: Host.users)
  func theOtherLayersHoldWithoutTheFilter(_ user: String) {
    let output = Probe.run("\(user) --open run probe-files")
    #expect(output["open"] == "\(-ENOENT)")
    #expect(output["list"] == "\(-EACCES)")
    #expect(output["create"] == "\(-EROFS)")
    #expect(output["up"] == "\(-ENOENT)")
    #expect(output["bind"] == "\(-EACCES)")
    #expect(output["mount"] == "\(-EPERM)")
  }

  @Test(.enabled(if: Host.isRoot, needsRoot), .enabled(if: Host.offersAll, noneMissing))
  func rootWithoutUserNamespacesStillLosesEverythingAndSaysSo() {
    let output = Probe.run("--without-user-namespace inspect")
    #expect(output.all("missing") == ["no user namespace: not asked for"])
    #expect(output["Uid"] == "65534\t65534\t65534\t65534")
    #expect(output["CapBnd"] == "0000000000000000")
    #expect(output["CapEff"] == "0000000000000000")
    #expect(output["ns user"] == "shared")
    #expect(output["ns pid"] == "own")
    #expect(output["ns mnt"] == "own")
    #expect(output["root"] == "empty")
  }

  @Test(.enabled(if: Host.isRoot, needsRoot), .enabled(if: Host.offersAll, noneMissing))
  func anOrdinaryUserWithoutNamespacesKeepsLandlockAndTheFilterAndSaysWhatIsMissing() {
    let output = Probe.run("--user --without-namespaces inspect")
    #expect(
      output.all("missing") == [
        "no user and PID namespaces: not asked for",
        "no mount, network, IPC and UTS namespaces: CAP_SYS_ADMIN is missing",
        "no empty root: CAP_SYS_CHROOT is missing",
        "capability bounding set not emptied: prctl(PR_CAPBSET_DROP): Operation not permitted",
      ])
    #expect(output["CapEff"] == "0000000000000000")
    #expect(output["NoNewPrivs"] == "1")
    #expect(output["Seccomp"] == "2")
    #expect(Probe.run("--user --without-namespaces --open run probe-files")["open"] == "\(-EACCES)")
    #expect(Probe.run("--user --without-namespaces run socket")["status"] == "violation socket")
  }

  /// A container with CAP_SYS_CHROOT but not CAP_SYS_ADMIN, as Docker makes them.
  @Test(.enabled(if: Host.isRoot, needsRoot), .enabled(if: Host.offersAll, noneMissing))
  func rootWithoutTheRightToMountIsPutIntoAnEmptyDirectory() {
    let output = Probe.run("--container inspect")
    #expect(
      output.all("missing") == [
        "no user and PID namespaces: not asked for",
        "no mount, network, IPC and UTS namespaces: CAP_SYS_ADMIN is missing",
      ])
    #expect(output["root"] == "empty")
    #expect(output["Uid"] == "65534\t65534\t65534\t65534")
    #expect(output["CapBnd"] == "0000000000000000")
    let files = Probe.run("--container --open run probe-files")
    #expect(files["open"] == "\(-ENOENT)")
    #expect(files["create"] == "\(-ENOENT)")
  }

  /// In a user namespace whose own limit of user namespaces is 0.
  @Test(.enabled(if: Host.offersAll, noneMissing))
  func aHostWithoutUserNamespacesIsAnsweredWithTheLayersItHas() {
    let output = Probe.shell(
      "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; \(Probe.program) inspect'")
    #expect(
      output.all("missing") == [
        "no user namespace: clone: No space left on device (see sysctl user.max_user_namespaces)",
        // That namespace has no user 65534.
        "still the launcher's user: setresgid: Invalid argument",
      ])
    #expect(output["CapEff"] == "0000000000000000")
    #expect(output["CapBnd"] == "0000000000000000")
    #expect(output["ns pid"] == "own")
    #expect(output["ns mnt"] == "own")
    #expect(output["root"] == "empty")
  }

  @Test(arguments: Host.users)
  func theDeviceProcessDiesWithItsLauncher(_ user: String) throws {
    // Its stderr must not be the pipe that the test reads to its end.
    let pid = try #require(pid_t(Probe.run("\(user) orphan 2>/dev/null")["pid"] ?? ""))
    var tries = 0
    while Probe.isRunning(pid), tries < 100 {
      usleep(10_000)
      tries += 1
    }
    #expect(tries < 100, "process \(pid) is still there after a second")
  }

  @Test func endsAreTold() {
    let call: UInt64 = 0xc000_003e << 32 | 41
    #expect(ChildStatus(code: CInt(CLD_EXITED), status: 0, violation: 0) == .exited(0))
    #expect(ChildStatus(code: CInt(CLD_EXITED), status: 126, violation: 0) == .exited(126))
    #expect(ChildStatus(code: CInt(CLD_EXITED), status: 126, violation: call) == .sandboxViolation("socket"))
    #expect(ChildStatus(code: CInt(CLD_KILLED), status: SIGKILL, violation: call) == .killed(signal: SIGKILL))
    #expect(ChildStatus(code: CInt(CLD_DUMPED), status: SIGSYS, violation: call) == .sandboxViolation("socket"))
    // Number 0 is read(2): the architecture in the upper half marks the record.
    #expect(Violation.callName(0xc000_003e << 32) == "read")
    #expect(Violation.callName(0) == nil)
  }

  @Test func aFailedStartIsReportedByItsStep() {
    let error = #expect(throws: SandboxError.self) {
      _ = try DeviceProcess.spawn(arguments: ["vmrun"], descriptors: [9999]).pid
    }
    #expect(error == .start(.launch, .init("dup", errno: EBADF)))
  }

  @Test(
    arguments: [
      (1, 0x1fff, 0, 0, 8), (2, 0x3fff, 0, 0, 8), (3, 0x7fff, 0, 0, 8), (4, 0x7fff, 3, 0, 16),
      (5, 0xffff, 3, 0, 16), (6, 0xffff, 3, 3, 24), (9, 0xffff, 3, 3, 24),
    ] as [(CInt, UInt64, UInt64, UInt64, UInt)])
  func landlockHandlesWhatTheKernelsABIHas(
    abi: CInt, files: UInt64, network: UInt64, scopes: UInt64, size: UInt
  ) {
    let ruleset = Landlock.ruleset(abi: abi)
    #expect(ruleset.handled_access_fs == files)
    #expect(ruleset.handled_access_net == network)
    #expect(ruleset.scoped == scopes)
    #expect(Landlock.size(abi: abi) == size)
  }
}
