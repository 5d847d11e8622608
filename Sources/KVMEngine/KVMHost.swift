import CKVM
import Engines
import LinuxSystem

/// `/dev/kvm`, opened and found fit.
public struct KVMHost: ~Copyable, Sendable {
  let device: Descriptor

  /// A capability without which vmrun's machine cannot run, and what it is for.
  private static let required: [(number: CInt, name: String)] = [
    (KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP (in-kernel interrupt controllers)"),
    (KVM_CAP_PIT2, "KVM_CAP_PIT2 (in-kernel 8254)"),
    (KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"),
    (KVM_CAP_IRQFD, "KVM_CAP_IRQFD"),
    (KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE"),
    (KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH"),
    (KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
    (KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM (firmware)"),
    (KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"),
    (KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"),
    (KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"),
    (KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"),
  ]

  /// Opens `/dev/kvm` and checks every capability once. The failure's reason says what to do.
  public init(path: String = "/dev/kvm") throws(EngineFailure) { device = try Self.open(path) }

  private static func open(_ path: String) throws(EngineFailure) -> Descriptor {
    let device: Descriptor
    do throws(SystemError) {
      device = try Descriptor.open(path, .readWrite)
    } catch {
      throw EngineFailure(reason: explain(error, path))
    }
    let raw = device.raw
    let version = ckvm_get_api_version(raw)
    guard version == KVM_API_VERSION else {
      throw EngineFailure(
        reason: "\(path): KVM API version \(version), vmrun needs \(KVM_API_VERSION); is this really KVM?")
    }
    let missing = required.filter { ckvm_check_extension(raw, CUnsignedLong($0.number)) <= 0 }
    guard missing.isEmpty else {
      throw EngineFailure(
        reason: "\(path): this kernel's KVM lacks \(missing.map(\.name).joined(separator: ", ")); use a newer kernel")
    }
    return device
  }

  private static func explain(_ error: SystemError, _ path: String) -> String {
    switch error.errno {
    case ErrorNumber.noSuchFile:
      "\(path) does not exist: load the module (modprobe kvm_intel or kvm_amd, with virtualisation enabled in the "
        + "host's firmware); in a container, pass the device (--device \(path))"
    case ErrorNumber.accessDenied, ErrorNumber.notPermitted:
      "\(path): permission denied: add yourself to its group (sudo usermod -aG kvm $USER, then log in again); in a "
        + "container, pass the device (--device \(path))"
    case ErrorNumber.noDevice, ErrorNumber.noDeviceOrAddress:
      "\(path): the KVM module is not loaded: modprobe kvm_intel or kvm_amd; in a virtual machine, enable nested "
        + "virtualisation on its host"
    default: "\(path): \(error.reason)"
    }
  }

  /// vCPUs that one machine may have.
  public borrowing func maximumVCPUs() -> Int {
    let maximum = ckvm_check_extension(device.raw, CUnsignedLong(KVM_CAP_MAX_VCPUS))
    return maximum > 0 ? Int(maximum) : max(4, Int(ckvm_check_extension(device.raw, CUnsignedLong(KVM_CAP_NR_VCPUS))))
  }

  borrowing func has(_ capability: CInt) -> Bool { ckvm_check_extension(device.raw, CUnsignedLong(capability)) > 0 }
}
