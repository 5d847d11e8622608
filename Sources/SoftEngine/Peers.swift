import CSoftCPU
import LinuxSystem
import Synchronization

/// The processors of a machine, as they and its interrupt controllers find each other.
final class Peers: Sendable {
  private struct Entry {
    let index: Int
    weak var cpu: SoftVCPU?
  }
  /// A few: not a dictionary, whose first use takes the runtime longer than all that is done here.
  private let entries = Mutex<[Entry]>([])
  /// Processors that wait in `stopWriters`.
  private let waiting = Atomic<Int>(0)
  /// A processor executes an instruction alone, or waits for the others to stand still.
  private let isOneAlone = Atomic<Bool>(false)

  func add(_ index: Int, _ cpu: SoftVCPU) { entries.withLock { $0.append(Entry(index: index, cpu: cpu)) } }

  func attend(_ index: Int, _ bits: UInt32) { processor(index)?.attend(bits) }

  private func processor(_ index: Int) -> SoftVCPU? {
    entries.withLock { entries in entries.first { $0.index == index }?.cpu }
  }

  /// Those that stand for bits of `mask`.
  private func processors(_ mask: UInt64) -> [SoftVCPU] {
    entries.withLock { entries in
      entries.compactMap { entry in mask >> UInt64(entry.index & 63) & 1 != 0 ? entry.cpu : nil }
    }
  }

  /// The page has been written: processors of `mask` drop the blocks they made of it.
  func codeChanged(_ physical: UInt64, on mask: UInt64) { for cpu in processors(mask) { cpu.dropCode(physical) } }

  /// Returns when no processor can write the page, by its physical address, without being noticed; its `lines` are set.
  /// `state` is the caller's.
  func stopWriters(_ page: UnsafeMutablePointer<soft_code_page>, _ physical: UInt64, _ state: State) {
    // While another waits for the page's writers they are no longer listed.
    if soft_load_64(&page.pointee.writers) == 0, waiting.load(ordering: .sequentiallyConsistent) == 0 { return }
    waiting.add(1, ordering: .sequentiallyConsistent)
    let own = state.context.pointee.bit
    let writers = soft_exchange_64(&page.pointee.writers, 0)
    if writers & own != 0 { TLB.forbidWrites(state, page: physical) }
    let requests = processors(writers & ~own).map { ($0, $0.forbidWrites()) }
    for (cpu, request) in requests {
      while !cpu.hasForbiddenWrites(request) { giveWay(state) }
    }
    waiting.subtract(1, ordering: .sequentiallyConsistent)
    while waiting.load(ordering: .sequentiallyConsistent) != 0 { giveWay(state) }
  }

  /// Returns when no other processor executes anything; they stand still between two blocks until `endAlone`. The caller
  /// does not count as running, so that others need not wait for it.
  func beginAlone(_ index: Int) {
    while !isOneAlone.compareExchange(expected: false, desired: true, ordering: .sequentiallyConsistent).exchanged {
      yieldProcessor()
    }
    let others = entries.withLock { entries in entries.compactMap { $0.index == index ? nil : $0.cpu } }
    for cpu in others { cpu.attend(Attention.pause) }
    for cpu in others {
      while !cpu.isStopped { yieldProcessor() }
    }
  }

  func endAlone() { isOneAlone.store(false, ordering: .sequentiallyConsistent) }

  /// Returns when no processor is alone any more.
  func standStill() { while isOneAlone.load(ordering: .sequentiallyConsistent) { yieldProcessor() } }

  /// Another processor may be waiting for this one.
  private func giveWay(_ state: State) {
    if soft_attention(state) & Attention.writes != 0 {
      processor(state.context.pointee.index)?.serveForbidding()
    }
    yieldProcessor()
  }
}
