import Engines
import GuestMemory
import LinuxSystem

/// Puts a kernel and what it is given into guest memory.
public struct KernelLoader: Sendable {
  private let kernel: KernelFile
  private let ramdisks: [KernelFile]
  private let machine: BootMachine
  private let unpacks: Bool

  /// - Parameters:
  ///   - machine: as the recipe describes it, with the whole command line; its ramdisks are those given here.
  ///   - unpacks: a bzImage and its ramdisks are unpacked here where that is possible, and not by the kernel's code.
  public init(kernel: KernelFile, ramdisks: [KernelFile], machine: BootMachine, unpacks: Bool) {
    self.kernel = kernel
    self.ramdisks = ramdisks
    self.unpacks = unpacks
    self.machine = machine
  }

  /// Loads all of it and says where the bootstrap processor begins. No vCPU runs meanwhile.
  /// - Parameter isFresh: nothing was written to guest memory yet, so that what must be zero need not be touched.
  public func load(into memory: GuestMemory, isFresh: Bool) throws(BootError) -> StartState {
    let plan: BootPlan
    var ramdisks = ramdisks
    do throws(BootError) {
      let image = try KernelImage(kernel)
      if let (unpackedPlan, unpacked) = try unpacked(image, memory) {
        plan = unpackedPlan
        ramdisks = unpacked
      } else {
        plan = try image.plan(kernel, machine(with: ramdisks))
      }
    } catch {
      throw BootError("\(kernel.name): \(error)")
    }
    for load in plan.loads { try self.load(load, ramdisks, into: memory, isFresh: isFresh) }
    return plan.start
  }

  private func machine(with ramdisks: [KernelFile]) -> BootMachine {
    var machine = machine
    machine.ramdisks = ramdisks.map { BootMachine.Ramdisk(name: $0.name, size: $0.count) }
    return machine
  }

  /// Unpacks a bzImage into guest memory, and its ramdisks. Nil: the kernel must do so itself.
  private func unpacked(_ image: KernelImage, _ memory: GuestMemory) throws(BootError) -> (BootPlan, [KernelFile])? {
    guard unpacks, case .linux(let linux) = image, let packed = try linux.packed(kernel),
      let target = memory.pointer(packed.address, packed.unpackedCount),
      let source = try? Mapping(anonymous: packed.count)
    else { return nil }
    let unpackedRamdisks = Concurrently("ramdisks") { self.unpackedRamdisks() }
    // The thread has no owner but this function.
    defer { _ = unpackedRamdisks.value }
    try kernel.read(packed.offset, into: source.bytes)
    // Safety: `target` has as many bytes in guest memory, which nothing else uses before the guest runs.
    let unpacked = UnsafeMutableRawBufferPointer(start: target, count: packed.unpackedCount)
    if let sizes = packed.compression.unpack(UnsafeRawBufferPointer(source.bytes), into: unpacked),
      sizes.written == unpacked.count,
      let image = try? ELFImage(KernelFile(memory, at: packed.address, count: packed.unpackedCount))
    {
      // Where unpacked ramdisks do not fit, packed ones may.
      for ramdisks in [unpackedRamdisks.value, ramdisks] {
        let machine = machine(with: ramdisks)
        if let plan = try? linux.plan(machine, unpacked: image, from: packed) { return (plan, ramdisks) }
      }
    }
    unpacked.initializeMemory(as: UInt8.self, repeating: 0)
    return nil
  }

  /// The kernel has an unpacked ramdisk and the files of it in memory at once, so it may not be large.
  private func unpackedRamdisks() -> [KernelFile] {
    var room = machine.lowMemory / 8
    return ramdisks.map { file in
      guard let unpacked = UnpackedRamdisk(file, limit: room) else { return file }
      room -= UInt64(unpacked.count)
      return unpacked.file(named: file.name)
    }
  }

  private func load(
    _ load: BootPlan.Load, _ ramdisks: [KernelFile], into memory: GuestMemory, isFresh: Bool
  ) throws(BootError) {
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
