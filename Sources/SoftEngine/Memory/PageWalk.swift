import CSoftCPU

/// What an access wants of a page.
enum Access {
  case read, write, execute
}

/// With which rights memory is accessed.
enum Privilege {
  /// CPL decides.
  case current
  /// Descriptor tables, task state segments and stacks of inner levels: as supervisor whatever CPL is.
  case supervisor
}

/// Address translation (SDM vol. 3, chapter 4).
struct PageWalk {
  private static let present: UInt64 = 1 << 0
  private static let writable: UInt64 = 1 << 1
  private static let userBit: UInt64 = 1 << 2
  private static let accessed: UInt64 = 1 << 5
  private static let dirty: UInt64 = 1 << 6
  private static let large: UInt64 = 1 << 7
  private static let noExecute: UInt64 = 1 << 63
  private static let frame: UInt64 = 0x000F_FFFF_FFFF_F000

  let state: State
  let linear: UInt64
  let access: Access
  let isUser: Bool
  private var isWritable = true
  private var isUserPage = true
  private var isExecutable = true

  struct Result {
    var physical: UInt64
    /// Writes need no further check: they are permitted and the dirty bit is set.
    var permitsWrites: Bool
  }

  init(_ state: State, _ linear: UInt64, _ access: Access, isUser: Bool) {
    self.state = state
    self.linear = linear
    self.access = access
    self.isUser = isUser
  }

  static func translate(_ state: State, _ linear: UInt64, _ access: Access, isUser: Bool) throws(Fault) -> Result {
    let cr0 = state.pointee.cr0
    guard cr0 & CR0.pg != 0 else {
      return Result(physical: state.pointee.isLongMode ? linear : linear & 0xFFFF_FFFF, permitsWrites: true)
    }
    var walk = PageWalk(state, linear, access, isUser: isUser)
    if state.pointee.cr4 & CR4.pae == 0 { return try walk.walk32() }
    return try walk.walk64()
  }

  private func fault(_ isPresent: Bool, reserved: Bool = false) -> Fault {
    var code: UInt32 = isPresent ? 1 : 0
    if access == .write { code |= 2 }
    if isUser { code |= 4 }
    if reserved { code |= 8 }
    let cr4 = state.pointee.cr4
    let hasNX = cr4 & CR4.pae != 0 && state.pointee.efer & EFER.nxe != 0
    if access == .execute, hasNX || cr4 & CR4.smep != 0 { code |= 16 }
    state.pointee.cr2 = linear
    return .exception(Vector.pageFault, errorCode: code)
  }

  /// IA-32e (4 levels) and PAE paging (3 levels, the first in registers).
  private mutating func walk64() throws(Fault) -> Result {
    let isLong = state.pointee.isLongMode
    let reserved = state.pointee.efer & EFER.nxe == 0 ? Self.noExecute : 0
    var table: UInt64
    var level: UInt64
    if isLong {
      table = state.pointee.cr3 & Self.frame
      level = 3
    } else {
      let entry = withUnsafeBytes(of: &state.pointee.pdpte) {
        $0.load(fromByteOffset: Int(linear >> 30 & 3) * 8, as: UInt64.self)
      }
      guard entry & Self.present != 0 else { throw fault(false) }
      table = entry & Self.frame
      level = 1
    }
    while true {
      let shift = 12 &+ 9 &* level
      let address = table &+ (linear >> shift & 511) &* 8
      guard let slot = state.context.pointee.map.host(address) else { throw fault(false) }
      let entry = slot.load(as: UInt64.self)
      guard entry & Self.present != 0 else { throw fault(false) }
      let isLarge = level > 0 && entry & Self.large != 0
      var bad = entry & reserved != 0
      if isLarge { bad = bad || level == 3 || entry & ((1 << shift) &- 1) & ~0x1FFF != 0 }
      if !isLong { bad = bad || entry & 0x7FF0_0000_0000_0000 != 0 }
      if bad { throw fault(true, reserved: true) }
      isWritable = isWritable && entry & Self.writable != 0
      isUserPage = isUserPage && entry & Self.userBit != 0
      isExecutable = isExecutable && entry & Self.noExecute == 0
      if level == 0 || isLarge {
        let isDirty = try finish(entry)
        set(slot, entry, Self.accessed | (access == .write ? Self.dirty : 0), is64: true)
        let offset: UInt64 = (1 << shift) &- 1
        if isLarge { TLB.noteLargePage(state, linear, mask: offset) }
        return Result(
          physical: entry & Self.frame & ~offset | linear & offset & ~0xFFF,
          permitsWrites: isDirty && permits(.write))
      }
      set(slot, entry, Self.accessed, is64: true)
      table = entry & Self.frame
      level &-= 1
    }
  }

