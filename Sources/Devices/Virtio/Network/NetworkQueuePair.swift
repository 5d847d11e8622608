import Backends

/// A receive queue, a transmit queue and the pair of the backend's behind them. The device's queues are used only under
/// their groups' locks, and so is what is here: each field says whose.
// Safety: fields are used under the lock of the group that they belong to; `device` outlives its pairs' calls, because
// the machine keeps it until the process ends.
final class NetworkQueuePair: NetworkReceiver, @unchecked Sendable {
  private typealias Header = NetworkFormat.Header

  let index: Int
  let backend: any NetworkBackend
  unowned let device: VirtioNetwork

  // Of the receive queue's group.
  private var buffers = ReceiveBuffers()
  /// The backend keeps a frame for which there were no buffers.
  private(set) var isStarved = false

  // Of the transmit queue's group.
  private var parts: [UnsafeRawBufferPointer] = []
  /// A frame in `parts` that the backend refused.
  private var refused: (token: BufferToken, header: FrameHeader)?

  init(_ index: Int, _ backend: any NetworkBackend, _ device: VirtioNetwork) {
    self.index = index
    self.backend = backend
    self.device = device
    parts.reserveCapacity(64)
  }

  var receiveQueue: Int { index * 2 }
  var transmitQueue: Int { index * 2 + 1 }
  /// Each queue has a group, so that reception and transmission run side by side.
  var transmitGroup: Int { transmitQueue }

  func forgetReceived() {
    buffers.removeAll()
    isStarved = false
  }

  func forgetTransmitted() {
    parts.removeAll(keepingCapacity: true)
    refused = nil
  }

  // MARK: Reception

  func receive(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) -> Bool {
    guard frame.count >= Ethernet.headerSize, device.accepts(frame) else { return true }
    var header = header
    // The host sums a packet up faster than the guest can; a wrong sum is left for the guest to find (§5.1.6.4.1).
    if header.flags.isEmpty, device.mayValidate, InternetPacket(frame)?.isPayloadIntact(frame) == true {
      header.flags = .dataValid
    }
    let complete = header
    var isTaken = true
    device.perform(queue: receiveQueue) { () throws(VirtqueueFault) in
      isTaken = try store(frame, complete)
    }
    return isTaken
  }

  /// Puts a frame into the driver's buffers (§5.1.6.4). False: there are too few.
  private func store(_ frame: UnsafeRawBufferPointer, _ header: FrameHeader) throws(VirtqueueFault) -> Bool {
    guard device.queues[receiveQueue].isOpen else { return true }
    let settings = device.settings
    let length = settings.headerSize + frame.count
    while buffers.room < length {
      if !settings.isMergeable, buffers.count > 0 {
        // Without merging a frame must fit into one buffer, which the driver made too small.
        return true
      }
      guard let chain = try takeBuffer() else {
        // More than the whole queue has is never there.
        isStarved = buffers.count < Int(device.specs[receiveQueue].size)
        return !isStarved
      }
      // §5.1.6.3.1: at least the header in each.
      guard chain.writableCount >= settings.headerSize else { throw .request }
      buffers.append(chain)
    }
    let count = buffers.needed(length)
    withUnsafeTemporaryAllocation(byteCount: Header.size, alignment: 8) { bytes in
      header.encode(to: bytes)
      bytes.storeBytes(
        of: UInt16(truncatingIfNeeded: count).littleEndian, toByteOffset: NetworkFormat.Header.buffers, as: UInt16.self)
      buffers.fill(count, UnsafeRawBufferPointer(rebasing: bytes[..<settings.headerSize]), frame) { token, written in
        device.queues[receiveQueue].put(token, written: written)
      }
    }
    return true
  }

