import Buses
import CKVM
import Engines
import LinuxSystem
import Synchronization

/// A KVM virtual machine with in-kernel I/O APIC and local APICs, and the 8259 pair and 8254 of a PC.
public final class KVMMachine: VirtualMachine {
  let host: KVMHost
  let vm: Descriptor
  private let vcpuCount: Int
  private let cpuid: GuestCPUID
  private let runSize: Int
  private let hasLegacyChips: Bool
  private let powerOn: InterruptControllerState
  private let fallback: EmulationFallback
  /// What message interrupts send, by their number.
  private let messages = Mutex<[Int: MessageRoute]>([:])

  /// Three pages below the largest firmware that Intel processors without unrestricted guests need (api.rst,
  /// KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR); the board's memory map reserves them.
  private static let identityMapAddress: UInt64 = 0xFEFF_C000
  private static let tssAddress: CUnsignedLong = 0xFEFF_D000

  /// `interpreter` makes what executes instructions that KVM cannot emulate; without it they end the run.
  /// - Parameter hasLegacyChips: there is an 8254, and inputs reach the 8259 pair, which comes with KVM's I/O APIC.
  public init(
    _ host: consuming KVMHost, vcpus: Int, hasLegacyChips: Bool = true,
    interpreter: (@Sendable () -> any InstructionInterpreter)? = nil
  ) throws(EngineFailure) {
    let maximum = host.maximumVCPUs()
    guard vcpus <= maximum else {
      throw EngineFailure(reason: "--cpus \(vcpus): this host's KVM runs at most \(maximum) vCPUs in a machine")
    }
    vm = Descriptor(owning: try Self.check("KVM_CREATE_VM", ckvm_create_vm(host.device.raw)))
    let fd = vm.raw
    var identityMap = Self.identityMapAddress
    try Self.check("KVM_SET_IDENTITY_MAP_ADDR", ckvm_set_identity_map_addr(fd, &identityMap))
    try Self.check("KVM_SET_TSS_ADDR", ckvm_set_tss_addr(fd, Self.tssAddress))
    try Self.check("KVM_CREATE_IRQCHIP", ckvm_create_irqchip(fd))
    if hasLegacyChips {
      // Port 0x61 is answered in the kernel too, so that PIT channel 2 can be timed.
      var pit = kvm_pit_config()
      pit.flags = UInt32(KVM_PIT_SPEAKER_DUMMY)
      try Self.check("KVM_CREATE_PIT2", ckvm_create_pit2(fd, &pit))
    }
    self.hasLegacyChips = hasLegacyChips
    try Self.routeInterrupts(fd, hasPICs: hasLegacyChips)
    powerOn = try InterruptControllerState(vm: fd, hasPIT: hasLegacyChips)
    runSize = Int(try Self.check("KVM_GET_VCPU_MMAP_SIZE", ckvm_get_vcpu_mmap_size(host.device.raw)))
    cpuid = GuestCPUID(
      supported: try Self.supportedCPUID(host.device.raw), hasTSCDeadline: host.has(KVM_CAP_TSC_DEADLINE_TIMER))
    vcpuCount = vcpus
    fallback = EmulationFallback(interpreter)
    self.host = host
  }

  /// KVM's answer, or the failure that names the call.
  @discardableResult
  static func check(_ call: String, _ result: CInt) throws(EngineFailure) -> CInt {
    guard result >= 0 else { throw EngineFailure(reason: SystemError(call, "/dev/kvm", errno: -result).description) }
    return result
  }

  /// Inputs 0–15 reach the 8259 pair and the I/O APIC pin of the same number, 16–23 the I/O APIC alone. IRQ 0
  /// is on pin 2 (the MADT's override), where the cascade would be. Message interrupts follow.
  private static func routeInterrupts(
    _ vm: CInt, hasPICs: Bool, _ messages: [Int: MessageRoute] = [:]
  ) throws(EngineFailure) {
    var routes: [(gsi: UInt32, chip: UInt32, pin: UInt32)] = []
    for input: UInt32 in 0..<16 where hasPICs {
      routes.append((input, UInt32(input < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE), input & 7))
    }
    for input: UInt32 in 0..<24 where input != 2 {
      routes.append((input, UInt32(KVM_IRQCHIP_IOAPIC), input == 0 ? 2 : input))
    }
    let count = routes.count + messages.count
    let size = MemoryLayout<kvm_irq_routing>.size + count * MemoryLayout<kvm_irq_routing_entry>.stride
    let table = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { table.deallocate() }
    // Safety: `size` covers the header and one entry for each route.
    let header = table.bindMemory(to: kvm_irq_routing.self, capacity: 1)
    header.initialize(to: kvm_irq_routing())
    header.pointee.nr = UInt32(count)
    for (index, route) in routes.enumerated() {
      ckvm_set_routing_irqchip(ckvm_routing_entries(header) + index, route.gsi, route.chip, route.pin)
    }
    for (index, message) in messages.values.enumerated() {
      ckvm_set_routing_msi(
        ckvm_routing_entries(header) + routes.count + index, gsi(message: message.index), message.address,
        message.data)
    }
    try check("KVM_SET_GSI_ROUTING", ckvm_set_gsi_routing(vm, header))
  }

