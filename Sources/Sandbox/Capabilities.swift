import CCap
import CSandbox
import LinuxSystem

/// The capabilities of the calling thread (capabilities(7)).
public enum Capabilities {
  /// Clears every set of the calling thread, the ambient and bounding ones too, and locks the securebits.
  /// Returns a line where the bounding set stays because CAP_SETPCAP is missing; throws where a set cannot be cleared.
  public static func drop() throws(SandboxError) -> [String] {
    var missing: [String] = []
    for capability in 0..<cap_value_t(cap_max_bits()) where cap_get_bound(capability) == 1 {
      guard cap_drop_bound(capability) == 0 else {
        missing.append("capability bounding set not emptied: \(SystemError("prctl(PR_CAPBSET_DROP)"))")
        break
      }
    }
    // Nothing below gains a capability by being user 0 or by exec. Without CAP_SETPCAP no_new_privs has to do.
    _ = cap_set_secbits(lockedSecureBits)
    guard cap_reset_ambient() == 0 else { throw .system(SystemError("prctl(PR_CAP_AMBIENT_CLEAR_ALL)")) }
    guard let none = cap_init() else { throw .system(SystemError("cap_init")) }
    defer { cap_free(UnsafeMutableRawPointer(none)) }
    guard cap_set_proc(none) == 0 else { throw .system(SystemError("capset")) }
    return missing
  }

  /// Whether the calling thread holds `capability` in its effective set.
  static func has(_ capability: cap_value_t) -> Bool {
    guard let held = cap_get_proc() else { return false }
    defer { cap_free(UnsafeMutableRawPointer(held)) }
    var value = CAP_CLEAR
    return cap_get_flag(held, capability, CAP_EFFECTIVE, &value) == 0 && value == CAP_SET
  }

  /// Makes every permitted capability effective again, as after a change of user with PR_SET_KEEPCAPS.
  static func raisePermitted() throws(SystemError) {
    guard let held = cap_get_proc() else { throw SystemError("capget") }
    defer { cap_free(UnsafeMutableRawPointer(held)) }
    guard cap_fill(held, CAP_EFFECTIVE, CAP_PERMITTED) == 0, cap_set_proc(held) == 0 else {
      throw SystemError("capset")
    }
  }

  /// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE with their locks, and the lock of KEEP_CAPS.
  private static let lockedSecureBits: CUnsignedInt = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7
}
