import Backends
import GuestMemory

/// Receive descriptor status and errors, §3.2.3.1 and §3.2.3.2.
private enum ReceiveStatus {
  static let done: UInt64 = 1 << 0
  static let endOfPacket: UInt64 = 1 << 1
  static let ignoreChecksums: UInt64 = 1 << 2
  static let vlan: UInt64 = 1 << 3
  static let tcpChecked: UInt64 = 1 << 5
  static let ipChecked: UInt64 = 1 << 6
  static let inexact: UInt64 = 1 << 7
  // Errors stand in the next byte.
  static let tcpError: UInt64 = 1 << 13
  static let ipError: UInt64 = 1 << 14
}

extension E1000 {
  /// Longest packets with FCS: without and with a VLAN tag, and with RCTL.LPE (§13.4.22).
  private static let longestPacket = 1522
  private static let longestLongPacket = 16384

  /// Whether anything could be received now; frames that come meanwhile are lost, as on a cable.
  private var isReceiving: Bool { receiveControl & E1000ReceiveControl.enable != 0 }

  /// RCTL.LBM or the PHY send every frame back (§13.4.22, PHY register 0).
  var isLoopback: Bool { receiveControl & E1000ReceiveControl.loopback != 0 || phy.isLoopback }

  /// Bytes in a receive buffer: RCTL.BSIZE and BSEX (§3.2.2).
  private var bufferSize: Int {
    let size = receiveControl >> 16 & 3
    guard receiveControl & E1000ReceiveControl.sizeExtension != 0 else { return 2048 >> Int(size) }
    // 00 is reserved.
    return size == 0 ? 2048 : 32768 >> Int(size)
  }

  /// Stores a frame without FCS. false: there are no descriptors for it, and it is to be offered again after an
  /// effect `receive`.
  mutating func receive(_ frame: UnsafeRawBufferPointer, memory: GuestMemory, now: UInt64) -> Bool {
    guard isReceiving, frame.count >= Ethernet.headerSize else { return true }
    let destination = EthernetAddress(frame)
    let match = filter.match(destination, source: EthernetAddress(frame, at: 6), control: receiveControl)
    let isLong = receiveControl & E1000ReceiveControl.longPackets != 0
    let wireSize = max(frame.count, Ethernet.minimumSize) + Ethernet.fcsSize
    guard case .none = match else {
      guard wireSize <= (isLong ? Self.longestLongPacket : Self.longestPacket) else {
        statistics.countOnWire(wireSize)
        statistics.countOversize()
        return true
      }
      return store(frame, destination, isInexact: match.isInexact, wireSize: wireSize, memory, now)
    }
    statistics.countOnWire(wireSize)
    return true
  }

  private mutating func store(
    _ frame: UnsafeRawBufferPointer, _ destination: EthernetAddress, isInexact: Bool, wireSize: Int,
    _ memory: GuestMemory, _ now: UInt64
  ) -> Bool {
    var status = ReceiveStatus.done
    var special: UInt16 = 0
    var tag: UInt16?
    if UInt32(frame.bigEndian16(Ethernet.typeOffset)) == vlanType, frame.count >= Ethernet.headerSize + Ethernet.tagSize
    {
      tag = frame.bigEndian16(Ethernet.headerSize)
    }
    if let tag, receiveControl & E1000ReceiveControl.vlanFilter != 0 {
      // The canonical form bit is looked at where CFIEN says so (§9.3.2).
      let wanted = receiveControl & E1000ReceiveControl.canonicalValue != 0
      let passes =
        receiveControl & E1000ReceiveControl.canonicalEnable == 0 || (tag >> 12 & 1 != 0) == wanted
      guard passes, filter.acceptsVLAN(tag) else {
        statistics.countOnWire(wireSize)
        return true
      }
    }
    var pieces = ReceivedPieces(frame)
    if let tag, control & E1000Control.vlanMode != 0 {
      status |= ReceiveStatus.vlan
      special = tag
      pieces.removeTag()
    }
    pieces.finish(minimum: Ethernet.minimumSize, withFCS: receiveControl & E1000ReceiveControl.stripCRC == 0)

    let needed = UInt32((pieces.count + bufferSize - 1) / bufferSize)
    takeReceiveTail()
    if needed > receiveRing.available {
      // A tail that is written from here on wakes the card.
      setReceiveAwaited(true)
      takeReceiveTail()
    }
    let available = receiveRing.available
    // All descriptors of the ring but one can be the hardware's, so a frame that needs more will never fit.
    guard needed <= available else {
      statistics.countNoBuffer()
      return needed > 1 && receiveRing.isUsable && needed >= receiveRing.count
    }
    setReceiveAwaited(false)
    guard case .some = transfer(pieces, frame, status, special, isInexact, memory) else { return true }

    statistics.countOnWire(wireSize)
    statistics.countReceived(destination, wireSize)
    if UInt32(wireSize) <= smallPacketSize { interrupts.raise(E1000Cause.smallPacket) }
    // RCTL.RDMTS: half, a quarter or an eighth of the ring is left.
    let threshold = receiveRing.count >> (1 &+ (receiveControl >> 8 & 3))
    if available > threshold, receiveRing.available <= threshold { interrupts.raise(E1000Cause.receiveMinimum) }
    interrupts.received(now)
    return true
  }

