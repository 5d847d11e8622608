import CSoftCPU
import X86

/// Control registers (SDM vol. 3, 2.5).
extension Executor {
  /// MOV to and from control registers.
  func moveControlRegister() throws(Fault) {
    let (to, from) = (i.operands[0], i.operands[1])
    let size = state.pointee.is64BitCode ? 8 : 4
    if to.registerClass == .control {
      let value = general(from.number) & mask(size)
      switch to.number {
      case 0: try writeControl0(value)
      case 2: state.pointee.cr2 = value
      case 3: try writeControl3(value)
      case 4: try writeControl4(value)
      case 8:
        guard value < 16 else { throw .protection }
        state.context.pointee.controllers?.setTaskPriority(of: state.context.pointee.index, UInt8(value))
        soft_request_attention(state, Attention.interrupt)
      default: throw .undefined
      }
      return
    }
    let value: UInt64
    switch from.number {
    case 0: value = state.pointee.cr0
    case 2: value = state.pointee.cr2
    case 3: value = state.pointee.cr3
    case 4: value = state.pointee.cr4
    case 8: value = UInt64(state.context.pointee.controllers?.taskPriority(of: state.context.pointee.index) ?? 0)
    default: throw .undefined
    }
    setGeneral(to.number, value, size: size)
  }

  func writeControl0(_ value: UInt64) throws(Fault) {
    let old = state.pointee.cr0
    guard value >> 32 == 0 else { throw .protection }
    let new = value & CR0.defined | CR0.et
    if new & CR0.pg != 0, new & CR0.pe == 0 { throw .protection }
    if new & CR0.nw != 0, new & CR0.cd == 0 { throw .protection }
    let turnsOn = new & ~old & CR0.pg != 0
    let turnsOff = old & ~new & CR0.pg != 0
    if turnsOff, state.pointee.is64BitCode || state.pointee.cr4 & CR4.pcide != 0 { throw .protection }
    if turnsOn {
      if state.pointee.efer & EFER.lme != 0 {
        let cs = state.segment(SegmentRegister.cs).pointee.attributes
        guard state.pointee.cr4 & CR4.pae != 0, cs & SegmentAttributes.long == 0 else { throw .protection }
        state.pointee.efer |= EFER.lma
      } else if state.pointee.cr4 & CR4.pae != 0 {
        try state.loadPageDirectoryPointers(state.pointee.cr3)
      }
    }
    if turnsOff { state.pointee.efer &= ~EFER.lma }
    state.pointee.cr0 = new
    if (new ^ old) & CR0.pe != 0, new & CR0.pe == 0 { state.pointee.cpl = 0 }
    if (new ^ old) & (CR0.pg | CR0.wp | CR0.pe) != 0 { TLB.flush(state) }
    state.updateMode()
    if (new ^ old) & (CR0.pg | CR0.pe) != 0 { state.updateSegments() }
  }

  private func writeControl3(_ value: UInt64) throws(Fault) {
    let usesPCID = state.pointee.cr4 & CR4.pcide != 0
    let keeps = usesPCID && value >> 63 != 0
    let new = usesPCID ? value & ~(1 << 63) : value
    if state.pointee.isLongMode, new >> UInt64(CPUIdentity.physicalAddressBits) != 0 { throw .protection }
    try state.loadControlRegister3(new, keepsTranslations: keeps)
  }

  private func writeControl4(_ value: UInt64) throws(Fault) {
    guard value & ~state.context.pointee.permittedCR4 == 0 else { throw .protection }
    let old = state.pointee.cr4
    let changed = value ^ old
    let isLong = state.pointee.isLongMode
    if isLong, value & CR4.pae == 0 { throw .protection }
    if changed & value & CR4.pcide != 0, !isLong || state.pointee.cr3 & 0xFFF != 0 { throw .protection }
    if changed & (CR4.pae | CR4.pse | CR4.pge | CR4.smep) != 0, value & CR4.pae != 0,
      state.pointee.cr0 & CR0.pg != 0, !isLong
    {
      try state.loadPageDirectoryPointers(state.pointee.cr3)
    }
    state.pointee.cr4 = value
    if changed & (CR4.pae | CR4.pse | CR4.pge | CR4.pcide | CR4.smep | CR4.smap) != 0 { TLB.flush(state) }
    if changed & CR4.de != 0 { state.updateBreakpoints() }
    state.updateMode()
  }

  /// INVPCID (SDM vol. 2).
  func invalidatePCID() throws(Fault) {
    let descriptor = try readMemory(Int(i.segment), offset, 8)
    let linear = try readMemory(Int(i.segment), (offset &+ 8) & mask(Int(i.addressSize)), 8)
    let type = general(i.operands[0].number) & mask(state.pointee.is64BitCode ? 8 : 4)
    let pcid = descriptor & 0xFFF
    guard type <= 3 else { throw .protection }
    if type <= 1 {
      guard descriptor >> 12 == 0, pcid == 0 || state.pointee.cr4 & CR4.pcide != 0 else { throw .protection }
    }
    switch type {
    case 0:
      guard state.isCanonical(linear) else { throw .protection }
      TLB.flush(state, page: linear)
    case 1: TLB.flush(state, pcid: pcid)
    default: TLB.flush(state)
    }
  }
}

extension UnsafeMutablePointer where Pointee == soft_cpu {
  /// Loads CR3; `keepsTranslations`: those of its PCID that were made before stay.
  func loadControlRegister3(_ value: UInt64, keepsTranslations: Bool = false) throws(Fault) {
    if pointee.cr0 & CR0.pg != 0, pointee.cr4 & CR4.pae != 0, !pointee.isLongMode {
      try loadPageDirectoryPointers(value)
    }
    pointee.cr3 = value
    TLB.enter(self, pcid: pointee.cr4 & CR4.pcide != 0 ? value & 0xFFF : 0, keepsTranslations: keepsTranslations)
  }

  /// Loads the four entries of PAE paging's first level (SDM vol. 3, 4.4.1).
  func loadPageDirectoryPointers(_ cr3: UInt64) throws(Fault) {
    guard let host = context.pointee.map.host(cr3 & 0xFFFF_FFE0) else { throw .protection }
    let reserved: UInt64 = 0x1E6 | ~0 << UInt64(CPUIdentity.physicalAddressBits)
    for index in 0..<4 {
      let entry = host.load(fromByteOffset: index * 8, as: UInt64.self)
      if entry & 1 != 0, entry & reserved != 0 { throw .protection }
    }
    withUnsafeMutableBytes(of: &pointee.pdpte) {
      $0.copyMemory(from: UnsafeRawBufferPointer(start: host, count: 32))
    }
  }
}
