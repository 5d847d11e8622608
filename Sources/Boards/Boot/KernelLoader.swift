import Engines
import GuestMemory

/// Puts a kernel and what it is given into guest memory.
public struct KernelLoader: Sendable {
  private let kernel: KernelFile
  private let ramdisks: [KernelFile]
  private let machine: BootMachine

  /// - Parameter machine: as the recipe describes it, with the whole command line; its ramdisks are those given here.
  public init(kernel: KernelFile, ramdisks: [KernelFile], machine: BootMachine) {
    self.kernel = kernel
    self.ramdisks = ramdisks
    var machine = machine
    machine.ramdisks = ramdisks.map { BootMachine.Ramdisk(name: $0.name, size: $0.count) }
    self.machine = machine
  }

  /// Loads all of it and says where the bootstrap processor begins. No vCPU runs meanwhile.
  /// - Parameter isFresh: nothing was written to guest memory yet, so that what must be zero need not be touched.
  public func load(into memory: GuestMemory, isFresh: Bool) throws(BootError) -> StartState {
    let plan: BootPlan
    do throws(BootError) {
      plan = try KernelImage(kernel).plan(machine)
    } catch {
      throw BootError("\(kernel.name): \(error)")
    }
    for load in plan.loads { try self.load(load, into: memory, isFresh: isFresh) }
    return plan.start
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
      case .zero:
        if !isFresh { part.initializeMemory(as: UInt8.self, repeating: 0) }
      case .ramdisk, .unpacked: break
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
