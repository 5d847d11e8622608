import CSandbox
import LinuxSystem

/// What the new process got at its start; `Lockdown` takes it from there. Crosses by an environment variable.
struct StartLayers: OptionSet {
  static let variable = "VMRUN_START_LAYERS"
  /// The number of a socket, on which a byte comes when the user namespace has its user.
  static let control = "VMRUN_START_CONTROL"
  let rawValue: UInt8

  static let userNamespace = StartLayers(rawValue: 1)
  /// The launcher is root: the process must change to `DeviceProcess.nobody`.
  static let changesIdentity = StartLayers(rawValue: 2)
}

/// Starts the process that runs the device models: this program again, in namespaces of its own.
public enum DeviceProcess {
  /// The user and group the device process runs as.
  static let nobody: CUnsignedInt = 65534

  /// What to run: see `spawn(arguments:environment:descriptors:isolated:)`.
  package struct Program {
    let arguments: [String]
    let environment: [String]
    let descriptors: [CInt]

    package init(arguments: [String], environment: [String], descriptors: [CInt]) {
      (self.arguments, self.environment, self.descriptors) = (arguments, environment, descriptors)
    }
  }

  /// Which namespaces a start may ask for; tests leave some out to stand for hosts that refuse them.
  package struct Namespaces: OptionSet, Sendable {
    package let rawValue: UInt
    package init(rawValue: UInt) { self.rawValue = rawValue }
    package static let user = Namespaces(rawValue: UInt(CSANDBOX_NEW_USER))
    package static let process = Namespaces(rawValue: UInt(CSANDBOX_NEW_PROCESS))
    package static let all: Namespaces = [.user, .process]
  }

  /// Executes this program with `arguments` (the first is its name) and `environment` (`NAME=value`).
  ///
  /// In the new process the given descriptors are 3, 4, 5... in their order, 0 and 1 are /dev/null, 2 is this one's
  /// stderr and nothing else is open. It is a session of its own, in its own user and PID namespace where the host
  /// allows, and gets SIGKILL when the calling *thread* ends: call this from one that lives as long as the run.
  /// With `isolated` false no namespace is asked for.
  public static func spawn(
    arguments: [String], environment: [String] = [], descriptors: [CInt], isolated: Bool = true
  ) throws(SandboxError) -> ChildProcess {
    let program = Program(arguments: arguments, environment: environment, descriptors: descriptors)
    guard isolated else { return try start(program, [], [], missing: []) }
    return try spawn(program, trying: .all)
  }

  /// Tries the namespaces, then fewer: a PID namespace alone needs root.
  package static func spawn(_ program: Program, trying namespaces: Namespaces) throws(SandboxError) -> ChildProcess {
    let identity: StartLayers = geteuid() == 0 ? .changesIdentity : []
    var reason = "not asked for"
    if namespaces.contains(.user) {
      do throws(SandboxError) {
        return try start(program, namespaces, identity, missing: [])
      } catch {
        guard error.isRefusal else { throw error }
        reason = error.reason
      }
    }
    if identity == .changesIdentity, namespaces.contains(.process) {
      do throws(SandboxError) {
        return try start(program, .process, identity, missing: ["no user namespace: \(reason)"])
      } catch {
        guard error.isRefusal else { throw error }
      }
    }
    return try start(program, [], identity, missing: ["no user and PID namespaces: \(reason)"])
  }

  private static func start(
    _ program: Program, _ namespaces: Namespaces, _ identity: StartLayers, missing: [String]
  ) throws(SandboxError) -> ChildProcess {
    let executable = try asSandboxError { () throws(SystemError) in
      Descriptor(owning: try retrying("open", "/proc/self/exe") { csandbox_open_self() })
    }
    let null = try asSandboxError { () throws(SystemError) in try Descriptor.open("/dev/null", O_RDWR) }
    var pair: [CInt] = [-1, -1]
    guard socketpair(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
      throw .system(SystemError("socketpair"))
    }
    let control = Descriptor(owning: pair[0])
    let childControl = Descriptor(owning: pair[1])

    var layers = identity
    if namespaces.contains(.user) { layers.insert(.userNamespace) }
    let environment =
      program.environment + [
        "\(StartLayers.variable)=\(layers.rawValue)", "\(StartLayers.control)=\(3 + program.descriptors.count)",
        // The crash reporter would start a process, which the policy forbids.
        "SWIFT_BACKTRACE=enable=no",
      ]
    let argumentStrings = CStrings(program.arguments)
    let environmentStrings = CStrings(environment)
    var scratch = [CInt](repeating: -1, count: program.descriptors.count + 3)
    var rawPidfd: CInt = -1
    var error: CInt = 0
    // Safety: the child uses this memory until it executes the program, which the call waits for.
    let pid = program.descriptors.withUnsafeBufferPointer { descriptors in
      scratch.withUnsafeMutableBufferPointer { scratch in
        var child = csandbox_child(
          executable: executable.raw, null: null.raw, control: childControl.raw, parent_control: control.raw,
          descriptors: descriptors.baseAddress, descriptor_count: CInt(descriptors.count), scratch: scratch.baseAddress,
          namespaces: namespaces.rawValue, arguments: argumentStrings.pointers,
          environment: environmentStrings.pointers)
        let pid = csandbox_start(&child, &rawPidfd)
        error = currentErrno
        return pid
      }
    }
    guard pid > 0 else { throw .start(.clone, SystemError("clone", errno: error)) }
    guard rawPidfd >= 0 else {
      // Kernels before 5.3 ignore CLONE_PIDFD. The child ends because `control` closes.
      throw .start(.clone, SystemError("clone(CLONE_PIDFD)", errno: ENOSYS))
    }
    _ = consume childControl
    let pidfd = Descriptor(owning: rawPidfd)
    var missing = missing
    do throws(SandboxError) {
      try checkStart(control)
      if namespaces.contains(.user), let line = try mapIdentity(of: pid) { missing.append(line) }
      try release(control)
    } catch {
      let child = ChildProcess(pid: pid, pidfd: pidfd, missingLayers: [])
      child.kill()
      _ = try? child.status(wait: true)
      throw error
    }
    return ChildProcess(pid: pid, pidfd: pidfd, missingLayers: missing)
  }

