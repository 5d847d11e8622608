import MachineModel

/// The SMBIOS 2.8 structures of a machine (DMTF DSP0134) and the entry point that firmware completes.
///
/// Firmware adds the BIOS information (type 0), places the structures and fills in their address and the checksums.
struct SMBIOSTables: Sendable {
  enum File {
    static let tables = "etc/smbios/smbios-tables"
    static let anchor = "etc/smbios/smbios-anchor"
  }

  /// Structure types (§7) and their handles: the type in the upper byte.
  private enum Handle {
    static let system: UInt16 = 0x0100
    static let chassis: UInt16 = 0x0300
    static let processor: UInt16 = 0x0400
    static let memoryArray: UInt16 = 0x1000
    static let memoryDevice: UInt16 = 0x1100
    static let mappedAddress: UInt16 = 0x1300
    static let boot: UInt16 = 0x2000
    static let end: UInt16 = 0x7F00
    /// No such structure, or no error was met.
    static let notProvided: UInt16 = 0xFFFE
  }

  private static let manufacturer = "vmrun"
  /// The largest memory device described, so that any RAM size needs few of them.
  private static let deviceSize: UInt64 = 16 << 30

  private(set) var tables: [UInt8] = []
  private var structures: UInt16 = 0
  private var longest: UInt16 = 0

  init(cpus: Int, layout: PCMemoryLayout, product: String) {
    addSystem(product)
    addChassis()
    addProcessor(cores: cpus)
    addMemory(layout)
    add(type: 32, Handle.boot, [UInt8](repeating: 0, count: 7))  // six reserved bytes, then "no errors detected"
    add(type: 127, Handle.end, [])
  }

  /// The files by their fw_cfg names.
  var files: [String: [UInt8]] { [File.tables: tables, File.anchor: anchor] }

  /// The 32-bit entry point (§5.2.1).
  var anchor: [UInt8] {
    var intermediate = [UInt8]("_DMI_".utf8) + [0]
    intermediate += UInt16(truncatingIfNeeded: tables.count).littleEndianBytes + UInt32(0).littleEndianBytes
    intermediate += structures.littleEndianBytes + [0x28]
    intermediate[5] = 0 &- intermediate.reduce(0, &+)
    var head = [UInt8]("_SM_".utf8) + [0, 31, 2, 8] + longest.littleEndianBytes + [0, 0, 0, 0, 0, 0]
    head[4] = 0 &- (head + intermediate).reduce(0, &+)
    return head + intermediate
  }

  // MARK: Structures

  /// Appends a structure (§6.1): a header, the formatted area, and the strings that it refers to by number from 1.
  private mutating func add(type: UInt8, _ handle: UInt16, _ formatted: [UInt8], strings: [String] = []) {
    let start = tables.count
    tables += [type, UInt8(truncatingIfNeeded: 4 + formatted.count)] + handle.littleEndianBytes + formatted
    for string in strings { tables += string.utf8 + [0] }
    tables += strings.isEmpty ? [0, 0] : [0]
    structures += 1
    longest = max(longest, UInt16(truncatingIfNeeded: tables.count - start))
  }

  /// Type 1 (§7.2).
  private mutating func addSystem(_ product: String) {
    // A UUID of zeros says that there is none.
    let uuid = [UInt8](repeating: 0, count: 16)
    let powerSwitch: UInt8 = 6
    add(type: 1, Handle.system, [1, 2, 0, 0] + uuid + [powerSwitch, 0, 0], strings: [Self.manufacturer, product])
  }

  /// Type 3 (§7.4).
  private mutating func addChassis() {
    let other: UInt8 = 1
    let safe: UInt8 = 3
    let noSecurity: UInt8 = 3
    // Boot-up, power supply and thermal state; then OEM data, height, power cords, contained elements, SKU.
    let states = [safe, safe, safe, noSecurity]
    add(
      type: 3, Handle.chassis, [1, other, 0, 0, 0] + states + [0, 0, 0, 0, 0, 0, 0, 0, 0], strings: [Self.manufacturer])
  }

  /// Type 4 (§7.5): one package with all processors as its cores.
  private mutating func addProcessor(cores: Int) {
    let centralProcessor: UInt8 = 3
    let otherFamily: UInt8 = 1
    let otherUpgrade: UInt8 = 1
    let populatedEnabled: UInt8 = 0x41
    let supports64Bit: UInt16 = 1 << 2
    let unknown = UInt16(0).littleEndianBytes
    let count = UInt8(truncatingIfNeeded: min(max(cores, 1), 255))
    var body: [UInt8] = [1, centralProcessor, otherFamily, 2] + UInt64(0).littleEndianBytes
    body += [0, 0] + unknown + unknown + unknown + [populatedEnabled, otherUpgrade]  // version, voltage, clock, speeds
    body += [UInt16](repeating: 0xFFFF, count: 3).flatMap(\.littleEndianBytes)  // no cache information
    body += [0, 0, 0, count, count, count]  // serial, asset tag and part numbers; cores, enabled cores, threads
    body += supports64Bit.littleEndianBytes + UInt16(otherFamily).littleEndianBytes
    add(type: 4, Handle.processor, body, strings: ["CPU 0", Self.manufacturer])
  }

  /// Types 16, 17 and 19 (§7.17, §7.18, §7.20).
  private mutating func addMemory(_ layout: PCMemoryLayout) {
    let total = layout.totalMemory
    let devices = (total + Self.deviceSize - 1) / Self.deviceSize
    let otherLocation: UInt8 = 1
    let systemMemory: UInt8 = 3
    let noErrorCorrection: UInt8 = 3
    var array = [otherLocation, systemMemory, noErrorCorrection]
    array += UInt32(truncatingIfNeeded: total >> 10).littleEndianBytes + Handle.notProvided.littleEndianBytes
    array += UInt16(truncatingIfNeeded: devices).littleEndianBytes + UInt64(0).littleEndianBytes
    add(type: 16, Handle.memoryArray, array)

    for index in 0..<devices {
      let size = min(Self.deviceSize, total - index * Self.deviceSize)
      let unknownWidth = UInt16(0xFFFF).littleEndianBytes
      let dimm: UInt8 = 9
      let ram: UInt8 = 7
      let other: UInt16 = 1 << 1
      var body = Handle.memoryArray.littleEndianBytes + Handle.notProvided.littleEndianBytes
      body += unknownWidth + unknownWidth + UInt16(truncatingIfNeeded: size >> 20).littleEndianBytes
      body += [dimm, 0, 1, 0, ram] + other.littleEndianBytes + UInt16(0).littleEndianBytes  // set, locators, speed
      body += [2, 0, 0, 0, 0]  // manufacturer, serial, asset tag and part numbers; rank
      body += UInt32(0).littleEndianBytes + [UInt16](repeating: 0, count: 4).flatMap(\.littleEndianBytes)
      add(
        type: 17, Handle.memoryDevice + UInt16(truncatingIfNeeded: index), body,
        strings: ["DIMM \(index)", Self.manufacturer])
    }

    for (index, region) in layout.ram.enumerated() {
      var body = UInt32(truncatingIfNeeded: region.guestAddress >> 10).littleEndianBytes
      body += UInt32(truncatingIfNeeded: (region.end >> 10) - 1).littleEndianBytes
      body += Handle.memoryArray.littleEndianBytes + [1] + [UInt8](repeating: 0, count: 16)
      add(type: 19, Handle.mappedAddress + UInt16(truncatingIfNeeded: index), body)
    }
  }
}