  /// Writes data, then the descriptors, each with its status in one store. nil where a descriptor is not in RAM.
  private mutating func transfer(
    _ pieces: ReceivedPieces, _ frame: UnsafeRawBufferPointer, _ status: UInt64, _ special: UInt16, _ isInexact: Bool,
    _ memory: GuestMemory
  ) -> Void? {
    let size = bufferSize
    let verdict = verify(frame)
    let checksum = packetChecksum(pieces)
    var offset = 0
    while offset < pieces.count {
      let descriptor = receiveRing.address(receiveRing.head)
      guard let buffer = try? memory.load(descriptor, as: UInt64.self) else { return nil }
      let part = min(size, pieces.count - offset)
      // A null address takes no data (§3.2.4); one that is not RAM loses it, as an aborted transfer does.
      if buffer != 0 { pieces.write(offset..<offset + part, to: buffer, memory) }
      offset += part
      var word = UInt64(part) | UInt64(checksum) << 16 | status << 32 | UInt64(special) << 48
      if offset == pieces.count {
        word |= (ReceiveStatus.endOfPacket | verdict | (isInexact ? ReceiveStatus.inexact : 0)) << 32
      }
      guard (try? memory.store(word, at: descriptor &+ 8)) != nil else { return nil }
      receiveRing.head = receiveRing.next(receiveRing.head)
    }
    return ()
  }

  /// The sum of the stored packet from RXCSUM.PCSS on, without FCS (§3.2.3).
  private func packetChecksum(_ pieces: ReceivedPieces) -> UInt16 {
    let start = Int(receiveChecksum & E1000ReceiveChecksum.start)
    var sum = InternetChecksum()
    pieces.addData(from: start, to: &sum)
    return sum.value
  }

  /// Status and error bits of the IP, TCP and UDP checksums (§3.2.9).
  private func verify(_ frame: UnsafeRawBufferPointer) -> UInt64 {
    guard receiveChecksum & (E1000ReceiveChecksum.ip | E1000ReceiveChecksum.tcpUDP) != 0,
      let packet = InternetPacket(frame, tagType: UInt16(truncatingIfNeeded: vlanType)),
      !packet.isIPv6 || receiveChecksum & E1000ReceiveChecksum.ipv6 != 0
    else { return ReceiveStatus.ignoreChecksums }
    var bits: UInt64 = 0
    if receiveChecksum & E1000ReceiveChecksum.ip != 0, !packet.isIPv6 {
      bits |= ReceiveStatus.ipChecked
      if !packet.isHeaderIntact(frame) { bits |= ReceiveStatus.ipError }
    }
    if receiveChecksum & E1000ReceiveChecksum.tcpUDP != 0, let isIntact = packet.isPayloadIntact(frame) {
      bits |= ReceiveStatus.tcpChecked
      if !isIntact { bits |= ReceiveStatus.tcpError }
    }
    return bits == 0 ? ReceiveStatus.ignoreChecksums : bits
  }
}

extension E1000ReceiveFilter.Match {
  var isInexact: Bool { if case .inexact = self { true } else { false } }
}
