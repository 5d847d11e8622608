import CPU

@main enum Hello: Guest {
  static let name: StaticString = "hello"

  static func run() {
    say("Hello from ring 0, in 64-bit mode.")
    let vendor = cpuid(0, 0)
    say("CPU: \(ascii: vendor.ebx)\(ascii: vendor.edx)\(ascii: vendor.ecx)")
    if cpuid(1, 0).ecx >> 31 != 0 {
      let hypervisor = cpuid(0x4000_0000, 0)
      say("Hypervisor: \(ascii: hypervisor.ebx)\(ascii: hypervisor.ecx)\(ascii: hypervisor.edx)")
    }
    check(rdmsr(0xC000_0080) & 0x400 != 0, "long mode is active")
  }
}
