/// An opcode map's rows compiled for lookup: one entry for each opcode byte, which says what else selects the instruction;
/// a cell for each combination of those selectors; and the rows as plain data.
// Safety: the memory is written by `Compilation` and never again, nor freed. An entry's cells exist for all values of its
// selectors; a cell holds 0 or the number of a row.
struct OpcodeTable: @unchecked Sendable {
  typealias Operands = (OperandSpec, OperandSpec, OperandSpec, OperandSpec)

  /// A row, compiled.
  struct Row {
    var attributes: InstructionAttributes = []
    var operation = Operation.invalid
    var hasMandatoryPrefix = false
    var operands: Operands = (.none, .none, .none, .none)
  }

  /// What selects a row beside the opcode byte.
  struct Selectors: OptionSet {
    let rawValue: UInt8
    static let prefix = Selectors(rawValue: 1)
    static let mode = Selectors(rawValue: 2)
    static let size = Selectors(rawValue: 4)
    static let mod = Selectors(rawValue: 8)
    static let reg = Selectors(rawValue: 16)
    static let rm = Selectors(rawValue: 32)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    /// What a pattern asks about.
    init(_ pattern: OpcodePattern) {
      var selectors: Selectors = []
      if !pattern.prefix.isFree { selectors.insert(.prefix) }
      if !pattern.mode.isFree { selectors.insert(.mode) }
      if !pattern.size.isFree { selectors.insert(.size) }
      if !pattern.mod.isFree { selectors.insert(.mod) }
      if !pattern.reg.isFree { selectors.insert(.reg) }
      if !pattern.rm.isFree { selectors.insert(.rm) }
      self = selectors
    }
  }

  /// The values that select a row. `prefix`: none 0, 66 1, F3 2, F2 3. `size`: 16-bit 0, 32-bit 1, 64-bit 2.
  struct Key {
    var prefix = 0
    var mode = 0
    var size = 0
    var modRM: UInt8 = 0

    /// The cell's number among an entry's cells.
    @inline(__always)
    func cell(_ selectors: Selectors) -> Int {
      var cell = 0
      if selectors.contains(.prefix) { cell = prefix }
      if selectors.contains(.mode) { cell = cell << 1 | mode }
      if selectors.contains(.size) { cell = cell << 2 | size }
      if selectors.contains(.mod) { cell = cell << 1 | (modRM >= 0xC0 ? 1 : 0) }
      if selectors.contains(.reg) { cell = cell << 3 | Int(modRM >> 3 & 7) }
      if selectors.contains(.rm) { cell = cell << 3 | Int(modRM & 7) }
      return cell
    }
  }

  struct Entry {
    var firstCell: UInt16 = 0
    var selectors: Selectors = []
    var hasModRM = false
  }

  /// A map's table, compiled on first use: much code has no instruction of most maps.
  @inline(__always)
  static func of(_ map: OpcodeMap) -> OpcodeTable {
    switch map {
    case .oneByte: oneByte
    case .x87: x87
    case .map0F: map0F
    case .map0F38: map0F38
    case .map0F3A: map0F3A
    case .vex0F38: vex0F38
    case .vex0F3A: vex0F3A
    }
  }

  private static let oneByte = Compilation(.oneByte).table
  private static let x87 = Compilation(.x87).table
  private static let map0F = Compilation(.map0F).table
  private static let map0F38 = Compilation(.map0F38).table
  private static let map0F3A = Compilation(.map0F3A).table
  private static let vex0F38 = Compilation(.vex0F38).table
  private static let vex0F3A = Compilation(.vex0F3A).table

  private let entries: UnsafePointer<Entry>
  private let cells: UnsafePointer<UInt16>
  private let rows: UnsafePointer<Row>
  private let rowCount: Int

  @inline(__always)
  func entry(_ opcode: UInt8) -> Entry { entries[Int(opcode)] }

  /// The number of the row in its map, from 1 on; 0 where there is no instruction.
  @inline(__always)
  func rowNumber(_ entry: Entry, _ key: Key) -> Int { Int(cells[Int(entry.firstCell) &+ key.cell(entry.selectors)]) }

