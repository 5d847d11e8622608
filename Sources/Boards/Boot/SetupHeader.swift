/// The setup header of a Linux kernel for x86 (Documentation/arch/x86/boot.rst §1.3), and the zero page that carries it to
/// the kernel (zero-page.rst). Offsets are the same in both.
struct SetupHeader: Sendable {
  enum Field {
    static let start = 0x1F1
    static let setupSectors = 0x1F1
    /// Paragraphs of the part that runs in protected mode.
    static let systemSize = 0x1F4
    static let bootFlag = 0x1FE
    /// From 202h to where the header ends.
    static let length = 0x201
    static let magic = 0x202
    static let version = 0x206
    static let typeOfLoader = 0x210
    static let loadFlags = 0x211
    static let code32Start = 0x214
    static let ramdiskImage = 0x218
    static let ramdiskSize = 0x21C
    static let heapEnd = 0x224
    static let commandLine = 0x228
    static let ramdiskAddressMaximum = 0x22C
    static let kernelAlignment = 0x230
    static let relocatable = 0x234
    static let loadFlags64 = 0x236
    static let commandLineSize = 0x238
    static let payloadOffset = 0x248
    static let payloadLength = 0x24C
    static let preferredAddress = 0x258
    static let initialSize = 0x260
    /// Behind the last field there is room for more, up to the E820 map.
    static let limit = 0x290
  }

  /// Fields of the zero page outside the header.
  private enum ZeroPage {
    static let rootPointer = 0x070
    static let ramdiskImageHigh = 0x0C0
    static let ramdiskSizeHigh = 0x0C4
    static let commandLineHigh = 0x0C8
    static let mapEntries = 0x1E8
    static let map = 0x2D0
    static let mapLimit = 128
    static let size = 4096
  }

  /// XLF_*: bits of `loadFlags64`.
  private enum LoadFlags64 {
    static let has64BitEntry: UInt16 = 1 << 0
    static let canBeLoadedAbove4G: UInt16 = 1 << 1
  }

  static let signature: UInt32 = 0x5372_6448  // "HdrS"
  private static let loadedHigh: UInt8 = 1 << 0
  private static let canUseHeap: UInt8 = 1 << 7
  private static let undefinedLoader: UInt8 = 0xFF

  /// The first bytes of the file, up to `Field.limit`.
  let fields: Fields

  init(_ fields: Fields) { self.fields = fields }

  /// What a vmlinux lacks: the latest version's, with the limits that every kernel of that version has.
  static func standard(is64Bit: Bool) -> SetupHeader {
    var bytes = [UInt8](repeating: 0, count: Field.limit)
    func put<Value: FixedWidthInteger>(_ offset: Int, _ value: Value) {
      bytes.replaceSubrange(offset..<offset + MemoryLayout<Value>.size, with: value.littleEndianBytes)
    }
    put(Field.bootFlag, UInt16(0xAA55))
    put(Field.length, UInt8(Field.initialSize + 8 - Field.magic))
    put(Field.magic, signature)
    put(Field.version, UInt16(0x020F))
    put(Field.loadFlags, loadedHigh)
    put(Field.ramdiskAddressMaximum, is64Bit ? 0x7FFF_FFFF : 0x37FF_FFFF as UInt32)
    put(Field.kernelAlignment, UInt32(0x20_0000))
    put(Field.loadFlags64, is64Bit ? LoadFlags64.has64BitEntry | LoadFlags64.canBeLoadedAbove4G : 0)
    put(Field.commandLineSize, UInt32(2047))
    return SetupHeader(Fields(bytes: bytes))
  }

  var version: UInt16 { fields.integer(Field.version) }
  var isLoadedHigh: Bool { fields.integer(Field.loadFlags, as: UInt8.self) & Self.loadedHigh != 0 }
  /// Longest command line, without its zero.
  var commandLineLimit: Int { Int(fields.integer(Field.commandLineSize, as: UInt32.self)) }
  /// Last address that a ramdisk may use.
  var highestRamdisk: UInt64 { UInt64(fields.integer(Field.ramdiskAddressMaximum, as: UInt32.self)) }
  var isRelocatable: Bool { fields.integer(Field.relocatable, as: UInt8.self) != 0 }
  var alignment: UInt64 { UInt64(fields.integer(Field.kernelAlignment, as: UInt32.self)) }
  var has64BitEntry: Bool { version >= 0x020C && loadFlags64 & LoadFlags64.has64BitEntry != 0 }
  /// Whether ramdisk and command line may be above 4 GiB.
  var takesHighRamdisk: Bool { version >= 0x020C && loadFlags64 & LoadFlags64.canBeLoadedAbove4G != 0 }
  private var loadFlags64: UInt16 { fields.integer(Field.loadFlags64) }

