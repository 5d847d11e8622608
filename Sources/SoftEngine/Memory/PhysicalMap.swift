import CSoftCPU
import Engines

/// Guest physical memory as one vCPU sees it.
// Safety: the only source of host addresses. Regions come from `VirtualMachine.map`, whose mappings outlive the machine.
struct PhysicalMap {
  struct Region {
    var start: UInt64
    var size: UInt64
    var host: UnsafeMutableRawPointer
    var readOnly: Bool
    /// For each page a bit for each 64 bytes from which code was decoded.
    var code: UnsafeMutablePointer<UInt64>

    @inline(__always)
    func contains(_ address: UInt64) -> Bool { address &- start < size }
  }

  private(set) var regions: [Region] = []
  private var last = 0

  static let pageSize: UInt64 = 4096
  static let pageMask: UInt64 = 4095

  /// The region of a physical address.
  mutating func region(_ address: UInt64) -> Region? {
    if last < regions.count, regions[last].contains(address) { return regions[last] }
    for index in regions.indices where regions[index].contains(address) {
      last = index
      return regions[index]
    }
    return nil
  }

  /// The page's host memory; nil where there is none. Regions are whole pages.
  mutating func host(_ address: UInt64) -> UnsafeMutableRawPointer? {
    guard let region = region(address) else { return nil }
    return region.host + Int(address &- region.start)
  }

  /// Bits of the code lines of the page of `address`.
  mutating func codeLines(_ address: UInt64) -> UnsafeMutablePointer<UInt64>? {
    guard let region = region(address) else { return nil }
    return region.code + Int((address &- region.start) / Self.pageSize)
  }

  /// Replaces all regions; no block may exist.
  mutating func replace(_ mappings: [HostMapping]) {
    for region in regions { region.code.deallocate() }
    regions = mappings.map { mapping in
      let pages = Int(mapping.size / Self.pageSize)
      let code = UnsafeMutablePointer<UInt64>.allocate(capacity: max(pages, 1))
      code.initialize(repeating: 0, count: max(pages, 1))
      return Region(
        start: mapping.guestAddress, size: mapping.size & ~Self.pageMask, host: mapping.host,
        readOnly: mapping.readOnly, code: code)
    }
    last = 0
  }

  func deallocate() { for region in regions { region.code.deallocate() } }
}