  /// `number`: from `rowNumber`.
  @inline(__always)
  func row(_ number: Int) -> UnsafePointer<Row> { rows + number }

  /// What `Instruction.row` has: the row's number among those of all maps.
  @inline(__always)
  static func reference(_ number: Int, in map: OpcodeMap) -> UInt16 {
    UInt16(truncatingIfNeeded: map.rawValue * (OpcodeMap.mostRows + 1) + number)
  }

  /// The row that `reference` was made for; that of no instruction for other numbers.
  static func row(of reference: UInt16) -> Row {
    let (map, number) = Int(reference).quotientAndRemainder(dividingBy: OpcodeMap.mostRows + 1)
    guard let table = OpcodeMap(rawValue: map).map(of), number < table.rowCount else { return Row() }
    return table.rows[number]
  }

  fileprivate init(
    entries: UnsafePointer<Entry>, cells: UnsafePointer<UInt16>, rows: UnsafePointer<Row>, rowCount: Int
  ) {
    self.entries = entries
    self.cells = cells
    self.rows = rows
    self.rowCount = rowCount
  }
}

/// The making of a map's table.
struct Compilation: Sendable {
  let table: OpcodeTable
  /// Rows that cannot be read, or that claim a cell which another, equally specific row claims too.
  let mistakes: [String]

  init(_ map: OpcodeMap) {
    typealias Row = OpcodeTable.Row
    typealias Entry = OpcodeTable.Entry
    typealias Selectors = OpcodeTable.Selectors
    let lists = map.rows
    let rowCount = lists.reduce(0) { $0 + $1.count }
    var mistakes: [String] = []
    if rowCount > OpcodeMap.mostRows { mistakes.append("\(map): more rows than their numbers can count") }
    // The first one stands for no instruction.
    let compiled = UnsafeMutablePointer<Row>.allocate(capacity: rowCount + 1)
    compiled.initialize(to: Row())
    let entries = UnsafeMutablePointer<Entry>.allocate(capacity: 256)
    entries.initialize(repeating: Entry(), count: 256)

    // The claims of one opcode after the other, each opcode's in the order of the rows.
    var claims: [Claim] = []
    claims.reserveCapacity(rowCount)
    var counts = [Int](repeating: 0, count: 256 + 1)
    var number = 0
    func compile(_ row: OpcodeRow) {
      number += 1
      (compiled + number).initialize(to: Row())
      guard let operands = Self.operands(row), let pattern = OpcodePattern(row, operands: operands) else {
        mistakes.append("\(row.encoding) \(row.operands): notation")
        return
      }
      if pattern.map != map { mistakes.append("\(row.encoding): not of \(map)") }
      compiled[number] = Row(
        attributes: row.attributes, operation: row.operation, hasMandatoryPrefix: pattern.hasMandatoryPrefix,
        operands: operands)
      let claim = Claim(row: number, pattern: pattern)
      claims.append(claim)
      for slot in claim.slots { counts[slot + 1] += 1 }
    }
    for list in lists { for row in list { compile(row) } }
    for slot in counts.indices.dropFirst() { counts[slot] += counts[slot - 1] }
    let starts = counts
    var sorted = [Int](repeating: 0, count: starts[starts.count - 1])
    for (index, claim) in claims.enumerated() {
      for slot in claim.slots {
        sorted[counts[slot]] = index
        counts[slot] += 1
      }
    }

    // Cell 0 is that of every opcode without instruction.
    var cells: [UInt16] = [0]
    cells.reserveCapacity(1 << 11)
    var here: [Claim] = []
    func encoding(_ row: Int) -> StaticString { Array(lists.joined())[row - 1].encoding }
    for slot in 0..<256 where starts[slot] < starts[slot + 1] {
      here.removeAll(keepingCapacity: true)
      var entry = Entry(firstCell: UInt16(truncatingIfNeeded: cells.count))
      for index in sorted[starts[slot]..<starts[slot + 1]] {
        let claim = claims[index]
        here.append(claim)
        entry.selectors.formUnion(Selectors(claim.pattern))
        entry.hasModRM = entry.hasModRM || claim.pattern.hasModRM
      }
      if here.contains(where: { $0.pattern.hasModRM != entry.hasModRM }) {
        mistakes.append("\(encoding(here[0].row)): with and without ModRM")
      }
      Self.fill(&cells, entry, here) {
        mistakes.append("\(encoding($0)) and \(encoding($1))")
      }
      entries[slot] = entry
    }
    if cells.count > Int(UInt16.max) { mistakes.append("more cells than an entry can count") }
    let storage = UnsafeMutablePointer<UInt16>.allocate(capacity: cells.count)
    storage.initialize(repeating: 0, count: cells.count)
    for (index, cell) in cells.enumerated() { storage[index] = cell }

    table = OpcodeTable(
      entries: UnsafePointer(entries), cells: UnsafePointer(storage), rows: UnsafePointer(compiled),
      rowCount: rowCount + 1)
    self.mistakes = mistakes
  }

