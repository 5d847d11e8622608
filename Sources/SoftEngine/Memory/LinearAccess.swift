import CSoftCPU

/// A page as an access found it.
struct Page {
  var physical: UInt64
  /// Host address of the access; nil: a device's, or a write to read-only memory.
  var host: UnsafeMutableRawPointer?
  /// The translation is that of all address spaces.
  var isGlobal: Bool
}

// Accesses by linear address, for what the inline lookup does not find: other pages, page crossings, devices.
extension UnsafeMutablePointer where Pointee == soft_cpu {
  @inline(__always)
  var context: UnsafeMutablePointer<CPUContext> {
    // Safety: set once, before the first instruction, to memory that lives as long as the state.
    unsafe pointee.owner.unsafelyUnwrapped.assumingMemoryBound(to: CPUContext.self)
  }

  func isCanonical(_ linear: UInt64) -> Bool {
    (Int64(bitPattern: linear) << 16) >> 16 == Int64(bitPattern: linear)
  }

  /// Translates the page of an access that does not cross pages, and remembers it in the TLB.
  func page(_ linear: UInt64, _ access: Access, _ privilege: Privilege = .current) throws(Fault) -> Page {
    let isUser = privilege == .current && pointee.cpl == 3
    // Entries of the set in use are made by accesses with the rights it stands for.
    let usesTLB = access != .execute && (pointee.cpl == 3) == isUser && pointee.checks_accesses == 0
    // With RFLAGS.AC set they permit more than an implicit access of the supervisor may do (SMAP).
    let isPermitted = privilege == .current || pointee.system_flags & RFLAGS.ac == 0
    if usesTLB, isPermitted, let page = knownPage(linear, access) { return page }
    let result = try PageWalk.translate(self, linear, access, privilege)
    let offset = linear & PhysicalMap.pageMask
    var page = Page(
      physical: result.physical & ~PhysicalMap.pageMask | offset, host: nil, isGlobal: result.isGlobal)
    guard let region = context.pointee.map.region(page.physical) else { return page }
    let host = region.pointee.host + Int(truncatingIfNeeded: page.physical &- region.pointee.start)
    if access == .write, region.pointee.readOnly { return page }
    page.host = host
    if usesTLB {
      let entry = TLB.entry(self, linear)
      let tag = linear & ~0xFFF | pointee.tlb_generation
      entry.pointee.read_tag = tag
      let mayWrite = result.permitsWrites && !region.pointee.readOnly
      entry.pointee.write_tag = mayWrite && !hasCode(region.pointee.page(page.physical)) ? tag : 0
      entry.pointee.addend = Int64(Int(bitPattern: host) &- Int(truncatingIfNeeded: linear))
      entry.pointee.physical = page.physical & ~0xFFF | (result.isGlobal ? TLB.global : 0)
      if result.isGlobal { TLB.noteGlobal(self, entry) }
    }
    return page
  }

  /// The page as the TLB knows it; nil: it does not permit the access.
  @inline(__always)
  private func knownPage(_ linear: UInt64, _ access: Access) -> Page? {
    let entry = TLB.entry(self, linear)
    let tag = access == .write ? entry.pointee.write_tag : entry.pointee.read_tag
    guard tag == TLB.tag(self, linear, width: 1) else { return nil }
    return Page(
      physical: entry.pointee.physical & ~PhysicalMap.pageMask | linear & PhysicalMap.pageMask,
      host: TLB.host(entry, linear), isGlobal: entry.pointee.physical & TLB.global != 0)
  }

  /// The host's memory behind an access in one page, which nobody need notice; nil: it is to be made piece by piece.
  func hostMemory(_ linear: UInt64, count: Int, _ access: Access) throws(Fault) -> UnsafeMutableRawPointer? {
    let last = linear &+ UInt64(count &- 1)
    guard pointee.checks_accesses == 0, (linear ^ last) >> 12 == 0, !pointee.isLongMode || isCanonical(linear) else {
      return nil
    }
    _ = try page(linear, access)
    // What has code, and what is read-only, the TLB does not permit to be written.
    // Safety: `count` bytes from here are in one mapped page; callers use them before the guest goes on.
    return knownPage(linear, access)?.host
  }

  /// Whether writes to the page must be noticed. If not, whoever makes code of it has the TLB flushed.
  private func hasCode(_ page: UnsafeMutablePointer<soft_code_page>) -> Bool {
    let bit = context.pointee.bit
    // Announced before the lines are looked at: one of both processors sees the other.
    if soft_load_64(&page.pointee.writers) & bit == 0 { _ = soft_or_64(&page.pointee.writers, bit) }
    return soft_load_64(&page.pointee.lines) != 0
  }

