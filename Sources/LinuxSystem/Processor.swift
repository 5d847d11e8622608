import CLinux

public enum Processor {
  /// The number of the processor that the calling thread runs on at this moment.
  public static var current: UInt32 { UInt32(bitPattern: clinux_current_processor()) }

  /// Whether this processor shows VT-x (CPUID.1:ECX.VMX) or AMD-V (CPUID.80000001H:ECX.SVM).
  public static let hasHardwareVirtualisation = {
    var (eax, ebx, ecx, edx): (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
    clinux_cpuid(1, &eax, &ebx, &ecx, &edx)
    if ecx & 1 << 5 != 0 { return true }
    clinux_cpuid(0x8000_0001, &eax, &ebx, &ecx, &edx)
    return ecx & 1 << 2 != 0
  }()
}
