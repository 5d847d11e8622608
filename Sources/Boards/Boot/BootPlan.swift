import Engines

/// What is put into guest memory before the first instruction, and how the bootstrap processor begins.
public struct BootPlan: Sendable, Equatable {
  /// Where bytes come from.
  public enum Source: Sendable, Equatable {
    case bytes([UInt8])
    /// A range of the kernel's file.
    case kernel(offset: UInt64)
    /// Guest memory at this address, where the kernel was unpacked to.
    case unpacked(from: UInt64)
    case ramdisk(Int)
    /// Zeroes, which fresh memory has already.
    case zero
    /// Zeroes where something was put.
    case cleared
  }

  /// A range of guest memory and its contents.
  public struct Load: Sendable, Equatable {
    public let address: UInt64
    public let count: UInt64
    public let source: Source

    public init(address: UInt64, count: UInt64, source: Source) {
      (self.address, self.count, self.source) = (address, count, source)
    }

    public init(_ bytes: [UInt8], at address: UInt64) {
      self.init(address: address, count: UInt64(bytes.count), source: .bytes(bytes))
    }

    var end: UInt64 { address &+ count }
  }

  /// Carried out in this order.
  public var loads: [Load]
  public var start: StartState

  public init(loads: [Load], start: StartState) { (self.loads, self.start) = (loads, start) }
}

extension BootPlan.Load {
  static func gdt(is64Bit: Bool) -> BootPlan.Load {
    BootPlan.Load(
      StartState.descriptorTable(is64Bit: is64Bit).flatMap(\.littleEndianBytes), at: LowMemory.gdt)
  }

  /// Page tables that map the first 4 GiB to themselves in pages of 2 MiB.
  static var identityMap: BootPlan.Load {
    let tables = LowMemory.pageTables
    var entries = [UInt64](repeating: 0, count: 6 * 512)
    entries[0] = tables + 0x1000 | 3
    for gigabyte in 0..<4 { entries[512 + gigabyte] = tables + UInt64(2 + gigabyte) * 0x1000 | 3 }
    for page in 0..<2048 { entries[1024 + page] = UInt64(page) << 21 | 0x83 }
    return BootPlan.Load(entries.flatMap(\.littleEndianBytes), at: tables)
  }

  /// The command line and its zero. `limit` is what the kernel takes, without the zero.
  static func commandLine(_ text: String, limit: Int) throws(BootError) -> BootPlan.Load {
    let limit = min(limit, LowMemory.commandLineLimit - 1)
    let count = text.utf8.count
    guard count <= limit else {
      throw BootError("the command line has \(count) bytes and the kernel takes \(limit): shorten --append")
    }
    return BootPlan.Load(Array(text.utf8) + [0], at: LowMemory.commandLine)
  }

  /// The initial ramdisks one behind the other, and zeroes up to multiples of four.
  static func ramdisks(_ machine: BootMachine, at address: UInt64) -> [BootPlan.Load] {
    var loads: [BootPlan.Load] = []
    var next = address
    for (index, ramdisk) in machine.ramdisks.enumerated() {
      let start = BootMachine.aligned(next, 4)
      if start > next { loads.append(BootPlan.Load(address: next, count: start - next, source: .zero)) }
      loads.append(BootPlan.Load(address: start, count: ramdisk.size, source: .ramdisk(index)))
      next = start &+ ramdisk.size
    }
    return loads
  }
}
