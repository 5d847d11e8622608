import CSoftCPU
import X86

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
  private static let user: UInt64 = 1 << 2
  private static let accessed: UInt64 = 1 << 5
  private static let dirty: UInt64 = 1 << 6
  private static let large: UInt64 = 1 << 7
  private static let noExecute: UInt64 = 1 << 63
  private static let frame: UInt64 = 0x000F_FFFF_FFFF_F000
  /// Bits of a physical address that no processor here has.
  private static let beyond: UInt64 = frame & ~0 << UInt64(CPUIdentity.physicalAddressBits)
  /// Bits 62:52, which PAE paging reserves.
  private static let ignored: UInt64 = 0x7FF0_0000_0000_0000

  let state: State
  let linear: UInt64
  let access: Access
  let isUser: Bool
  /// An access to a system structure: RFLAGS.AC does not suspend SMAP.
  let isImplicit: Bool

  struct Result {
    var physical: UInt64
    /// Writes need no further check: they are permitted and the dirty bit is set.
    var permitsWrites: Bool
  }

  @inline(__always)
  static func translate(_ state: State, _ linear: UInt64, _ access: Access, _ privilege: Privilege) throws(Fault)
    -> Result
  {
    guard state.pointee.cr0 & CR0.pg != 0 else {
      return Result(physical: state.pointee.isLongMode ? linear : linear & 0xFFFF_FFFF, permitsWrites: true)
    }
    let walk = PageWalk(
      state: state, linear: linear, access: access, isUser: privilege == .current && state.pointee.cpl == 3,
      isImplicit: privilege == .supervisor)
    if state.pointee.cr4 & CR4.pae == 0 { return try walk.walk32() }
    return try walk.walk64()
  }

  /// A page fault; CR2 is set.
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

  /// A paging structure's entry. Structures outside memory read as not present.
  @inline(__always)
  private func slot(_ address: UInt64) throws(Fault) -> UnsafeMutableRawPointer {
    guard let slot = state.context.pointee.map.host(address) else { throw fault(false) }
    return slot
  }

  /// 4-level paging, and PAE paging, whose first level stands in registers.
  private func walk64() throws(Fault) -> Result {
    let isLong = state.pointee.isLongMode
    var reserved = Self.beyond
    if state.pointee.efer & EFER.nxe == 0 { reserved |= Self.noExecute }
    if !isLong { reserved |= Self.ignored }
    var table: UInt64
    var shift: UInt64
    if isLong {
      table = state.pointee.cr3 & Self.frame
      shift = 39
    } else {
      let entry = withUnsafeBytes(of: &state.pointee.pdpte) {
        $0.load(fromByteOffset: Int(truncatingIfNeeded: linear &>> 30 & 3) &* 8, as: UInt64.self)
      }
      guard entry & Self.present != 0 else { throw fault(false) }
      table = entry & Self.frame
      shift = 21
    }
    // R/W and U/S must be set, XD clear, on all levels.
    var all = Self.writable | Self.user
    var any: UInt64 = 0
    while true {
      let slot = try slot(table &+ (linear &>> shift & 511) &* 8)
      let entry = slot.load(as: UInt64.self)
      guard entry & Self.present != 0 else { throw fault(false) }
      guard entry & reserved == 0 else { throw fault(true, reserved: true) }
      all &= entry
      any |= entry
      if shift != 12, entry & Self.large == 0 {
        if entry & Self.accessed == 0, !set(Self.accessed, in: slot, of: entry) { continue }
        table = entry & Self.frame
        shift &-= 9
        continue
      }
      let offset: UInt64 = (1 &<< shift) &- 1
      if shift != 12 {
        // Bits below the frame but PAT are reserved; PML4 entries map no pages, and PDPT entries only with the feature.
        let mapsPages = shift == 21 || shift == 30 && state.context.pointee.hasHugePages
        guard mapsPages, entry & offset & Self.frame & ~0x1000 == 0 else { throw fault(true, reserved: true) }
        TLB.noteLargePage(state, linear, mask: offset)
      }
      guard permits(access, all, any) else { throw fault(true) }
      let wanted = access == .write ? Self.accessed | Self.dirty : Self.accessed
      if entry & wanted != wanted, !set(wanted, in: slot, of: entry) { continue }
      let isDirty = access == .write || entry & Self.dirty != 0
      return Result(
        physical: entry & Self.frame & ~offset | linear & offset & ~0xFFF,
        permitsWrites: isDirty && permits(.write, all, any))
    }
  }

  /// 32-bit paging with 4 MiB pages (PSE-36).
  private func walk32() throws(Fault) -> Result {
    while true {
      let slot = try slot(state.pointee.cr3 & 0xFFFF_F000 &+ (linear &>> 22 & 1023) &* 4)
      let entry = UInt64(slot.load(as: UInt32.self))
      guard entry & Self.present != 0 else { throw fault(false) }
      let isLarge = entry & Self.large != 0 && state.pointee.cr4 & CR4.pse != 0
      if isLarge {
        guard entry & 1 << 21 == 0 else { throw fault(true, reserved: true) }
        guard permits(access, entry, 0) else { throw fault(true) }
        let wanted = access == .write ? Self.accessed | Self.dirty : Self.accessed
        if entry & wanted != wanted, !set32(wanted, in: slot, of: entry) { continue }
        let isDirty = access == .write || entry & Self.dirty != 0
        TLB.noteLargePage(state, linear, mask: 0x3F_FFFF)
        return Result(
          physical: (entry &>> 13 & 0xFF) &<< 32 | entry & 0xFFC0_0000 | linear & 0x3F_F000,
          permitsWrites: isDirty && permits(.write, entry, 0))
      }
      if entry & Self.accessed == 0, !set32(Self.accessed, in: slot, of: entry) { continue }
      let leaf = try self.slot(entry & 0xFFFF_F000 &+ (linear &>> 12 & 1023) &* 4)
      let page = UInt64(leaf.load(as: UInt32.self))
      guard page & Self.present != 0 else { throw fault(false) }
      guard permits(access, entry & page, 0) else { throw fault(true) }
      let wanted = access == .write ? Self.accessed | Self.dirty : Self.accessed
      if page & wanted != wanted, !set32(wanted, in: leaf, of: page) { continue }
      let isDirty = access == .write || page & Self.dirty != 0
      return Result(
        physical: page & 0xFFFF_F000, permitsWrites: isDirty && permits(.write, entry & page, 0))
    }
  }

  /// Whether bits that `all` entries have and that `any` has permit an access (SDM vol. 3, 4.6.1).
  @inline(__always)
  private func permits(_ access: Access, _ all: UInt64, _ any: UInt64) -> Bool {
    let isUserPage = all & Self.user != 0
    if isUser {
      guard isUserPage else { return false }
    } else if isUserPage {
      let cr4 = state.pointee.cr4
      if access == .execute {
        if cr4 & CR4.smep != 0 { return false }
      } else if cr4 & CR4.smap != 0, isImplicit || state.pointee.system_flags & RFLAGS.ac == 0 {
        return false
      }
    }
    switch access {
    case .read: return true
    case .write: return all & Self.writable != 0 || !isUser && state.pointee.cr0 & CR0.wp == 0
    case .execute: return any & Self.noExecute == 0
    }
  }

  /// Sets bits of an entry as long as it is what was read; false: it has changed, read it again.
  @inline(never)
  private func set(_ bits: UInt64, in slot: UnsafeMutableRawPointer, of entry: UInt64) -> Bool {
    soft_compare_exchange_64(slot, entry, entry | bits) == entry
  }

  @inline(never)
  private func set32(_ bits: UInt64, in slot: UnsafeMutableRawPointer, of entry: UInt64) -> Bool {
    let entry = UInt32(truncatingIfNeeded: entry)
    return soft_compare_exchange_32(slot, entry, entry | UInt32(truncatingIfNeeded: bits)) == entry
  }
}
