import Backends
import GuestMemory

/// What the transmitter has to know of the registers for the next packet.
struct E1000TransmitSettings: Sendable {
  var ring: E1000Ring
  /// The EtherType that a tag gets; nil while CTRL.VME is off.
  var vlanType: UInt16?
  /// TCTL.PSP: short packets are padded.
  var padsShort: Bool
  var isLoopback: Bool
}

/// The transmit side of the 82540EM: gathers packets from the descriptor ring by reference, does their offloads and
/// hands them on one frame at a time (§3.3–3.6).
///
/// The order of calls: `gather` until `hasPacket`; then `next` and `sent` for each frame until `next` is false; then
/// `finish`. A frame that was refused stays and `next` gives it again.
// Safety: `scratch` is allocated here and freed by deinit; lists of parts point to it or to guest RAM.
struct E1000Transmitter: ~Copyable {
  typealias Descriptor = E1000TransmitDescriptor

  /// What `gather` found.
  struct Progress: Sendable {
    /// The new TDH.
    var head: UInt32
    /// Context descriptors with RS were written back, and whether all of them delay their interrupt.
    var wroteBack = false
    var delays = true
    /// The ring is not in RAM, or there is nothing more in it.
    var isIdle = false
  }

  /// What `finish` has done.
  struct Finished: Sendable {
    /// Descriptors with RS were written back, and whether all of them delay their interrupt.
    var wroteBack: Bool
    var delays: Bool
    /// Whether the packet could be cut into segments; nil for one that was not to be.
    var segmentation: Bool?
  }

  /// Largest packet without segmentation, with FCS (§3.3.3).
  static let longestPacket = 16288
  /// Descriptors that one `gather` takes at most.
  static let gatherLimit = 1024
  /// Runs that a backend is given at most; frames in more are copied together.
  private static let partLimit = 64
  /// The start of a packet that may be changed: offsets are bytes, so no field lies further behind.
  private static let headerLimit = 258

  private let scratch: UnsafeMutableRawBufferPointer
  /// The packet's first bytes as they were, those of the frame being sent, a VLAN tag, and zeros for padding.
  private let template: UnsafeMutableRawBufferPointer
  private let header: UnsafeMutableRawBufferPointer
  private let tag: UnsafeMutableRawBufferPointer
  private let zeros: UnsafeRawBufferPointer
  private let bounce: UnsafeMutableRawBufferPointer

  private var context = E1000TransmitContext()
  private var segmentationContext = E1000TransmitContext()

  // The packet being gathered or sent.
  private var parts = FrameParts()
  private var first: Descriptor?
  private var last: Descriptor?
  /// Descriptors to be written back when the packet is done.
  private var writeBacks: [UInt64] = []
  private var delays = true
  /// The packet is too long, or some of it is not in RAM: it is not sent.
  private var isBad = false
  private(set) var hasPacket = false

  // Its frames.
  private var isPrepared = false
  private var segment = 0
  private var segmentCount = 0
  private var payload = FrameParts.Cursor()
  private var payloadAfter = FrameParts.Cursor()
  private var wholeSegmentation = false
  private var frame = FrameParts()

  init() {
    let sizes = [264, 264, 8, 64, FrameLength.maximum + 64]
    scratch = .allocate(byteCount: sizes.reduce(0, +), alignment: 64)
    scratch.initializeMemory(as: UInt8.self, repeating: 0)
    func area(_ index: Int, of scratch: UnsafeMutableRawBufferPointer) -> UnsafeMutableRawBufferPointer {
      let start = sizes[..<index].reduce(0, +)
      return UnsafeMutableRawBufferPointer(rebasing: scratch[start..<start + sizes[index]])
    }
    template = area(0, of: scratch)
    header = area(1, of: scratch)
    tag = area(2, of: scratch)
    zeros = UnsafeRawBufferPointer(area(3, of: scratch))
    bounce = area(4, of: scratch)
    writeBacks.reserveCapacity(256)
  }