  /// The next buffer; where there is none the driver is asked to say when there is.
  private func takeBuffer() throws(VirtqueueFault) -> DescriptorChain? {
    if let chain = try device.queues[receiveQueue].take() { return chain }
    device.queues[receiveQueue].setNotifications(true)
    guard let chain = try device.queues[receiveQueue].take() else { return nil }
    device.queues[receiveQueue].setNotifications(false)
    return chain
  }

  /// The driver has made buffers available that a frame waits for.
  func feed() -> Bool {
    guard isStarved else { return false }
    isStarved = false
    backend.resume()
    return true
  }

  // MARK: Transmission

  /// Sends the frame that the backend refused. False: there is none, or there is still no room.
  func retry() -> Bool {
    guard let refused, sendParts(refused.header) else { return false }
    self.refused = nil
    finish(refused.token)
    return true
  }

  /// Sends what the driver has made available (§5.1.6.2). False: there was nothing to do.
  func transmit() throws(VirtqueueFault) -> Bool {
    guard refused == nil else { return false }
    var worked = false
    let settings = device.settings
    // The driver may add chains as fast as they are sent: others in the group have their turn in between.
    for _ in 0..<Int(device.specs[transmitQueue].size) {
      guard let chain = try device.queues[transmitQueue].take() else { return worked }
      worked = true
      guard chain.readableCount >= settings.headerSize else { throw .request }
      let header = gather(chain, settings)
      // What is longer than any frame, or asks for what was not agreed on, is lost.
      guard let header, chain.readableCount - settings.headerSize <= FrameLength.maximum else {
        finish(chain.token)
        continue
      }
      guard sendParts(header) else {
        refused = (chain.token, header)
        return worked
      }
      finish(chain.token)
    }
    return worked
  }

  /// Puts the chain's frame into `parts`; nil where its header is not what driver and device agreed on.
  private func gather(_ chain: DescriptorChain, _ settings: VirtioNetwork.Settings) -> FrameHeader? {
    parts.removeAll(keepingCapacity: true)
    var bytes = InlineArray<10, UInt8>(repeating: 0)
    let header = withUnsafeMutableBytes(of: &bytes) { bytes in
      chain.read(into: bytes)
      return FrameHeader(decoding: UnsafeRawBufferPointer(bytes))
    }
    var skip = settings.headerSize
    for run in chain.readable {
      if skip >= run.count {
        skip -= run.count
        continue
      }
      parts.append(UnsafeRawBufferPointer(rebasing: run[skip...]))
      skip = 0
    }
    return header.agreed(settings.transmitOffloads)
  }

  private func sendParts(_ header: FrameHeader) -> Bool {
    parts.withUnsafeBufferPointer { backend.send($0, header) }
  }

  private func finish(_ token: BufferToken) {
    parts.removeAll(keepingCapacity: true)
    device.queues[transmitQueue].put(token, written: 0)
  }

  func sendable() { device.wake(group: transmitGroup) }
  func linkChanged() { device.linkChanged() }

  /// Whether the driver is to say when it makes buffers available in the queue.
  func wants(_ queue: Int) -> Bool { queue == receiveQueue ? isStarved : refused == nil }
}

extension FrameHeader {
  /// The header as far as `offloads` were agreed on; nil where the frame asks for more.
  func agreed(_ offloads: NetworkOffloads) -> FrameHeader? {
    guard offloads.contains(.checksum) else {
      return flags.contains(.needsChecksum) || segmentation.kind != .none ? nil : FrameHeader()
    }
    var header = self
    // DATA_VALID says something of received frames alone.
    header.flags = flags.intersection(.needsChecksum)
    switch segmentation.kind {
    case .none: header.segmentation = .none
    case .tcp4: guard offloads.contains(.tso4) else { return nil }
    case .tcp6: guard offloads.contains(.tso6) else { return nil }
    default: return nil
    }
    if segmentation.rawValue & Segmentation.ecn != 0, header.segmentation.kind != .none {
      guard offloads.contains(.ecn) else { return nil }
    }
    return header
  }
}