  /// Alignment checks (SDM vol. 3, 6.15, vector 17) and breakpoints on data, of accesses that are permitted.
  private func check(_ linear: UInt64, _ width: Int, isWrite: Bool, _ privilege: Privilege) throws(Fault) {
    guard privilege == .current else { return }
    if pointee.cpl == 3, pointee.cr0 & CR0.am != 0, pointee.system_flags & RFLAGS.ac != 0,
      linear & UInt64(width &- 1) != 0, width == 2 || width == 4 || width == 8
    {
      throw .exception(Vector.alignmentCheck, errorCode: 0)
    }
    if pointee.data_breakpoints != 0 { noteAccess(linear, width, isWrite: isWrite) }
  }

  private func checkCanonical(_ linear: UInt64, _ width: Int, _ segment: Int) throws(Fault) {
    guard pointee.isLongMode else { return }
    if !isCanonical(linear) || !isCanonical(linear &+ UInt64(width &- 1)) {
      throw .exception(segment == SegmentRegister.ss ? Vector.stackFault : Vector.generalProtection, errorCode: 0)
    }
  }

  /// Reads `width` (1 to 8) bytes.
  func read(
    _ linear: UInt64, width: Int, segment: Int = SegmentRegister.ds, _ privilege: Privilege = .current,
    forWrite: Bool = false
  ) throws(Fault) -> UInt64 {
    try checkCanonical(linear, width, segment)
    let first = width &- max(0, Int(linear & 0xFFF) &+ width &- 4096)
    let access: Access = forWrite ? .write : .read
    let page = try self.page(linear, access, privilege)
    if first == width {
      if pointee.checks_accesses != 0 { try check(linear, width, isWrite: forWrite, privilege) }
      return try load(page, width, linear, privilege, forWrite)
    }
    let second = try self.page(wrap(linear &+ UInt64(first)), access, privilege)
    if pointee.checks_accesses != 0 { try check(linear, width, isWrite: forWrite, privilege) }
    let low = try loadBytes(page, first)
    return low | (try loadBytes(second, width &- first)) &<< UInt64(8 &* first)
  }

  private func load(_ page: Page, _ width: Int, _ linear: UInt64, _ privilege: Privilege, _ forWrite: Bool)
    throws(Fault)
    -> UInt64
  {
    guard let host = page.host else {
      // Read-only memory is read even where a write follows.
      if forWrite, let host = context.pointee.map.host(page.physical) { return Self.load(host, width) }
      return try deviceRead(page.physical, width)
    }
    return Self.load(host, width)
  }

  private static func load(_ host: UnsafeMutableRawPointer, _ width: Int) -> UInt64 {
    switch width {
    case 1: UInt64(host.load(as: UInt8.self))
    case 2: UInt64(host.loadUnaligned(as: UInt16.self))
    case 4: UInt64(host.loadUnaligned(as: UInt32.self))
    case 8: host.loadUnaligned(as: UInt64.self)
    default: (0..<width).reduce(0) { $0 | UInt64(host.load(fromByteOffset: $1, as: UInt8.self)) << UInt64(8 * $1) }
    }
  }

  private func loadBytes(_ page: Page, _ count: Int) throws(Fault) -> UInt64 {
    guard let host = page.host ?? context.pointee.map.host(page.physical) else {
      var value: UInt64 = 0
      for index in 0..<count {
        value |= try deviceRead(page.physical &+ UInt64(index), 1) << UInt64(8 * index)
      }
      return value
    }
    return Self.load(host, count)
  }

  func wrap(_ linear: UInt64) -> UInt64 { pointee.isLongMode ? linear : linear & 0xFFFF_FFFF }

  /// Writes the low `width` (1 to 8) bytes of `value`.
  func write(
    _ linear: UInt64, _ value: UInt64, width: Int, segment: Int = SegmentRegister.ds, _ privilege: Privilege = .current
  ) throws(Fault) {
    try checkCanonical(linear, width, segment)
    let first = width &- max(0, Int(linear & 0xFFF) &+ width &- 4096)
    let page = try self.page(linear, .write, privilege)
    if first == width {
      if pointee.checks_accesses != 0 { try check(linear, width, isWrite: true, privilege) }
      try store(page, value, width)
    } else {
      let second = try self.page(wrap(linear &+ UInt64(first)), .write, privilege)
      if pointee.checks_accesses != 0 { try check(linear, width, isWrite: true, privilege) }
      try storeBytes(page, value, first)
      try storeBytes(second, value &>> UInt64(8 &* first), width &- first)
    }
  }