  deinit { scratch.deallocate() }

  /// Forgets the packet under way and every context: a reset.
  mutating func reset() {
    context = E1000TransmitContext()
    segmentationContext = E1000TransmitContext()
    clear()
  }

  private mutating func clear() {
    parts.removeAll()
    frame.removeAll()
    first = nil
    last = nil
    writeBacks.removeAll(keepingCapacity: true)
    delays = true
    isBad = false
    hasPacket = false
    isPrepared = false
  }

  // MARK: Descriptors

  /// Takes descriptors from the ring until a packet is whole, the ring is empty or `gatherLimit` are taken.
  mutating func gather(_ ring: E1000Ring, _ memory: GuestMemory) -> Progress {
    var progress = Progress(head: ring.head)
    guard ring.isUsable else {
      progress.isIdle = true
      return progress
    }
    for _ in 0..<Self.gatherLimit {
      guard progress.head != ring.tail else { break }
      let address = ring.address(progress.head)
      guard let low = try? memory.load(address, as: UInt64.self),
        let high = try? memory.load(address &+ 8, as: UInt64.self)
      else {
        progress.isIdle = true
        return progress
      }
      progress.head = ring.next(progress.head)
      let descriptor = Descriptor(low: low, high: high)
      if descriptor.kind == .context {
        take(E1000TransmitContext(descriptor), descriptor)
        guard descriptor.reportsStatus else { continue }
        Self.writeBack(address, memory)
        progress.wroteBack = true
        progress.delays = progress.delays && descriptor.delaysInterrupt
        continue
      }
      take(descriptor, address, memory)
      if descriptor.isEndOfPacket {
        hasPacket = true
        return progress
      }
    }
    progress.isIdle = progress.head == ring.tail
    return progress
  }

  private mutating func take(_ context: E1000TransmitContext, _ descriptor: Descriptor) {
    // There is one context for segmentation and one for the rest (§3.3.6).
    if descriptor.command & Descriptor.Command.segmentation != 0 {
      segmentationContext = context
    } else {
      self.context = context
    }
  }

  private mutating func take(_ descriptor: Descriptor, _ address: UInt64, _ memory: GuestMemory) {
    if first == nil { first = descriptor }
    last = descriptor
    if descriptor.reportsStatus {
      writeBacks.append(address)
      delays = delays && descriptor.delaysInterrupt
    }
    // A null address or length transfers nothing (§3.3.3.1 note 3).
    guard descriptor.low != 0, descriptor.dataLength > 0, !isBad else { return }
    var at = descriptor.low
    var left = descriptor.dataLength
    while left > 0 {
      guard parts.count + left <= FrameLength.maximum, let run = memory.run(at: at, upTo: left) else {
        isBad = true
        return
      }
      parts.append(UnsafeRawBufferPointer(run))
      left -= run.count
      at = at &+ UInt64(run.count)
    }
  }

  /// DD in the status of a descriptor (§3.3.3.2).
  private static func writeBack(_ address: UInt64, _ memory: GuestMemory) {
    guard let status = try? memory.load(address &+ 12, as: UInt8.self) else { return }
    try? memory.store(status | 1, at: address &+ 12)
  }

  // MARK: Frames

  /// The frame that `next` made, as `NetworkBackend.send` takes it; valid until the next call.
  var frameParts: [UnsafeRawBufferPointer] { frame.list }
  /// Its bytes, without FCS.
  var frameLength: Int { frame.count }
  private(set) var frameHeader = FrameHeader()

