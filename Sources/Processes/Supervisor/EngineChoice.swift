import Engines
import KVMEngine
import LinuxSystem
import MachineModel

/// The engine that runs the machine, with a line for the user where it was left open or will surprise.
enum EngineChoice: ~Copyable {
  case kvm(KVMHost, notice: String?)
  case soft(notice: String?)

  /// Chooses; throws why the engine that was asked for cannot run here.
  init(_ accelerator: Accelerator) throws(EngineFailure) {
    let hasHardware = Processor.hasHardwareVirtualisation
    switch accelerator {
    case .soft: self = .soft(notice: nil)
    case .kvm:
      let notice =
        "accel kvm: this host's processor shows no VT-x or AMD-V, so its KVM interprets kernel code and "
        + "guests run slowly"
      self = .kvm(try KVMHost(), notice: hasHardware ? nil : notice)
    case .auto:
      // Without VT-x and AMD-V, KVM interprets kernel code, and lacks some instructions.
      guard hasHardware else {
        self = .soft(notice: "accel soft: this host's processor shows no VT-x or AMD-V")
        return
      }
      do throws(EngineFailure) {
        self = .kvm(try KVMHost(), notice: "accel kvm: /dev/kvm works")
      } catch {
        self = .soft(notice: "accel soft: \(error.reason)")
      }
    }
  }
}
