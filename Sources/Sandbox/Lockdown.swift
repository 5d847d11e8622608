import CCap
import CSandbox
import LinuxSystem

/// Takes everything from a process but its open descriptors and what its role needs.
public enum Lockdown {
  /// What a process is for.
  public enum Role: Sendable {
    /// It holds the device models and reaches nothing.
    case devices
    /// It has the host's network, and can read these files, by their path, and no other.
    case network(files: [String: [UInt8]])

    fileprivate var processName: StaticString {
      switch self {
      case .devices: "vmrun-devices"
      case .network: "vmrun-network"
      }
    }

    fileprivate var files: [String: [UInt8]] {
      if case .network(let files) = self { files } else { [:] }
    }

    fileprivate var hasNetwork: Bool {
      if case .network = self { true } else { false }
    }
  }

  /// Locks down the calling process, which `DeviceProcess.spawn` started and which has one thread. `channel` is its
  /// socket to the launcher: where the launcher has died the process ends here. The system call filter is not part of
  /// it: `SystemCallFilter.install` comes after, as the last step.
  ///
  /// Returns one line for each layer that the host refused; throws where the process would keep a capability or could
  /// gain one.
  public static func enter(_ role: Role = .devices, channel: CInt) throws(SandboxError) -> [String] {
    let start = startLayers()
    awaitRelease()
    var missing: [String] = []
    _ = csandbox_prctl(PR_SET_NAME, UInt(bitPattern: role.processName.utf8Start))
    if start.contains(.changesIdentity) { changeIdentity(&missing) }
    emptyNamespaces(role, &missing)
    lowerLimits(ownUserNamespace: start.contains(.userNamespace), &missing)
    guard csandbox_prctl(PR_SET_NO_NEW_PRIVS, 1) == 0 else {
      throw .system(SystemError("prctl(PR_SET_NO_NEW_PRIVS)"))
    }
    do throws(SystemError) { try Landlock.deny(allBut: role.files.keys.sorted(), network: !role.hasNetwork) } catch {
      missing.append("no Landlock: \(error)")
    }
    missing += try Capabilities.drop()
    // No debugger of the same user attaches, no core is written, /proc/PID/mem is closed.
    guard csandbox_prctl(PR_SET_DUMPABLE, 0) == 0 else { throw .system(SystemError("prctl(PR_SET_DUMPABLE)")) }
    umask(0o777)
    // The change of user cleared it.
    guard csandbox_prctl(PR_SET_PDEATHSIG, UInt(SIGKILL)) == 0 else {
      throw .system(SystemError("prctl(PR_SET_PDEATHSIG)"))
    }
    if hasHungUp(channel) { exit(125) }
    return missing
  }

  /// From now on the end of the launcher, however it ends, puts the terminal back into `mode` (as
  /// `TerminalMode.bytes`) and ends this process. To be called after `enter` if at all, before the filter is installed.
  public static func guardTerminal(_ terminal: CInt, mode: [UInt8], channel: CInt) throws(SandboxError) {
    guard csandbox_guard_terminal(terminal, mode, UInt(mode.count)) == 0 else {
      throw .system(SystemError("prctl(PR_SET_PDEATHSIG)"))
    }
    if hasHungUp(channel) { raise(SIGUSR2) }
  }

  /// Puts the guarded terminal back, for a launcher whose end was noticed by other means first.
  public static func restoreTerminal() { csandbox_restore_terminal() }

  private static func startLayers() -> StartLayers {
    guard let value = getenv(StartLayers.variable) else { return [] }
    return StartLayers(rawValue: UInt8(String(cString: value)) ?? 0)
  }

  /// Waits until the launcher has given the user namespace its user.
  private static func awaitRelease() {
    guard let value = getenv(StartLayers.control), let control = CInt(String(cString: value)) else { return }
    var byte: UInt8 = 0
    let count = try? retrying("read") { read(control, &byte, 1) }
    // The launcher has died.
    guard count == 1 else { exit(125) }
    close(control)
  }

