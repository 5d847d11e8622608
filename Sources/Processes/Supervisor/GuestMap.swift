import Engines
import LinuxSystem
import Sandbox
import Synchronization

/// The guest's memory map as the engine has it: RAM and firmware, which never move, and what devices ask for.
final class GuestMap<Machine: VirtualMachine>: Sendable {
  /// Engine slots below this one belong to RAM and firmware.
  private static var firstDeviceSlot: Int { 8 }

  private let machine: Machine
  private let page: MachinePage
  private let sources: Sources
  private let applied = Mutex<[SharedMapping?]>(Array(repeating: nil, count: MachinePage.slotCount))

  /// What a device's mapping may show, and nothing else.
  // Safety: the three mappings live as long as the machine.
  struct Sources: @unchecked Sendable {
    let ram: UnsafeMutableRawBufferPointer
    let firmware: UnsafeMutableRawBufferPointer
    let device: UnsafeMutableRawBufferPointer
  }

  init(_ machine: Machine, page: MachinePage, sources: Sources) {
    self.machine = machine
    self.page = page
    self.sources = sources
  }

  /// Shows fixed memory in one of the first slots.
  func add(fixed slot: Int, _ mapping: HostMapping) throws(EngineFailure) {
    guard slot < Self.firstDeviceSlot, machine.map(slot: slot, mapping) else {
      throw EngineFailure(reason: "the engine refused guest memory at 0x\(String(mapping.guestAddress, radix: 16))")
    }
  }

  /// Brings the engine's map up to what devices ask for now.
  func update() {
    applied.withLock { applied in
      let wanted = (0..<MachinePage.slotCount).map { page.get($0) }
      let changed = wanted.indices.filter { wanted[$0] != applied[$0] }
      // Emptied first: a new mapping may stand where another one was.
      for slot in changed where applied[slot] != nil { _ = machine.map(slot: Self.firstDeviceSlot + slot, nil) }
      for slot in changed {
        applied[slot] = wanted[slot]
        guard let mapping = wanted[slot].flatMap(hostMapping) else { continue }
        // Where the engine refuses an overlap, accesses go to the device as MMIO.
        _ = machine.map(slot: Self.firstDeviceSlot + slot, mapping)
      }
    }
  }

  /// The device process is not trusted: a mapping outside its source is no mapping.
  private func hostMapping(_ mapping: SharedMapping) -> HostMapping? {
    let source =
      switch mapping.source {
      case .ram: sources.ram
      case .firmware: sources.firmware
      case .device: sources.device
      }
    let length = UInt64(source.count)
    guard let base = source.baseAddress, mapping.offset <= length, mapping.size <= length - mapping.offset,
      mapping.size > 0, (mapping.offset | mapping.size | mapping.guestAddress) & 0xFFF == 0,
      mapping.guestAddress < 1 << 52
    else { return nil }
    return HostMapping(
      guestAddress: mapping.guestAddress, size: mapping.size, host: base + Int(mapping.offset),
      readOnly: mapping.readOnly || mapping.source == .firmware)
  }
}