  /// Makes the packet's next frame; false when all of them were sent or the packet cannot be sent at all.
  /// A packet of a kind in `offloads` is left to the backend in one frame.
  mutating func next(_ settings: E1000TransmitSettings, offloads: NetworkOffloads) -> Bool {
    guard hasPacket, let first, let last else { return false }
    if !isPrepared { prepare(first, last, offloads) }
    guard segment < segmentCount else { return false }
    frame.removeAll()
    frameHeader = FrameHeader()
    var tagged = false
    // VLE is taken from the last descriptor (§3.3.3.1 note 1).
    if let type = settings.vlanType, last.command & Descriptor.Command.vlan != 0 {
      tag.setBigEndian16(0, type)
      tag.setBigEndian16(2, last.special)
      tagged = true
    }
    if isSegmented(first) {
      makeSegment(first, tagged: tagged)
    } else {
      makeWhole(first, last, tagged: tagged, offloads)
    }
    if settings.padsShort, frame.count < Ethernet.minimumSize {
      frame.append(UnsafeRawBufferPointer(rebasing: zeros[..<(Ethernet.minimumSize - frame.count)]))
    }
    if frame.list.count > Self.partLimit { flatten() }
    return true
  }

  /// The frame that `next` made is on its way.
  mutating func sent() {
    segment += 1
    payload = payloadAfter
  }

  /// The packet is done with: writes its descriptors back.
  mutating func finish(_ memory: GuestMemory) -> Finished {
    for address in writeBacks { Self.writeBack(address, memory) }
    var result = Finished(wroteBack: !writeBacks.isEmpty, delays: delays)
    if let first, isSegmented(first) { result.segmentation = segmentCount > 0 }
    clear()
    return result
  }

  /// All frames of the packet are on their way.
  var isSent: Bool { isPrepared && segment >= segmentCount }

  private func isSegmented(_ first: Descriptor) -> Bool {
    first.isExtended && first.command & Descriptor.Command.segmentation != 0
  }

  private mutating func prepare(_ first: Descriptor, _ last: Descriptor, _ offloads: NetworkOffloads) {
    isPrepared = true
    segment = 0
    segmentCount = 0
    payload = FrameParts.Cursor()
    payloadAfter = payload
    // Without IFCS software has put the FCS behind the packet, which no backend carries.
    if last.command & Descriptor.Command.insertFCS == 0 { parts.removeLast(Ethernet.fcsSize) }
    guard !isBad, parts.count >= Ethernet.headerSize else { return }
    guard isSegmented(first) else {
      if parts.count + Ethernet.fcsSize <= Self.longestPacket { segmentCount = 1 }
      return
    }
    let context = segmentationContext
    guard context.segmentSize > 0, context.headerLength >= Ethernet.headerSize, parts.count >= context.headerLength
    else {
      return
    }
    _ = parts.copy(
      from: &payload, into: UnsafeMutableRawBufferPointer(rebasing: template[..<context.headerLength]))
    payloadAfter = payload
    let count = parts.count - context.headerLength
    wholeSegmentation = canLeaveSegmentation(first, context, offloads)
    segmentCount = wholeSegmentation ? 1 : max(1, (count + context.segmentSize - 1) / context.segmentSize)
  }

  /// Whether the backend does this packet's segmentation: plain TCP, checksums included, in segments it accepts.
  private func canLeaveSegmentation(
    _ first: Descriptor, _ context: E1000TransmitContext, _ offloads: NetworkOffloads
  ) -> Bool {
    guard offloads.contains([.checksum, context.isIPv4 ? .tso4 : .tso6]), context.isTCP,
      first.packetOptions & Descriptor.PacketOption.insertTransportChecksum != 0,
      !context.isIPv4 || first.packetOptions & Descriptor.PacketOption.insertIPChecksum != 0,
      context.segmentSize >= 256, parts.count - context.headerLength > context.segmentSize,
      parts.count - context.ip.start <= 0xFFFF, context.ip.start >= Ethernet.headerSize,
      context.transport.start >= context.ip.start + 20, context.headerLength >= context.transport.start + 20,
      context.transport.offset == context.transport.start + InternetPacket.tcpChecksumOffset
    else { return false }
    return template[context.transport.start + 13] & 0x80 == 0 || offloads.contains(.ecn)
  }

  // MARK: Packets without segmentation

