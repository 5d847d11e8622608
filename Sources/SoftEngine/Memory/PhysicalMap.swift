import CSoftCPU
import Engines

/// What the vCPUs of a machine share of the pages of one mapping.
// Safety: the pages are used with atomic operations only, and freed when no vCPU's map refers to them any more.
final class CodePages: @unchecked Sendable {
  let first: UnsafeMutablePointer<soft_code_page>

  /// Nil: the host has no memory for them.
  init?(count: Int) {
    guard let first = soft_make_code_pages(count) else { return nil }
    self.first = first
  }

  deinit { soft_free_code_pages(first) }
}

/// A mapping with what is known of its pages.
struct MappedMemory: Sendable {
  let mapping: HostMapping
  let pages: CodePages

  /// Nil: the host has no memory for it.
  init?(_ mapping: HostMapping) {
    guard let pages = CodePages(count: Int(truncatingIfNeeded: mapping.size >> 12)) else { return nil }
    self.mapping = mapping
    self.pages = pages
  }
}

/// Guest physical memory as one vCPU sees it.
// Safety: the only source of host addresses. Regions come from `VirtualMachine.map`, which returns when no vCPU uses
// what it replaced.
struct PhysicalMap {
  struct Region {
    var start: UInt64
    var size: UInt64
    var host: UnsafeMutableRawPointer
    var readOnly: Bool
    var pages: UnsafeMutablePointer<soft_code_page>

    @inline(__always)
    func contains(_ address: UInt64) -> Bool { address &- start < size }

    /// What is known of the page of an address in this region.
    @inline(__always)
    func page(_ address: UInt64) -> UnsafeMutablePointer<soft_code_page> {
      pages + Int(truncatingIfNeeded: (address &- start) >> 12)
    }
  }

  private var regions = UnsafeMutablePointer<Region>.allocate(capacity: 1)
  private var count = 0
  private var last = 0
  /// Keeps the regions' pages alive.
  private var memory: [MappedMemory] = []

  static let pageMask: UInt64 = 4095

  /// The region of a physical address.
  @inline(__always)
  mutating func region(_ address: UInt64) -> UnsafeMutablePointer<Region>? {
    // Safety: `last` is below `count`, or 0 with a first region that contains nothing.
    if regions[last].contains(address) { return regions + last }
    return search(address)
  }

  @inline(never)
  private mutating func search(_ address: UInt64) -> UnsafeMutablePointer<Region>? {
    for index in 0..<count where regions[index].contains(address) {
      last = index
      return regions + index
    }
    return nil
  }

  /// The page's host memory; nil where there is none. Regions are whole pages.
  @inline(__always)
  mutating func host(_ address: UInt64) -> UnsafeMutableRawPointer? {
    guard let region = region(address) else { return nil }
    return region.pointee.host + Int(truncatingIfNeeded: address &- region.pointee.start)
  }

  /// What is known of the page of `address`.
  mutating func codePage(_ address: UInt64) -> UnsafeMutablePointer<soft_code_page>? {
    region(address)?.pointee.page(address)
  }

  init() { clear() }

  /// One region that contains nothing.
  private mutating func clear() {
    regions.deallocate()
    regions = .allocate(capacity: 1)
    regions.initialize(
      to: Region(
        start: 0, size: 0, host: UnsafeMutableRawPointer(regions), readOnly: true,
        pages: UnsafeMutableRawPointer(regions).assumingMemoryBound(to: soft_code_page.self)))
    (count, last) = (0, 0)
  }

  /// Replaces all regions; no block may exist.
  mutating func replace(_ memory: [MappedMemory]) {
    self.memory = memory
    guard !memory.isEmpty else { return clear() }
    regions.deallocate()
    regions = .allocate(capacity: memory.count)
    count = 0
    // The largest first: most accesses are to it.
    for one in memory.sorted(by: { $0.mapping.size > $1.mapping.size }) {
      (regions + count).initialize(
        to: Region(
          start: one.mapping.guestAddress, size: one.mapping.size & ~Self.pageMask, host: one.mapping.host,
          readOnly: one.mapping.readOnly, pages: one.pages.first))
      count += 1
    }
    last = 0
  }

  mutating func deallocate() {
    regions.deallocate()
    memory = []
  }
}
