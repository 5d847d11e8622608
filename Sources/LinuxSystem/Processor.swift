import CLinux

public enum Processor {
  /// Whether this processor shows VT-x (CPUID.1:ECX.VMX) or AMD-V (CPUID.80000001H:ECX.SVM).
  public static var hasHardwareVirtualisation: Bool {
    var (eax, ebx, ecx, edx): (UInt32, UInt32, UInt32, UInt32) = (0, 0, 0, 0)
    clinux_cpuid(1, &eax, &ebx, &ecx, &edx)
    if ecx & 1 << 5 != 0 { return true }
    clinux_cpuid(0x8000_0001, &eax, &ebx, &ecx, &edx)
    return ecx & 1 << 2 != 0
  }
}
