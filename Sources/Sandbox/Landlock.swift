import CSandbox
import LinuxSystem

/// A Landlock domain that may do next to nothing (landlock(7)): no path can be opened or changed, no TCP port bound or
/// connected, no abstract socket or process outside reached. Descriptors that are open already stay as they are.
enum Landlock {
  /// Enters the domain; throws where the kernel has no Landlock or it is off. Needs no_new_privs. The given files, where
  /// they exist, can still be read; with `network` false TCP ports can be used.
  static func deny(allBut files: [String] = [], network: Bool = true) throws(SystemError) {
    let abi = csandbox_landlock_abi()
    guard abi > 0 else { throw SystemError("landlock_create_ruleset") }
    var rules = ruleset(abi: abi)
    if !network { rules.handled_access_net = 0 }
    let ruleset = Descriptor(
      owning: try retrying("landlock_create_ruleset") { csandbox_landlock_create(&rules, size(abi: abi)) })
    let raw = ruleset.raw
    for path in files {
      guard let file = try? Descriptor.open(path, .readOnly) else { continue }
      let number = file.raw
      try retrying("landlock_add_rule", path) { csandbox_landlock_allow_reading(raw, number) }
    }
    try retrying("landlock_restrict_self") { csandbox_landlock_restrict(raw) }
  }

  /// Everything that the ABI lets a rule set handle.
  static func ruleset(abi: CInt) -> csandbox_landlock_ruleset {
    var rights: UInt64 = (1 << 13) - 1  // ABI 1: EXECUTE to MAKE_SYM
    if abi >= 2 { rights |= 1 << 13 }  // REFER
    if abi >= 3 { rights |= 1 << 14 }  // TRUNCATE
    if abi >= 5 { rights |= 1 << 15 }  // IOCTL_DEV
    return csandbox_landlock_ruleset(
      handled_access_fs: rights,
      handled_access_net: abi >= 4 ? 0b11 : 0,  // BIND_TCP, CONNECT_TCP
      scoped: abi >= 6 ? 0b11 : 0)  // ABSTRACT_UNIX_SOCKET, SIGNAL
  }

  /// Bytes of the rule set that the ABI knows; an older kernel refuses a longer one whose rest is not zero.
  static func size(abi: CInt) -> UInt {
    switch abi {
    case ..<4: 8
    case ..<6: 16
    default: 24
    }
  }
}