  /// Changes to user and group 65534 and leaves every other group, keeping capabilities for the steps to come.
  private static func changeIdentity(_ missing: inout [String]) {
    let id = DeviceProcess.nobody
    do throws(SystemError) {
      try retrying("prctl(PR_SET_KEEPCAPS)") { csandbox_prctl(PR_SET_KEEPCAPS, 1) }
      // Refused in a user namespace that maps the launcher's own group, where the groups cannot be left.
      if setgroups(0, nil) != 0, currentErrno != EPERM { throw SystemError("setgroups") }
      try retrying("setresgid") { csandbox_set_group(id) }
      try retrying("setresuid") { csandbox_set_user(id) }
      try Capabilities.raisePermitted()
    } catch {
      missing.append("still the launcher's user: \(error)")
    }
  }

  /// Mount, IPC and UTS namespaces and, without a network, one of that kind, with nothing in them; and a root with
  /// nothing but the role's files.
  private static func emptyNamespaces(_ role: Role, _ missing: inout [String]) {
    guard Capabilities.has(CAP_SYS_ADMIN) else {
      missing.append("no mount, \(role.hasNetwork ? "" : "network, ")IPC and UTS namespaces: CAP_SYS_ADMIN is missing")
      chrootInstead(role, &missing)
      return
    }
    var namespaces: [(name: String, flag: Int)] = [
      ("mount", CSANDBOX_NEW_MOUNT), ("IPC", CSANDBOX_NEW_IPC), ("UTS", CSANDBOX_NEW_UTS),
    ]
    if !role.hasNetwork { namespaces.append(("network", CSANDBOX_NEW_NETWORK)) }
    var hasMounts = true
    if csandbox_unshare(CInt(namespaces.reduce(0) { $0 | $1.flag })) != 0 {
      // One by one, to have those that can be had.
      for namespace in namespaces where csandbox_unshare(CInt(namespace.flag)) != 0 {
        missing.append("no \(namespace.name) namespace: \(SystemError("unshare"))")
        if namespace.flag == CSANDBOX_NEW_MOUNT { hasMounts = false }
      }
    }
    guard hasMounts else { return chrootInstead(role, &missing) }
    do throws(SystemError) { try EmptyRoot.pivot(files: role.files) } catch {
      missing.append("no empty root: \(error)")
    }
  }

  private static func chrootInstead(_ role: Role, _ missing: inout [String]) {
    guard role.files.isEmpty else {
      missing.append("no root of its own: it cannot be made without a mount namespace")
      return
    }
    guard Capabilities.has(CAP_SYS_CHROOT) else {
      missing.append("no empty root: CAP_SYS_CHROOT is missing")
      return
    }
    do throws(SystemError) { try EmptyRoot.chrootIntoRemovedDirectory() } catch {
      missing.append("no empty root: \(error)")
    }
  }

  /// Sizes of files and address space stay: disks grow and guest memory is mapped.
  private static func lowerLimits(ownUserNamespace: Bool, _ missing: inout [String]) {
    var limits: [(name: String, resource: csandbox_limit, most: UInt64)] = [
      ("RLIMIT_CORE", CSANDBOX_LIMIT_CORE, 0),
      ("RLIMIT_NOFILE", CSANDBOX_LIMIT_OPEN_FILES, 4096),
      ("RLIMIT_MEMLOCK", CSANDBOX_LIMIT_LOCKED_MEMORY, 0),
      ("RLIMIT_MSGQUEUE", CSANDBOX_LIMIT_MESSAGE_QUEUES, 0),
      ("RLIMIT_NICE", CSANDBOX_LIMIT_NICE, 0),
      ("RLIMIT_RTPRIO", CSANDBOX_LIMIT_REALTIME_PRIORITY, 0),
    ]
    // Elsewhere it counts all the user's processes, and threads could not be started.
    if ownUserNamespace { limits.append(("RLIMIT_NPROC", CSANDBOX_LIMIT_PROCESSES, 512)) }
    for limit in limits where csandbox_lower_limit(limit.resource, limit.most) != 0 {
      missing.append("\(limit.name) not lowered: \(SystemError("setrlimit"))")
    }
  }

  private static func hasHungUp(_ channel: CInt) -> Bool {
    var entry = pollfd(fd: channel, events: 0, revents: 0)
    return poll(&entry, 1, 0) == 1 && entry.revents & Int16(POLLHUP) != 0
  }
}