  /// Lets the new program go on.
  private static func release(_ control: borrowing Descriptor) throws(SandboxError) {
    guard send(control.raw, "g", 1, CInt(MSG_NOSIGNAL)) == 1 else { throw .start(.launch, SystemError("send")) }
  }

  /// Throws what kept the child from executing the program.
  private static func checkStart(_ control: borrowing Descriptor) throws(SandboxError) {
    let raw = control.raw
    var failure = csandbox_failure(stage: 0, error: 0)
    let size = MemoryLayout<csandbox_failure>.size
    let count: Int
    do throws(SystemError) {
      count = try retrying("recv") { recv(raw, &failure, size, CInt(MSG_DONTWAIT)) }
    } catch {
      guard error.errno == EAGAIN else { throw .system(error) }
      return
    }
    guard count == size else { return }
    let stage =
      switch csandbox_stage(rawValue: UInt32(bitPattern: failure.stage)) {
      case CSANDBOX_STAGE_SESSION: "setsid"
      case CSANDBOX_STAGE_PARENT_DEATH: "prctl(PR_SET_PDEATHSIG)"
      case CSANDBOX_STAGE_DESCRIPTORS: "dup"
      default: "execveat"
      }
    throw .start(.launch, SystemError(stage, errno: failure.error))
  }

  /// Gives the child's namespace its one user and group, both 65534 inside (user_namespaces(7)).
  ///
  /// Root maps it to 65534 outside, too, so that the process is not root on the host once it has changed to it. Where
  /// that is refused (a container without 65534), which the returned line says, and for an ordinary user, it is the
  /// caller's own.
  private static func mapIdentity(of pid: CInt) throws(SandboxError) -> String? {
    func map(_ name: String, _ text: String) throws(SystemError) {
      let path = "/proc/\(pid)/\(name)"
      let file = try Descriptor.open(path, O_WRONLY)
      var text = text
      let error: SystemError? = text.withUTF8 { bytes in
        write(file.raw, bytes.baseAddress, bytes.count) == bytes.count ? nil : SystemError("write", path)
      }
      if let error { throw error }
    }
    var line: String?
    do throws(SystemError) {
      if geteuid() == 0 {
        do throws(SystemError) {
          try map("uid_map", "\(nobody) \(nobody) 1")
          try map("gid_map", "\(nobody) \(nobody) 1")
          return nil
        } catch {
          line = "still the launcher's user: \(error)"
        }
      }
      // A map can be written once; where root got half of it this fails and no user namespace is used.
      try map("uid_map", "\(nobody) \(geteuid()) 1")
      try map("setgroups", "deny")
      try map("gid_map", "\(nobody) \(getegid()) 1")
      return line
    } catch {
      throw .start(.userNamespace, error)
    }
  }
}

extension SandboxError {
  /// Whether the host refused namespaces, as opposed to a failure that trying with fewer cannot mend.
  fileprivate var isRefusal: Bool {
    guard case .start(let stage, let error) = self, stage != .launch else { return false }
    return [EPERM, EACCES, ENOSPC, ENOSYS, EINVAL, EUSERS].contains(error.errno)
  }

  fileprivate var reason: String {
    guard case .start(_, let error) = self else { return description }
    return switch error.errno {
    case ENOSPC: "\(error) (see sysctl user.max_user_namespaces)"
    case EPERM, EACCES: "\(error) (see sysctl kernel.unprivileged_userns_clone, AppArmor or the container's options)"
    default: error.description
    }
  }
}

/// Strings as execve(2) takes them, freed with their owner.
// Safety: the pointers are made and freed here, and read only while the owner lives.
private final class CStrings {
  let pointers: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
  private let count: Int

  init(_ strings: [String]) {
    count = strings.count
    pointers = .allocate(capacity: count + 1)
    for (index, string) in strings.enumerated() {
      let bytes = string.utf8CString
      let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
      for (offset, byte) in bytes.enumerated() { (copy + offset).initialize(to: byte) }
      (pointers + index).initialize(to: copy)
    }
    (pointers + count).initialize(to: nil)
  }

  deinit {
    for index in 0..<count { pointers[index]?.deallocate() }
    pointers.deallocate()
  }
}
