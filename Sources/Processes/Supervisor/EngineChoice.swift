import Engines
import KVMEngine
import LinuxSystem
import MachineModel
import SoftEngine

/// The engine that runs the machine, with a line for the user where it was left open or will surprise.
enum EngineChoice: ~Copyable {
  case kvm(KVMHost, notice: String?)
  case soft(notice: String?)

  /// Chooses; throws why the engine that was asked for cannot run here.
  init(_ spec: MachineSpec) throws(EngineFailure) {
    let hasHardware = Processor.hasHardwareVirtualisation
    switch spec.accelerator {
    case .soft: self = .soft(notice: nil)
    case .kvm:
      let notice =
        "accel kvm: this host's processor shows no VT-x or AMD-V, so its KVM interprets kernel code and "
        + "guests run slowly"
      self = .kvm(try KVMHost(), notice: hasHardware ? nil : notice)
    case .auto where spec.trace != nil: self = .soft(notice: "accel soft: --trace needs it")
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

extension Trace {
  convenience init(_ spec: TraceSpec) throws {
    var events: Events = []
    for event in spec.events {
      switch event {
      case .instructions: events.insert(.instructions)
      case .interrupts: events.insert(.interrupts)
      case .exceptions: events.insert(.exceptions)
      case .io: events.insert(.io)
      }
    }
    guard let path = spec.path else {
      self.init(events, to: try StandardStream.error.duplicate())
      return
    }
    do throws(SystemError) {
      self.init(events, to: try Descriptor.open(path, OpenFlags.writeCreateTruncate, mode: 0o666))
    } catch {
      throw LaunchError("--trace \(path): \(error.reason)")
    }
  }
}
