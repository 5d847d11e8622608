/// Where a doorbell is: what the guest writes to ring it.
public enum DoorbellPlace: Sendable, Hashable {
  case port(UInt16)
  /// Guest physical address.
  case memory(UInt64)
  /// A write of 32 bits with this value to the address. There is no `memory` at it then.
  case register(UInt64, value: UInt32)
  /// Shared registers of this number: a write to one of them with which the device has something to do.
  case sharedRegisters(Int)
}

/// An address whose writes wake a device's worker without the vCPU waiting for it, such as a virtqueue's notification.
///
/// What was written is not seen. Where the engine has no such way, or something else stands at the address, the write
/// arrives as any other does, so a device handles both.
// Safety: the base holds no state; each subclass restates the promise.
open class Doorbell: @unchecked Sendable {
  public init() {}

  /// Moves the doorbell, or takes it away. In force before the vCPU whose access caused it runs on.
  open func place(at place: DoorbellPlace?) {}
}

/// Whether a worker may sleep.
public enum WorkerState: Sendable, Equatable {
  /// Until it is woken.
  case idle
  /// There was work: it looks again at once.
  case busy
  /// There was none, and nothing would wake it: it looks again at once, which only a worker that may poll does.
  case polling(PollingTime)
}

/// For how long a worker polls at most after there was work, where the host has processors to spare.
public enum PollingTime: Sendable, Equatable {
  /// Some tens of microseconds.
  case short
  /// Some hundred, which saves a guest that is answered at once the cost of its doorbells. Not while other threads of
  /// the host work for the device: they may need the processor.
  case long
}

/// A thread of a device's own. It sleeps until it is woken and then calls the device's `work` until that is idle.
///
/// A device does its slow or frequent work here, so that no other device and no vCPU waits for it: virtqueues, and
/// what comes back from backends. `work` is never called twice at once. Its argument says whether the worker may poll:
/// then what wakes it need not be armed, and it is called again for some microseconds after there was work.
// Safety: the base holds no state; each subclass restates the promise.
open class DeviceWorker: @unchecked Sendable {
  public init() {}

  /// `work` is called after this. Any thread; cheap when the worker is awake or has been woken.
  open func wake() {}

  /// As `wake`, at a point of guest time (nanoseconds) or before; an earlier one that was asked for stays.
  open func wake(at deadline: UInt64) {}

  /// A doorbell that wakes the worker, not placed anywhere. To be called while the board is built.
  open func doorbell() -> Doorbell { Doorbell() }
}

/// Makes the workers of devices.
public protocol DeviceWorkers: AnyObject, Sendable {
  /// A worker whose thread starts when the board is complete. To be called while the board is built; `work` holds its
  /// device unowned.
  func worker(_ name: String, _ work: @escaping @Sendable (_ mayPoll: Bool) -> WorkerState)
    throws(DeviceError) -> DeviceWorker
}
