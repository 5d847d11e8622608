import Buses
import LinuxSystem
import Synchronization

/// Interrupt inputs as eventfds: the engine listens at the other end of each.
///
/// A level-triggered input is raised by its trigger and stays up until the guest's end of interrupt, which signals the
/// resample eventfd; a source that is then still asserted triggers again. A source that goes away before stays visible
/// until that end of interrupt, which a guest sees at most as one spurious interrupt.
final class InterruptEvents: InterruptSink {
  private let edges: [SharedEvent]
  private let triggers: [SharedEvent]
  private let resamples: [SharedEvent]
  private let levels: [AtomicBool]

  private final class AtomicBool: Sendable {
    let value = Atomic<Bool>(false)
  }

  /// Takes over the descriptors, as many of each as there are inputs.
  init(edges: ArraySlice<CInt>, triggers: ArraySlice<CInt>, resamples: ArraySlice<CInt>) {
    self.edges = edges.map(SharedEvent.init(owning:))
    self.triggers = triggers.map(SharedEvent.init(owning:))
    self.resamples = resamples.map(SharedEvent.init(owning:))
    levels = edges.map { _ in AtomicBool() }
  }

  func pulse(_ input: Int) { edges[input].event.signal() }

  func setLevel(_ input: Int, _ asserted: Bool) {
    levels[input].value.store(asserted, ordering: .sequentiallyConsistent)
    if asserted { triggers[input].event.signal() }
  }

  /// The resample eventfds, to be waited for.
  var resampleDescriptors: [CInt] { resamples.map(\.raw) }

  /// The guest has ended an interrupt of the input.
  func resample(_ input: Int) {
    _ = resamples[input].event.drain()
    if levels[input].value.load(ordering: .sequentiallyConsistent) { triggers[input].event.signal() }
  }
}