  private func store(_ page: Page, _ value: UInt64, _ width: Int) throws(Fault) {
    guard let host = page.host else { return try deviceWrite(page.physical, value, width) }
    defer { context.pointee.blocks.didWrite(self, page.physical, width) }
    switch width {
    case 1: host.storeBytes(of: UInt8(truncatingIfNeeded: value), as: UInt8.self)
    case 2: host.storeBytes(of: UInt16(truncatingIfNeeded: value), as: UInt16.self)
    case 4: host.storeBytes(of: UInt32(truncatingIfNeeded: value), as: UInt32.self)
    case 8: host.storeBytes(of: value, as: UInt64.self)
    default:
      for index in 0..<width {
        host.storeBytes(
          of: UInt8(truncatingIfNeeded: value >> UInt64(8 * index)), toByteOffset: index, as: UInt8.self)
      }
    }
  }

  private func storeBytes(_ page: Page, _ value: UInt64, _ count: Int) throws(Fault) {
    if page.host != nil { return try store(page, value, count) }
    for index in 0..<count {
      try deviceWrite(page.physical &+ UInt64(index), value >> UInt64(8 * index) & 0xFF, 1)
    }
  }

  /// A device's answer, which may have been given when the operation was executed before.
  func deviceRead(_ physical: UInt64, _ width: Int) throws(Fault) -> UInt64 {
    if let value = readController(physical, width) {
      context.pointee.trace?.access(self, LeaveReason.deviceRead, physical, width, value)
      return value
    }
    if let value = answer() { return value & (width == 8 ? .max : (1 << UInt64(8 * width)) - 1) }
    throw ask(LeaveReason.deviceRead, physical, 0, width)
  }

  /// A register of the local APIC or the I/O APIC; nil: not one of theirs.
  private func readController(_ physical: UInt64, _ width: Int) -> UInt64? {
    guard let controllers = context.pointee.controllers else { return nil }
    let index = context.pointee.index
    if let page = controllers.localAPICPage(of: index), physical &- page < 4096 {
      settleEOI()
      return controllers.readLocalAPIC(of: index, physical &- page, width: width)
    }
    let offset = physical &- InterruptControllers.ioAPICAddress
    return offset < 4096 ? controllers.readIOAPIC(offset, width: width) : nil
  }

  func deviceWrite(_ physical: UInt64, _ value: UInt64, _ width: Int) throws(Fault) {
    if writeController(physical, value, width) {
      context.pointee.trace?.access(self, LeaveReason.deviceWrite, physical, width, value)
      return soft_request_attention(self, Attention.interrupt)
    }
    if answer() != nil { return }
    throw ask(LeaveReason.deviceWrite, physical, value, width)
  }

  private func writeController(_ physical: UInt64, _ value: UInt64, _ width: Int) -> Bool {
    guard let controllers = context.pointee.controllers else { return false }
    let index = context.pointee.index
    if let page = controllers.localAPICPage(of: index), physical &- page < 4096 {
      settleEOI()
      controllers.writeLocalAPIC(of: index, physical &- page, value, width: width)
      return true
    }
    let offset = physical &- InterruptControllers.ioAPICAddress
    guard offset < 4096 else { return false }
    controllers.writeIOAPIC(offset, value, width: width)
    return true
  }

  func answer() -> UInt64? {
    guard pointee.device_next < pointee.device_done, pointee.device_next < 64 else { return nil }
    let index = Int(pointee.device_next)
    pointee.device_next &+= 1
    return withUnsafeBytes(of: &pointee.device_values) { $0.load(fromByteOffset: index * 8, as: UInt64.self) }
  }

  func ask(_ reason: UInt32, _ address: UInt64, _ data: UInt64, _ width: Int, _ items: Int = 1) -> Fault {
    // No operation makes so many accesses to devices.
    guard pointee.device_done < 64 else { return .protection }
    pointee.leave = reason
    pointee.device_address = address
    // A register operand has more bytes than are written.
    pointee.device_data = (1..<8).contains(width) ? data & (1 << UInt64(8 * width) &- 1) : data
    pointee.device_width = UInt32(width)
    pointee.device_items = UInt32(items)
    return .device
  }

  /// What an operation throws that must have all memory for itself.
  func askToBeAlone() -> Fault {
    pointee.leave = LeaveReason.alone
    return .device
  }

  /// The operation is done; its answers are of no more use.
  @inline(__always)
  func forgetAnswers() {
    pointee.device_done = 0
    pointee.device_next = 0
  }
}