  /// The first number behind the inputs' is message interrupt 0.
  private static func gsi(message index: Int) -> UInt32 { 24 + UInt32(truncatingIfNeeded: index) }

  private static func supportedCPUID(_ device: CInt) throws(EngineFailure) -> [kvm_cpuid_entry2] {
    let list = CPUIDList(capacity: GuestCPUID.capacity)
    try check("KVM_GET_SUPPORTED_CPUID", ckvm_get_supported_cpuid(device, list.header))
    return list.entries
  }

  public func map(slot: Int, _ mapping: HostMapping?) -> Bool {
    var region = kvm_userspace_memory_region()
    region.slot = UInt32(truncatingIfNeeded: slot)
    // A slot cannot change its address or flags in place in every kernel, so it is emptied first.
    let emptied = ckvm_set_user_memory_region(vm.raw, &region)
    fallback.map(slot, nil)
    guard let mapping else { return emptied == 0 }
    region.flags = mapping.readOnly ? UInt32(KVM_MEM_READONLY) : 0
    region.guest_phys_addr = mapping.guestAddress
    region.memory_size = mapping.size
    region.userspace_addr = UInt64(UInt(bitPattern: mapping.host))
    guard ckvm_set_user_memory_region(vm.raw, &region) == 0 else { return false }
    fallback.map(slot, mapping)
    return true
  }

  public func makeVCPU(_ index: Int) throws(EngineFailure) -> KVMVCPU {
    let fd = Descriptor(owning: try Self.check("KVM_CREATE_VCPU", ckvm_create_vcpu(vm.raw, CUnsignedLong(index))))
    let entries = cpuid.topology(apicID: index, count: vcpuCount)
    let list = CPUIDList(entries)
    try Self.check("KVM_SET_CPUID2", ckvm_set_cpuid2(fd.raw, list.header))
    return try KVMVCPU(fd, runSize: runSize, msrs: msrIndices(), cpuid: entries, fallback: fallback)
  }

  public var summary: String? {
    let count = fallback.count
    guard count > 0 else { return nil }
    return "accel kvm: KVM could not emulate \(count) instructions of the guest, which were interpreted"
  }

  public func start(confine: @escaping @Sendable () -> Bool) throws(EngineFailure) {
    installInterruptingHandler(KVMVCPU.kickSignal)
  }

  private func msrIndices() throws(EngineFailure) -> [UInt32] {
    let capacity = 1024
    let size = MemoryLayout<kvm_msr_list>.size + capacity * MemoryLayout<UInt32>.size
    let raw = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { raw.deallocate() }
    // Safety: `size` covers the header and `capacity` indices, which is what `nmsrs` says.
    let list = raw.bindMemory(to: kvm_msr_list.self, capacity: 1)
    list.pointee.nmsrs = UInt32(capacity)
    try Self.check("KVM_GET_MSR_INDEX_LIST", ckvm_get_msr_index_list(host.device.raw, list))
    return Array(UnsafeBufferPointer(start: ckvm_msr_indices(list), count: Int(list.pointee.nmsrs)))
  }

  public func connect(input: Int, edge event: borrowing EventDescriptor) throws(EngineFailure) {
    var request = kvm_irqfd()
    request.fd = UInt32(event.descriptor.raw)
    request.gsi = UInt32(input)
    try Self.check("KVM_IRQFD", ckvm_irqfd(vm.raw, &request))
  }

  public func connect(
    input: Int, trigger: borrowing EventDescriptor, resample: borrowing EventDescriptor
  ) throws(EngineFailure) {
    var request = kvm_irqfd()
    request.fd = UInt32(trigger.descriptor.raw)
    request.gsi = UInt32(input)
    request.flags = UInt32(KVM_IRQFD_FLAG_RESAMPLE)
    request.resamplefd = UInt32(resample.descriptor.raw)
    try Self.check("KVM_IRQFD", ckvm_irqfd(vm.raw, &request))
  }

  /// The kernel carries interrupts, and its local APICs post them where the host's processor can.
  public func share(_ posted: PostedInterrupts, isAsserted: @escaping @Sendable (_ input: Int) -> Bool) {}

