import Engines
import LinuxSystem

/// The code of a bzImage while it is packed: an ELF vmlinux, and what its own stub relocates it by (boot.rst,
/// payload_offset and payload_length).
struct PackedKernel: Sendable, Equatable {
  let compression: Compression
  /// Where it stands in the file.
  let offset: UInt64
  let count: Int
  /// Bytes that it unpacks to.
  let unpackedCount: Int
  /// Where it is unpacked to: its first segment is then in its place.
  let address: UInt64
}

extension LinuxKernel {
  /// What the ELF file has before its first segment: a page of the largest size, or a small one.
  private static let headSize64: UInt64 = 0x20_0000
  private static let headSize32: UInt64 = 0x1000

  /// Nil: only the kernel's stub can unpack it.
  func packed(_ file: KernelFile) throws(BootError) -> PackedKernel? {
    typealias Field = SetupHeader.Field
    let fields = header.fields
    let start = UInt64(fields.integer(Field.payloadOffset, as: UInt32.self))
    let length = UInt64(fields.integer(Field.payloadLength, as: UInt32.self))
    guard header.version >= 0x020A, length > 16, start <= count, length <= count - start else { return nil }
    guard let compression = Compression(try file.bytes(offset + start, 6, "payload").bytes) else { return nil }
    // Whatever packed it, the unpacked size is at the end; gzip has it there by itself.
    let size = UInt64(try file.bytes(offset + start + length - 4, 4, "payload").integer(0, as: UInt32.self))
    let headSize = header.has64BitEntry ? Self.headSize64 : Self.headSize32
    guard size > 4096, size <= initialSize, preferredAddress >= LowMemory.megabyte + headSize else { return nil }
    return PackedKernel(
      compression: compression, offset: offset + start, count: Int(length), unpackedCount: Int(size),
      address: preferredAddress - headSize)
  }

  /// Starts the unpacked kernel at its own entry. Nil: it is not laid out so that it can be put into place.
  func plan(_ machine: BootMachine, unpacked image: ELFImage, from packed: PackedKernel) throws(BootError) -> BootPlan?
  {
    let staging = packed.address..<packed.address + UInt64(packed.unpackedCount)
    let entry = image.physicalEntry
    let kernel =
      min(image.extent.lowerBound, preferredAddress)..<max(image.extent.upperBound, preferredAddress &+ initialSize)
    try machine.require(max(kernel.upperBound, staging.upperBound))
    guard image.extent.contains(entry), image.extent.upperBound <= machine.lowMemory else { return nil }
    let segments = image.segments.filter { $0.fileSize > 0 }
    guard var loads = Self.moves(segments, staging: packed.address) else { return nil }
    loads += Self.remains(of: staging, beside: segments.map { $0.address..<$0.address + $0.fileSize })
    for segment in image.segments {
      let start = max(segment.address + segment.fileSize, staging.upperBound)
      if segment.end > start { loads.append(BootPlan.Load(address: start, count: segment.end - start, source: .zero)) }
    }
    loads += try header.zeroPage(machine, kernel: kernel, code32: UInt32(truncatingIfNeeded: entry))
    return SetupHeader.start(&loads, at: entry, is64Bit: image.is64Bit)
  }

  /// Puts the segments of a file that stands at `staging` into place. Nil: one would overwrite another that is still to
  /// be moved.
  private static func moves(_ segments: [ELFImage.Segment], staging: UInt64) -> [BootPlan.Load]? {
    func source(_ segment: ELFImage.Segment) -> UInt64 { staging + segment.offset }
    // What moves up makes room from the end of the file, what moves down from its start.
    let order =
      segments.filter { $0.address > source($0) }.sorted { $0.offset > $1.offset }
      + segments.filter { $0.address <= source($0) }.sorted { $0.offset < $1.offset }
    for (index, segment) in order.enumerated() {
      let target = segment.address..<segment.address + segment.fileSize
      for later in order[(index + 1)...] where target.overlaps(source(later)..<source(later) + later.fileSize) {
        return nil
      }
    }
    return order.filter { $0.address != source($0) }.map {
      BootPlan.Load(address: $0.address, count: $0.fileSize, source: .unpacked(from: source($0)))
    }
  }

  /// What was unpacked and belongs to no segment, to be cleared.
  private static func remains(of staging: Range<UInt64>, beside kept: [Range<UInt64>]) -> [BootPlan.Load] {
    var loads: [BootPlan.Load] = []
    var next = staging.lowerBound
    let end = staging.upperBound
    for range in kept.sorted(by: { $0.lowerBound < $1.lowerBound }) + [end..<end] {
      let stop = min(range.lowerBound, end)
      if stop > next { loads.append(BootPlan.Load(address: next, count: stop - next, source: .cleared)) }
      next = max(next, range.upperBound)
    }
    return loads
  }
}
