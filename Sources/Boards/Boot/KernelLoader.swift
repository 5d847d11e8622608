import Engines
import GuestMemory
import LinuxSystem

/// Puts a kernel and what it is given into guest memory.
public struct KernelLoader: Sendable {
  private let kernel: KernelFile
  private let ramdisks: [KernelFile]
  private var machine: BootMachine
  private let unpacks: Bool

  /// - Parameters:
  ///   - machine: as the recipe describes it, with the whole command line; its ramdisks are those given here.
  ///   - unpacks: a bzImage and its ramdisks are unpacked here where that is possible, and not by the kernel's code.
  public init(kernel: KernelFile, ramdisks: [KernelFile], machine: BootMachine, unpacks: Bool) {
    self.kernel = kernel
    self.ramdisks = ramdisks
    self.unpacks = unpacks
    self.machine = machine
    self.machine.ramdisks = ramdisks.map { BootMachine.Ramdisk(name: $0.name, size: $0.count) }
  }

  /// Loads all of it and says where the bootstrap processor begins. No vCPU runs meanwhile.
  /// - Parameter isFresh: nothing was written to guest memory yet, so that what must be zero need not be touched.
  public func load(into memory: GuestMemory, isFresh: Bool) throws(BootError) -> StartState {
    let plan: BootPlan
    do throws(BootError) {
      let image = try KernelImage(kernel)
      if let unpacked = try unpacked(image, memory) {
        plan = unpacked
      } else {
        plan = try image.plan(kernel, machine)
      }
    } catch {
      throw BootError("\(kernel.name): \(error)")
    }
    for load in plan.loads { try self.load(load, into: memory, isFresh: isFresh) }
    return plan.start
  }

  /// Unpacks a bzImage into guest memory, and its ramdisks. Nil: the kernel must do so itself.
  private func unpacked(_ image: KernelImage, _ memory: GuestMemory) throws(BootError) -> BootPlan? {
    guard unpacks, case .linux(let linux) = image, let packed = try linux.packed(kernel),
      let target = memory.pointer(packed.address, packed.unpackedCount),
      let source = try? Mapping(anonymous: packed.count)
    else { return nil }
    let ramdisks = Concurrently("ramdisks") { self.unpackedRamdisks(beside: linux, packed, memory) }
    // The thread has no owner but this function.
    defer { _ = ramdisks.value }
    try kernel.read(packed.offset, into: source.bytes)
    // Safety: `target` has as many bytes in guest memory, which nothing else uses before the guest runs.
    let unpacked = UnsafeMutableRawBufferPointer(start: target, count: packed.unpackedCount)
    let sizes = packed.compression.unpack(UnsafeRawBufferPointer(source.bytes), into: unpacked)
    let unpackedRamdisks = ramdisks.value
    let vmlinux =
      sizes?.written == unpacked.count
      ? try? ELFImage(KernelFile(memory, at: packed.address, count: packed.unpackedCount)) : nil
    if let unpackedRamdisks {
      var machine = machine
      machine.unpackedRamdisks = unpackedRamdisks
      if let vmlinux, let plan = try? linux.plan(machine, unpacked: vmlinux, from: packed) { return plan }
      try? memory.discard(unpackedRamdisks.lowerBound, unpackedRamdisks.count)
    }
    if let vmlinux, let plan = try? linux.plan(machine, unpacked: vmlinux, from: packed) { return plan }
    unpacked.initializeMemory(as: UInt8.self, repeating: 0)
    return nil
  }

  /// Unpacks the ramdisks at the end of memory. Nil: they are to be loaded as they are. The kernel has an unpacked ramdisk
  /// and the files of it in memory at once, so it may not be large.
  private func unpackedRamdisks(beside linux: LinuxKernel, _ packed: PackedKernel, _ memory: GuestMemory)
    -> Range<UInt64>?
  {
    let kernelEnd = max(linux.preferredAddress &+ linux.initialSize, packed.address &+ UInt64(packed.unpackedCount))
    let end = min(machine.lowMemory, linux.header.highestRamdisk &+ 1)
    let size = machine.lowMemory / 8
    guard !ramdisks.isEmpty, end > size, size <= UInt64(Int.max) else { return nil }
    let start = (end - size) & ~0xFFF
    guard start >= kernelEnd, let base = memory.pointer(start, Int(size)) else { return nil }
    // Safety: so many bytes of guest memory, which nothing else uses before the guest runs.
    let room = UnsafeMutableRawBufferPointer(start: base, count: Int(size))
    if let count = UnpackedRamdisks.load(ramdisks, into: room) { return start..<start + UInt64(count) }
    memory.discard(room)
    return nil
  }

  private func load(_ load: BootPlan.Load, into memory: GuestMemory, isFresh: Bool) throws(BootError) {
    guard load.count <= UInt64(Int.max), let parts = try? memory.segments(load.address, Int(load.count)) else {
      throw BootError("\(kernel.name): the guest has no memory at 0x\(String(load.address, radix: 16))")
    }
    var done: UInt64 = 0
    for part in parts {
      switch load.source {
      case .bytes(let bytes): part.copyBytes(from: bytes[Int(done)..<Int(done) + part.count])
      case .kernel(let offset): try read(kernel, offset &+ done, part)
      case .ramdisk(let index) where ramdisks.indices.contains(index): try read(ramdisks[index], done, part)
      case .unpacked(let address):
        // Both may overlap.
        if let source = memory.pointer(address &+ done, part.count) {
          part.copyMemory(from: UnsafeRawBufferPointer(start: source, count: part.count))
        }
      case .zero where isFresh: break
      case .zero, .cleared: part.initializeMemory(as: UInt8.self, repeating: 0)
      case .ramdisk: break
      }
      done += UInt64(part.count)
    }
  }

  private func read(_ file: KernelFile, _ offset: UInt64, _ part: UnsafeMutableRawBufferPointer) throws(BootError) {
    do throws(BootError) {
      try file.read(offset, into: part)
    } catch {
      throw BootError("\(file.name): \(error)")
    }
  }
}

extension KernelFile {
  /// What stands in guest memory.
  fileprivate init(_ memory: GuestMemory, at address: UInt64, count: Int) {
    self.init(name: "kernel", count: UInt64(count)) { (offset, buffer) throws(BootError) in
      guard (try? memory.read(address &+ offset, into: buffer)) != nil else {
        throw BootError("the guest has no memory there")
      }
    }
  }
}