  /// 32-bit paging with 4 MiB pages (PSE-36).
  private mutating func walk32() throws(Fault) -> Result {
    let directory = state.pointee.cr3 & 0xFFFF_F000
    guard let slot = state.context.pointee.map.host(directory &+ (linear >> 22 & 1023) &* 4) else { throw fault(false) }
    let entry = UInt64(slot.load(as: UInt32.self))
    guard entry & Self.present != 0 else { throw fault(false) }
    isWritable = entry & Self.writable != 0
    isUserPage = entry & Self.userBit != 0
    if entry & Self.large != 0, state.pointee.cr4 & CR4.pse != 0 {
      if entry & 1 << 21 != 0 { throw fault(true, reserved: true) }
      let isDirty = try finish(entry)
      set(slot, entry, Self.accessed | (access == .write ? Self.dirty : 0), is64: false)
      let high = (entry >> 13 & 0xFF) << 32
      TLB.noteLargePage(state, linear, mask: 0x3F_FFFF)
      return Result(
        physical: high | entry & 0xFFC0_0000 | linear & 0x3F_F000, permitsWrites: isDirty && permits(.write))
    }
    let address = entry & 0xFFFF_F000 &+ (linear >> 12 & 1023) &* 4
    guard let leaf = state.context.pointee.map.host(address) else { throw fault(false) }
    let page = UInt64(leaf.load(as: UInt32.self))
    guard page & Self.present != 0 else { throw fault(false) }
    isWritable = isWritable && page & Self.writable != 0
    isUserPage = isUserPage && page & Self.userBit != 0
    let isDirty = try finish(page)
    set(slot, entry, Self.accessed, is64: false)
    set(leaf, page, Self.accessed | (access == .write ? Self.dirty : 0), is64: false)
    return Result(physical: page & 0xFFFF_F000, permitsWrites: isDirty && permits(.write))
  }

  /// Whether the rights gathered permit an access (SDM vol. 3, 4.6.1).
  private func permits(_ access: Access) -> Bool {
    let cr4 = state.pointee.cr4
    if isUser {
      guard isUserPage else { return false }
    } else if isUserPage {
      if access == .execute {
        if cr4 & CR4.smep != 0 { return false }
      } else if cr4 & CR4.smap != 0, state.pointee.system_flags & RFLAGS.ac == 0 || state.pointee.cpl == 3 {
        return false
      }
    }
    switch access {
    case .read: return true
    case .write: return isWritable || (!isUser && state.pointee.cr0 & CR0.wp == 0)
    case .execute: return isExecutable
    }
  }

  /// Checks the rights at the leaf; true: the page is dirty, or is about to be.
  private func finish(_ leaf: UInt64) throws(Fault) -> Bool {
    guard permits(access) else { throw fault(true) }
    return access == .write || leaf & Self.dirty != 0
  }

  /// Sets bits of an entry with other processors using it.
  private func set(_ slot: UnsafeMutableRawPointer, _ entry: UInt64, _ bits: UInt64, is64: Bool) {
    guard entry & bits != bits else { return }
    if is64 {
      var expected = entry
      while true {
        let seen = soft_compare_exchange_64(slot, expected, expected | bits)
        if seen == expected { return }
        expected = seen
      }
    }
    var expected = UInt32(truncatingIfNeeded: entry)
    while true {
      let seen = soft_compare_exchange_32(slot, expected, expected | UInt32(truncatingIfNeeded: bits))
      if seen == expected { return }
      expected = seen
    }
  }
}