  private mutating func makeWhole(_ first: Descriptor, _ last: Descriptor, tagged: Bool, _ offloads: NetworkOffloads) {
    typealias Option = Descriptor.PacketOption
    var ip: E1000TransmitContext.Sum?
    var transport: E1000TransmitContext.Sum?
    if first.isExtended {
      if first.packetOptions & Option.insertIPChecksum != 0 { ip = context.ip }
      if first.packetOptions & Option.insertTransportChecksum != 0 { transport = context.transport }
    } else if last.command & Descriptor.Command.insertChecksum != 0 {
      transport = .init(start: last.checksumStart, offset: last.checksumOffset)
    }
    if let sum = transport, offloads.contains(.checksum), sum.end == 0 || sum.end + 1 >= parts.count,
      sum.start >= Ethernet.headerSize, sum.offset >= sum.start, sum.offset + 2 <= parts.count
    {
      frameHeader = FrameHeader(
        flags: .needsChecksum, checksumStart: UInt16(sum.start + (tagged ? Ethernet.tagSize : 0)),
        checksumOffset: UInt16(sum.offset - sum.start))
      transport = nil
    }
    guard tagged || ip != nil || transport != nil else {
      frame = parts
      return
    }
    var cursor = FrameParts.Cursor()
    let count = parts.copy(
      from: &cursor, into: UnsafeMutableRawBufferPointer(rebasing: header[..<Self.headerLimit]))
    for sum in [ip, transport] {
      guard let sum, let range = sum.range(parts.count) else { continue }
      var checksum = InternetChecksum()
      parts.add(range, to: &checksum)
      header.setBigEndian16(sum.offset, Self.stored(checksum, isUDP: first.isExtended && !context.isTCP))
    }
    append(header, count, tagged: tagged)
    parts.forEach(from: &cursor, parts.count - count) { frame.append($0) }
  }

  /// A checksum as it is stored: a UDP sum of zero would say that there is none (RFC 768).
  private static func stored(_ sum: InternetChecksum, isUDP: Bool) -> UInt16 {
    sum.checksum == 0 && isUDP ? 0xFFFF : sum.checksum
  }

