import Backends
import GuestMemory

/// A frame as a card stores it: less a VLAN tag, padded, and with its FCS, without being copied together first.
struct ReceivedPieces {
  private var head: UnsafeRawBufferPointer
  private var rest: UnsafeRawBufferPointer
  /// Padding of up to 60 bytes and the FCS.
  private var trailer = InlineArray<64, UInt8>(repeating: 0)
  private var trailerCount = 0
  private var fcsCount = 0

  init(_ frame: UnsafeRawBufferPointer) {
    head = frame
    rest = UnsafeRawBufferPointer(rebasing: frame[frame.count...])
  }

  /// Bytes to be stored.
  var count: Int { head.count + rest.count + trailerCount }

  /// Leaves out the VLAN tag behind the addresses, which the frame must have.
  mutating func removeTag() {
    let frame = head
    guard frame.count >= Ethernet.headerSize + Ethernet.tagSize else { return }
    head = UnsafeRawBufferPointer(rebasing: frame[..<Ethernet.typeOffset])
    rest = UnsafeRawBufferPointer(rebasing: frame[(Ethernet.typeOffset + Ethernet.tagSize)...])
  }

  /// Adds padding up to `minimum`, and the FCS where it is stored too.
  mutating func finish(minimum: Int, withFCS: Bool) {
    trailerCount = min(max(minimum - head.count - rest.count, 0), 60)
    guard withFCS else { return }
    var fcs = FrameCheckSequence()
    fcs.add(head)
    fcs.add(rest)
    let padding = trailerCount
    withUnsafeBytes(of: &trailer) { fcs.add(UnsafeRawBufferPointer(rebasing: $0[..<padding])) }
    let value = fcs.value
    for index in 0..<Ethernet.fcsSize {
      trailer[trailerCount + index] = UInt8(truncatingIfNeeded: value >> UInt32(index * 8))
    }
    fcsCount = Ethernet.fcsSize
    trailerCount += fcsCount
  }

  /// Copies a part of what is to be stored into guest memory; what is not RAM is lost.
  func write(_ range: Range<Int>, to address: UInt64, _ memory: GuestMemory) {
    forEach(range) { bytes, offset in try? memory.write(address &+ UInt64(offset), from: bytes) }
  }

  /// Adds all bytes from `start` on but the FCS to a checksum.
  func addData(from start: Int, to sum: inout InternetChecksum) {
    guard start < count - fcsCount else { return }
    forEach(start..<count - fcsCount) { bytes, _ in sum.add(bytes) }
  }

  /// Calls `body` for each run of the range and its distance from the range's start.
  private func forEach(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer, Int) -> Void) {
    var position = 0
    func visit(_ run: UnsafeRawBufferPointer) {
      let start = max(range.lowerBound - position, 0)
      let end = min(range.upperBound - position, run.count)
      if start < end {
        body(UnsafeRawBufferPointer(rebasing: run[start..<end]), position + start - range.lowerBound)
      }
      position += run.count
    }
    visit(head)
    visit(rest)
    guard range.upperBound > position else { return }
    withUnsafeBytes(of: trailer) { visit(UnsafeRawBufferPointer(rebasing: $0[..<trailerCount])) }
  }
}