  /// Fills in the header in the setup code, which carries it to the kernel where that starts in real mode (boot.rst §1.3).
  /// - Parameters:
  ///   - heapEnd: of the setup code's heap, behind its start.
  ///   - ramdisk: empty where there is none.
  static func complete(
    _ setup: inout [UInt8], code32: UInt32, heapEnd: UInt16, commandLine: UInt32, ramdisk: Range<UInt64>
  ) {
    func put<Value: FixedWidthInteger>(_ offset: Int, _ value: Value) {
      let bytes = value.littleEndianBytes
      guard offset <= setup.count - bytes.count else { return }
      setup.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
    put(Field.typeOfLoader, undefinedLoader)
    put(Field.loadFlags, setup[Field.loadFlags] | canUseHeap)
    put(Field.code32Start, code32)
    put(Field.heapEnd, heapEnd &- 0x200)
    put(Field.commandLine, commandLine)
    put(Field.ramdiskImage, UInt32(truncatingIfNeeded: ramdisk.isEmpty ? 0 : ramdisk.lowerBound))
    put(Field.ramdiskSize, UInt32(truncatingIfNeeded: ramdisk.count))
  }

  /// The boot parameters, the command line and the ramdisks.
  /// - Parameter kernel: guest memory that the kernel uses before it looks at the memory map.
  func zeroPage(_ machine: BootMachine, kernel: Range<UInt64>, code32: UInt32) throws(BootError) -> [BootPlan.Load] {
    var page = [UInt8](repeating: 0, count: ZeroPage.size)
    let end = min(Field.magic + Int(fields.integer(Field.length, as: UInt8.self)), fields.count, Field.limit)
    if end > Field.start { page.replaceSubrange(Field.start..<end, with: fields.bytes[Field.start..<end]) }
    func put<Value: FixedWidthInteger>(_ offset: Int, _ value: Value) {
      page.replaceSubrange(offset..<offset + MemoryLayout<Value>.size, with: value.littleEndianBytes)
    }
    put(Field.typeOfLoader, Self.undefinedLoader)
    put(Field.code32Start, code32)
    put(Field.commandLine, UInt32(truncatingIfNeeded: LowMemory.commandLine))
    put(Field.ramdiskImage, UInt32(0))
    put(Field.ramdiskSize, UInt32(0))
    let (ramdisk, ramdiskLoads) = try ramdisk(machine, behind: kernel.upperBound)
    if !ramdisk.isEmpty {
      put(Field.ramdiskImage, UInt32(truncatingIfNeeded: ramdisk.lowerBound))
      put(ZeroPage.ramdiskImageHigh, UInt32(truncatingIfNeeded: ramdisk.lowerBound >> 32))
      put(Field.ramdiskSize, UInt32(truncatingIfNeeded: ramdisk.count))
      put(ZeroPage.ramdiskSizeHigh, UInt32(truncatingIfNeeded: ramdisk.count >> 32))
    }
    if let rootPointer = machine.rootPointer { put(ZeroPage.rootPointer, rootPointer) }
    let map = machine.memoryMap.prefix(ZeroPage.mapLimit)
    put(ZeroPage.mapEntries, UInt8(truncatingIfNeeded: map.count))
    for (index, entry) in map.enumerated() {
      let offset = ZeroPage.map + index * 20
      put(offset, entry.base)
      put(offset + 8, entry.size)
      put(offset + 16, entry.kind.rawValue)
    }
    let commandLine = try BootPlan.Load.commandLine(machine.arguments, limit: commandLineLimit)
    return ramdiskLoads + [commandLine, BootPlan.Load(page, at: LowMemory.zeroPage)] + machine.tables
  }

  /// Where the ramdisks are, if there are any, and how they get there.
  private func ramdisk(_ machine: BootMachine, behind kernelEnd: UInt64) throws(BootError)
    -> (Range<UInt64>, [BootPlan.Load])
  {
    let limit = highestRamdisk &+ 1
    if let unpacked = machine.unpackedRamdisks {
      guard unpacked.lowerBound >= kernelEnd, unpacked.upperBound <= limit else {
        throw BootError("the initial ramdisk stands where the kernel does not take it")
      }
      return (unpacked, [])
    }
    let size = machine.joinedRamdisks
    guard size > 0 else { return (0..<0, []) }
    let address = try machine.placeRamdisk(size, from: kernelEnd, below: limit, mayBeHigh: takesHighRamdisk)
    return (address..<address &+ size, BootPlan.Load.ramdisks(machine, at: address))
  }
}