  public func connect(message index: Int, event: borrowing EventDescriptor) throws(EngineFailure) {
    var request = kvm_irqfd()
    request.fd = UInt32(event.descriptor.raw)
    request.gsi = Self.gsi(message: index)
    try Self.check("KVM_IRQFD", ckvm_irqfd(vm.raw, &request))
  }

  public func route(_ changes: [MessageRoute]) throws(EngineFailure) {
    // The rethrow of a typed error out of the lock's closure needs a Result here.
    try messages.withLock { messages in
      for change in changes { messages[change.index] = change }
      return Result { () throws(EngineFailure) in try Self.routeInterrupts(vm.raw, hasPICs: hasLegacyChips, messages) }
    }.get()
  }

  public func connect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {
    try assign(doorbell, event, flags: 0)
  }

  public func disconnect(doorbell: DoorbellAddress, event: borrowing EventDescriptor) throws(EngineFailure) {
    try assign(doorbell, event, flags: 1 << UInt32(kvm_ioeventfd_flag_nr_deassign))
  }

  private func assign(
    _ doorbell: DoorbellAddress, _ event: borrowing EventDescriptor, flags: UInt32
  ) throws(EngineFailure) {
    // Length 0: accesses of any width (KVM_CAP_IOEVENTFD_ANY_LENGTH).
    var request = kvm_ioeventfd()
    request.flags = flags
    request.fd = event.descriptor.raw
    switch doorbell {
    case .port(let port):
      request.addr = UInt64(port)
      request.flags |= 1 << UInt32(kvm_ioeventfd_flag_nr_pio)
    case .memory(let address):
      request.addr = address
    case .register(let address, let value):
      request.addr = address
      request.len = 4
      request.datamatch = UInt64(value)
      request.flags |= 1 << UInt32(kvm_ioeventfd_flag_nr_datamatch)
    }
    try Self.check("KVM_IOEVENTFD", ckvm_ioeventfd(vm.raw, &request))
  }

  public func resetInterruptControllers() throws(EngineFailure) { try powerOn.restore(vm: vm.raw) }

  public func setLegacyReplacement(_ enabled: Bool) {
    var state = kvm_pit_state2()
    guard hasLegacyChips, ckvm_get_pit2(vm.raw, &state) == 0 else { return }
    if enabled {
      state.flags |= UInt32(KVM_PIT_FLAGS_HPET_LEGACY)
    } else {
      state.flags &= ~UInt32(KVM_PIT_FLAGS_HPET_LEGACY)
    }
    _ = ckvm_set_pit2(vm.raw, &state)
  }
}

/// The state of the 8259 pair, the I/O APIC and the 8254 as KVM made them.
private struct InterruptControllerState {
  private var chips: [kvm_irqchip] = []
  /// nil: there is none.
  private var pit: kvm_pit_state2?

  init(vm: CInt, hasPIT: Bool) throws(EngineFailure) {
    for chip in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
      var state = kvm_irqchip()
      state.chip_id = UInt32(chip)
      try KVMMachine.check("KVM_GET_IRQCHIP", ckvm_get_irqchip(vm, &state))
      chips.append(state)
    }
    guard hasPIT else { return }
    var pit = kvm_pit_state2()
    try KVMMachine.check("KVM_GET_PIT2", ckvm_get_pit2(vm, &pit))
    self.pit = pit
  }

  func restore(vm: CInt) throws(EngineFailure) {
    for chip in chips {
      var chip = chip
      try KVMMachine.check("KVM_SET_IRQCHIP", ckvm_set_irqchip(vm, &chip))
    }
    guard var pit else { return }
    try KVMMachine.check("KVM_SET_PIT2", ckvm_set_pit2(vm, &pit))
  }
}

/// A `struct kvm_cpuid2` with room for its entries.
// Safety: allocated with `capacity` entries; `nent` never exceeds it.
private final class CPUIDList {
  let header: UnsafeMutablePointer<kvm_cpuid2>
  private let storage: UnsafeMutableRawPointer

  init(capacity: Int) {
    let size = MemoryLayout<kvm_cpuid2>.size + capacity * MemoryLayout<kvm_cpuid_entry2>.stride
    storage = .allocate(byteCount: size, alignment: 8)
    storage.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    header = storage.bindMemory(to: kvm_cpuid2.self, capacity: 1)
    header.pointee.nent = UInt32(capacity)
  }

  convenience init(_ entries: [kvm_cpuid_entry2]) {
    self.init(capacity: entries.count)
    for (index, entry) in entries.enumerated() { ckvm_cpuid_entries(header)[index] = entry }
  }

  var entries: [kvm_cpuid_entry2] {
    Array(UnsafeBufferPointer(start: ckvm_cpuid_entries(header), count: Int(header.pointee.nent)))
  }

  deinit { storage.deallocate() }
}