  private struct Claim {
    let row: Int
    let pattern: OpcodePattern
    let breadth: Int
    /// The opcodes that it covers.
    let slots: Range<Int>

    init(row: Int, pattern: OpcodePattern) {
      (self.row, self.pattern, breadth) = (row, pattern, pattern.breadth)
      let first = Int(pattern.opcode)
      slots = first..<min(first + pattern.opcodeCount, 256)
    }
  }

  /// Appends an entry's cells: in each the most specific row that permits it.
  private static func fill(
    _ cells: inout [UInt16], _ entry: OpcodeTable.Entry, _ claims: [Claim], conflict: (Int, Int) -> Void
  ) {
    let selectors = entry.selectors
    if selectors.isEmpty, claims.count == 1 {
      cells.append(UInt16(truncatingIfNeeded: claims[0].row))
      return
    }
    func count(_ selector: OpcodeTable.Selectors, _ count: Int) -> Int { selectors.contains(selector) ? count : 1 }
    // Four cells for the sizes, of which three are used: the selector takes two bits.
    let counts = (
      prefix: count(.prefix, 4), mode: count(.mode, 2), size: count(.size, 4), mod: count(.mod, 2),
      reg: count(.reg, 8), rm: count(.rm, 8)
    )
    let total = counts.prefix * counts.mode * counts.size * counts.mod * counts.reg * counts.rm
    /// The row that has each cell, and its breadth.
    var owners = [(row: Int, breadth: Int)](repeating: (0, .max), count: total)
    for claim in claims {
      let pattern = claim.pattern
      for prefix in 0..<counts.prefix where counts.prefix == 1 || pattern.prefix.permits(prefix) {
        for mode in 0..<counts.mode where counts.mode == 1 || pattern.mode.permits(mode) {
          let cell = prefix * counts.mode + mode
          for size in 0..<counts.size where counts.size == 1 || pattern.size.permits(size) {
            for mod in 0..<counts.mod where counts.mod == 1 || pattern.mod.permits(mod) {
              let cell = (cell * counts.size + size) * counts.mod + mod
              for reg in 0..<counts.reg where counts.reg == 1 || pattern.reg.permits(reg) {
                for rm in 0..<counts.rm where counts.rm == 1 || pattern.rm.permits(rm) {
                  let cell = (cell * counts.reg + reg) * counts.rm + rm
                  let owner = owners[cell]
                  if claim.breadth == owner.breadth { conflict(owner.row, claim.row) }
                  if claim.breadth < owner.breadth { owners[cell] = (claim.row, claim.breadth) }
                }
              }
            }
          }
        }
      }
    }
    for owner in owners { cells.append(UInt16(truncatingIfNeeded: owner.row)) }
  }

  /// A row's four operands; nil when one is no operand code.
  private static func operands(_ row: OpcodeRow) -> OpcodeTable.Operands? {
    var operands = (OperandSpec.none, OperandSpec.none, OperandSpec.none, OperandSpec.none)
    var count = 0
    var isValid = true
    ASCIISlice(row.operands).forEachPart(separator: ",") { part in
      guard let operand = OperandSpec(part) else {
        isValid = false
        return
      }
      switch count {
      case 0: operands.0 = operand
      case 1: operands.1 = operand
      case 2: operands.2 = operand
      case 3: operands.3 = operand
      default: isValid = false
      }
      count += 1
    }
    return isValid ? operands : nil
  }
}