  /// Adds the first `count` bytes to the frame, with the tag behind the addresses.
  private mutating func append(_ bytes: UnsafeMutableRawBufferPointer, _ count: Int, tagged: Bool) {
    let bytes = UnsafeRawBufferPointer(bytes)
    guard tagged, count >= Ethernet.typeOffset else {
      frame.append(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
      return
    }
    frame.append(UnsafeRawBufferPointer(rebasing: bytes[..<Ethernet.typeOffset]))
    frame.append(UnsafeRawBufferPointer(rebasing: tag[..<Ethernet.tagSize]))
    frame.append(UnsafeRawBufferPointer(rebasing: bytes[Ethernet.typeOffset..<count]))
  }

  // MARK: Segmentation

  /// Segment `segment` of the packet, or all of it for a backend that cuts it (§3.5).
  private mutating func makeSegment(_ first: Descriptor, tagged: Bool) {
    let context = segmentationContext
    let total = parts.count - context.headerLength
    let offset = wholeSegmentation ? 0 : segment * context.segmentSize
    let count = wholeSegmentation ? total : min(context.segmentSize, total - offset)
    let length = context.headerLength + count
    header.copyMemory(from: UnsafeRawBufferPointer(rebasing: template[..<context.headerLength]))
    adapt(context, length: length, offset: offset, isLast: offset + count >= total)

    // The guest's pseudo header sum lacks the length (§3.5.7), which differs from segment to segment.
    let field = context.transport.offset
    let transportLength = UInt16(truncatingIfNeeded: max(length - context.transport.start, 0))
    if first.packetOptions & Descriptor.PacketOption.insertIPChecksum != 0 {
      putIPChecksum(context)
    }
    var after = payload
    if first.packetOptions & Descriptor.PacketOption.insertTransportChecksum != 0, field + 2 <= context.headerLength,
      context.transport.start < context.headerLength
    {
      var sum = InternetChecksum()
      sum.add(transportLength)
      if wholeSegmentation {
        sum.add(header.bigEndian16(field))
        header.setBigEndian16(field, sum.value)
      } else {
        sum.add(UnsafeRawBufferPointer(rebasing: header[context.transport.start..<context.headerLength]))
        // An odd header would shift the words; the sum knows.
        var cursor = payload
        parts.forEach(from: &cursor, count) { sum.add($0) }
        header.setBigEndian16(field, Self.stored(sum, isUDP: !context.isTCP))
      }
    }
    append(header, context.headerLength, tagged: tagged)
    parts.forEach(from: &after, count) { frame.append($0) }
    payloadAfter = after
    guard wholeSegmentation else { return }
    let shift = tagged ? Ethernet.tagSize : 0
    let kind: FrameHeader.Segmentation = context.isIPv4 ? .tcp4 : .tcp6
    let ecn = header[context.transport.start + 13] & 0x80 != 0 ? FrameHeader.Segmentation.ecn : 0
    frameHeader = FrameHeader(
      flags: .needsChecksum, segmentation: .init(rawValue: kind.rawValue | ecn),
      headerLength: UInt16(context.headerLength + shift), segmentSize: UInt16(context.segmentSize),
      checksumStart: UInt16(context.transport.start + shift),
      checksumOffset: UInt16(context.transport.offset - context.transport.start))
  }

  /// Lengths, identification, sequence number and flags of a segment (§3.5.5–3.5.6). Fields outside the header that the
  /// context describes stay as they are.
  private func adapt(_ context: E1000TransmitContext, length: Int, offset: Int, isLast: Bool) {
    let limit = context.headerLength
    func put(_ at: Int, _ value: Int) {
      if at + 2 <= limit { header.setBigEndian16(at, UInt16(truncatingIfNeeded: value)) }
    }
    let ip = context.ip.start
    if context.isIPv4 {
      put(ip + 2, length - ip)
      if ip + 6 <= limit { put(ip + 4, Int(header.bigEndian16(ip + 4)) + segment) }
    } else {
      put(ip + 4, length - ip - 40)
    }
    let transport = context.transport.start
    guard context.isTCP else {
      put(transport + 4, length - transport)
      return
    }
    guard transport + 14 <= limit else { return }
    let sequence = UInt32(bigEndian: header.loadUnaligned(fromByteOffset: transport + 4, as: UInt32.self))
    let next = sequence &+ UInt32(truncatingIfNeeded: offset)
    header.storeBytes(of: next.bigEndian, toByteOffset: transport + 4, as: UInt32.self)
    // FIN and PSH are the last segment's.
    if !isLast { header[transport + 13] &= ~0x09 }
  }

  private func putIPChecksum(_ context: E1000TransmitContext) {
    guard let range = context.ip.range(context.headerLength) else { return }
    var sum = InternetChecksum()
    sum.add(UnsafeRawBufferPointer(rebasing: header[range]))
    header.setBigEndian16(context.ip.offset, sum.checksum)
  }

  // MARK: Copies

  /// Copies the frame together where it is in more runs than a backend is given.
  private mutating func flatten() {
    let whole = contiguous()
    frame.removeAll()
    frame.append(whole)
  }

  /// Where the frame goes.
  var frameDestination: EthernetAddress {
    var address: UInt64 = 0
    withUnsafeMutableBytes(of: &address) { bytes in
      var cursor = FrameParts.Cursor()
      _ = frame.copy(from: &cursor, into: UnsafeMutableRawBufferPointer(rebasing: bytes[..<6]))
    }
    return EthernetAddress(bits: UInt64(littleEndian: address))
  }

  /// The frame in one piece; in the bounce buffer where it is not so already.
  mutating func contiguous() -> UnsafeRawBufferPointer {
    if frame.list.count == 1 { return frame.list[0] }
    var cursor = FrameParts.Cursor()
    let count = frame.copy(from: &cursor, into: bounce)
    return UnsafeRawBufferPointer(rebasing: bounce[..<count])
  }
}
