import Synchronization
import Testing

@testable import Buses

/// Answers reads with its tag and offset and remembers the last write.
private final class Probe: BusTarget, @unchecked Sendable {
  let tag: UInt64
  let writes = Mutex<[(region: Int, offset: UInt64, width: AccessWidth, value: UInt64)]>([])
  init(_ tag: UInt64) { self.tag = tag }
  override func read(region: Int, offset: UInt64, width: AccessWidth) -> UInt64 { tag << 12 | offset }
  override func write(region: Int, offset: UInt64, width: AccessWidth, value: UInt64) {
    writes.withLock { $0.append((region, offset, width, value)) }
  }
}

/// Remembers where writes are posted; has two slots.
private final class Posted: PostedRanges {
  let ranges = Mutex<[Range<UInt64>?]>([])
  func makeRegisters() -> SharedRegisters? { nil }
  func reserve(_ registers: SharedRegisters?, isPosted: Bool) -> Int? {
    ranges.withLock { ranges in
      guard ranges.count < 2 else { return nil }
      ranges.append(nil)
      return ranges.count - 1
    }
  }
  func set(_ slot: Int, _ range: Range<UInt64>?) { ranges.withLock { $0[slot] = range } }
}

@Suite struct AddressSpaceTests {
  @Test func claimsOfPostedWritesAreToldAsTheyMove() throws {
    let posted = Posted()
    let mmio = AddressSpace.mmio(postedRanges: posted)
    try mmio.claim(0x1000, 8, for: Probe(1))
    try mmio.claim(0x2000, 8, for: Probe(2), isPosted: true)
    let bar = try mmio.claimMovable(Probe(3), isPosted: true)
    #expect(posted.ranges.withLock { $0 } == [0x2000..<0x2008, nil])
    mmio.place(bar, at: 0x3000, 16)
    #expect(posted.ranges.withLock { $0[1] } == 0x3000..<0x3010)
    mmio.place(bar, at: nil, 16)
    #expect(posted.ranges.withLock { $0[1] } == nil)
    // Without a slot it answers all the same.
    try mmio.claim(0x4000, 8, for: Probe(4), isPosted: true)
    #expect(mmio.answers(0x4000))
  }

  @Test func unclaimedAddressesReadOnesAndIgnoreWrites() {
    let ports = AddressSpace.ports()
    #expect(ports.read(0x300, .byte) == 0xFF)
    #expect(ports.read(0x300, .dword) == 0xFFFF_FFFF)
    #expect(AddressSpace.mmio().read(.max, .qword) == .max)
    ports.write(0x300, .byte, 1)
    #expect(!ports.answers(0x300))
  }

  @Test func theTargetSeesRegionOffsetAndMaskedValue() throws {
    let ports = AddressSpace.ports()
    let probe = Probe(1)
    try ports.claim(0x300, 8, for: probe, region: 7)
    ports.write(0x303, .word, 0xABCD_1234)
    let write = probe.writes.withLock { $0.last }
    #expect(write?.region == 7 && write?.offset == 3 && write?.width == .word && write?.value == 0x1234)
    #expect(ports.read(0x307, .word) == 0x1007)
    #expect(ports.read(0x307, .byte) == 0x07)
    #expect(ports.read(0x308, .byte) == 0xFF)
  }

  @Test(arguments: [(0x300, 8), (0x2FF, 2), (0x307, 1), (0x2F0, 0x100), (0x303, 2)] as [(UInt64, UInt64)])
  func overlappingFixedClaimsAreRefused(base: UInt64, count: UInt64) throws {
    let ports = AddressSpace.ports()
    try ports.claim(0x300, 8, for: Probe(1))
    #expect(throws: BusConflict(space: "port", base: base, count: count)) {
      try ports.claim(base, count, for: Probe(2))
    }
    try ports.claim(0x308, 1, for: Probe(3))
    try ports.claim(0x2FF, 1, for: Probe(4))
    #expect(ports.read(0x2FF, .word) == 0x4000)
  }

  @Test(arguments: [(0xFFFF, 2), (0x1_0000, 1), (0x300, 0), (.max, .max), (1, .max)] as [(UInt64, UInt64)])
  func fixedClaimsThatDoNotFitAreRefused(base: UInt64, count: UInt64) {
    #expect(throws: BusConflict.self) { try AddressSpace.ports().claim(base, count, for: Probe(1)) }
  }

  @Test func movableClaimsAnswerWhereTheyArePlaced() throws {
    let mmio = AddressSpace.mmio()
    let probe = Probe(5)
    let claim = try mmio.claimMovable(probe, region: 2)
    #expect(!mmio.answers(0))
    mmio.place(claim, at: 0xF000_0000, 0x1000)
    #expect(mmio.read(0xF000_0010, .word) == 0x5010)
    mmio.place(claim, at: 0xE000_0000, 0x1000)
    #expect(!mmio.answers(0xF000_0010))
    #expect(mmio.read(0xE000_0FFF, .word) == 0x5FFF)
    mmio.place(claim, at: nil, 0)
    #expect(!mmio.answers(0xE000_0000))
  }

  @Test(arguments: [(1 << 52, 0x1000), ((1 << 52) - 1, 2), (0xFFFF_FFFF_FFFF_F000, 0x1000)] as [(UInt64, UInt64)])
  func claimsPlacedBeyondTheLimitAreDisabled(base: UInt64, count: UInt64) throws {
    let mmio = AddressSpace.mmio()
    let claim = try mmio.claimMovable(Probe(1))
    mmio.place(claim, at: base, count)
    #expect(!mmio.answers(base))
  }

  @Test func theEarlierClaimWinsAnOverlap() throws {
    let mmio = AddressSpace.mmio()
    let movable = try mmio.claimMovable(Probe(1))
    try mmio.claim(0x1000, 0x1000, for: Probe(2))
    mmio.place(movable, at: 0x1800, 0x1000)
    #expect(mmio.read(0x1800, .word) == 0x1000)
    #expect(mmio.read(0x1000, .word) == 0x2000)
  }

  @Test func stringAccessesRepeatOneAddress() throws {
    let ports = AddressSpace.ports()
    let probe = Probe(2)
    try ports.claim(0x1F0, 8, for: probe)
    var input = [UInt8](repeating: 0, count: 6)
    input.withUnsafeMutableBytes { ports.readString(0x1F0, .word, into: $0) }
    #expect(input == [0x00, 0x20, 0x00, 0x20, 0x00, 0x20])
    ([0x11, 0x22, 0x33, 0x44] as [UInt8]).withUnsafeBytes { ports.writeString(0x1F0, .word, from: $0) }
    #expect(probe.writes.withLock { $0.map(\.value) } == [0x2211, 0x4433])
    var floating = [UInt8](repeating: 0, count: 4)
    floating.withUnsafeMutableBytes { ports.readString(0x400, .dword, into: $0) }
    #expect(floating == [0xFF, 0xFF, 0xFF, 0xFF])
  }

  @Test func aSpaceRefusesMoreClaimsThanItHasRoomFor() throws {
    let ports = AddressSpace.ports()
    for port in 0..<256 { try ports.claim(UInt64(port), 1, for: Probe(1)) }
    #expect(throws: BusConflict.self) { try ports.claim(0x1000, 1, for: Probe(1)) }
  }
}
