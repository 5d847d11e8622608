/// A connection that leads nowhere: its link is down and what is sent is lost.
public final class DisconnectedNetwork: NetworkBackend {
  public init() {}
  public var offloads: NetworkOffloads { [] }
  public func setReceiveOffloads(_ offloads: NetworkOffloads) {}
  public var isLinkUp: Bool { false }
  public func start(_ receiver: any NetworkReceiver) {}
  public func send(_ parts: UnsafeBufferPointer<UnsafeRawBufferPointer>, _ header: FrameHeader) -> Bool { true }
  public func resume() {}
  public func drain() {}
}
