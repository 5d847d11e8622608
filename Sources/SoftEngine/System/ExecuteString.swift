import CSoftCPU
import X86

extension Executor {
  /// String instructions (SDM vol. 1, 7.3.9). An exception or a device leaves the registers at the iteration it is in.
  func executeString() throws(Fault) -> Bool {
    switch i.operation {
    case .movs, .cmps, .stos, .lods, .scas, .ins, .outs: break
    default: return false
    }
    let repeats = i.prefixes.contains(.rep) || i.prefixes.contains(.repne)
    let width = Int(
      i.opcode & 1 == 0 ? 1 : i.operation == .ins || i.operation == .outs ? min(i.operandSize, 4) : i.operandSize)
    if i.operation == .ins || i.operation == .outs {
      try checkPort(UInt16(truncatingIfNeeded: general(General.rdx)), width)
    }
    let addressSize = Int(i.addressSize)
    let counterMask = mask(addressSize)
    // Bounded: interrupts are taken between iterations.
    var budget = 4096
    while true {
      if repeats, general(General.rcx) & counterMask == 0 { return true }
      var items = 1
      if repeats {
        items = moveMany(width, addressSize, limit: general(General.rcx) & counterMask)
        if items == 0 {
          items = portItems(width, limit: general(General.rcx) & counterMask)
          try iterate(width, addressSize, items)
        }
      } else {
        try iterate(width, addressSize, 1)
      }
      state.forgetAnswers()
      guard repeats else { return true }
      let count = (general(General.rcx) &- UInt64(items)) & counterMask
      setGeneral(General.rcx, count, size: addressSize)
      if count == 0 { return true }
      if i.operation == .cmps || i.operation == .scas, state.zero != i.prefixes.contains(.rep) { return true }
      budget &-= 1
      if budget == 0 || soft_attention(state) != 0 || soft_has_notice(state) != 0 || state.pointee.code_changed != 0 {
        // Back to this instruction, by way of the outer loop.
        state.pointee.rip = state.pointee.instruction_rip
        state.pointee.code_changed = 1
        return true
      }
    }
  }

  private func step(_ number: UInt8, _ width: Int, _ addressSize: Int) {
    let delta = state.pointee.system_flags & RFLAGS.df != 0 ? 0 &- UInt64(width) : UInt64(width)
    setGeneral(number, (general(number) &+ delta) & mask(addressSize), size: addressSize)
  }

  /// Executes the iterations of a forward MOVS or STOS that stay in pages the TLB permits; how many they were.
  private func moveMany(_ width: Int, _ addressSize: Int, limit: UInt64) -> Int {
    let isMove = i.operation == .movs
    guard isMove || i.operation == .stos, limit > 1, state.pointee.system_flags & RFLAGS.df == 0 else { return 0 }
    let destination = general(General.rdi) & mask(addressSize)
    guard let to = span(SegmentRegister.es, destination, width, write: true) else { return 0 }
    var items = Int(min(limit, UInt64(to.bytes / width)))
    if isMove {
      guard let from = span(Int(i.segment), general(General.rsi) & mask(addressSize), width, write: false) else {
        return 0
      }
      items = min(items, from.bytes / width)
      soft_move_items(to.host, from.host, items, width)
      step(General.rsi, items &* width, addressSize)
    } else {
      soft_store_items(to.host, general(General.rax), items, width)
    }
    step(General.rdi, items &* width, addressSize)
    return items
  }

  /// Memory from an offset to the end of its page, segment or address space; nil: less than an item, or not at hand.
  private func span(_ segment: Int, _ offset: UInt64, _ width: Int, write: Bool) -> (
    host: UnsafeMutableRawPointer, bytes: Int
  )? {
    let register = state.segment(segment)
    let low = write ? register.pointee.write_low : register.pointee.read_low
    let high = write ? register.pointee.write_high : register.pointee.read_high
    guard offset >= low, offset <= high else { return nil }
    let linear = (register.pointee.linear_base &+ offset) & state.pointee.linear_mask
    let onPage = 4096 &- linear & 4095
    let inSegment = min(high, mask(Int(i.addressSize))) &- offset
    let bytes = Int(inSegment < onPage ? inSegment &+ 1 : onPage)
    guard bytes >= width, let host = lookUp(state, linear, width: 1, write: write) else { return nil }
    return (host, bytes)
  }

  /// How many items of a repeated INS or OUTS one exit may move: as many as are in memory on one page.
  private func portItems(_ width: Int, limit: UInt64) -> Int {
    // What the device has answered is what it was asked for.
    if state.pointee.device_done > 0 { return Int(state.pointee.device_items) }
    let isInput = i.operation == .ins
    guard isInput || i.operation == .outs, limit > 1, state.pointee.system_flags & RFLAGS.df == 0,
      state.context.pointee.controllers?.handles(port: UInt16(truncatingIfNeeded: general(General.rdx))) != true
    else { return 1 }
    let offset = general(isInput ? General.rdi : General.rsi) & mask(Int(i.addressSize))
    let segment = isInput ? SegmentRegister.es : Int(i.segment)
    do throws(Fault) {
      let first = try linear(segment, offset, width, write: isInput)
      let items = Int(min(limit, (4096 &- first & 4095) / UInt64(width)))
      guard items > 1, try linear(segment, offset, items &* width, write: isInput) == first,
        try state.page(first, isInput ? .write : .read).host != nil
      else { return 1 }
      return items
    } catch {
      // The first item raises what there is to be raised.
      return 1
    }
  }

  private func iterate(_ width: Int, _ addressSize: Int, _ items: Int) throws(Fault) {
    let source = general(General.rsi) & mask(addressSize)
    let destination = general(General.rdi) & mask(addressSize)
    let segment = Int(i.segment)
    let es = SegmentRegister.es
    switch i.operation {
    case .movs:
      try writeMemory(es, destination, try readMemory(segment, source, width), width)
      step(General.rsi, width, addressSize)
      step(General.rdi, width, addressSize)
    case .stos:
      try writeMemory(es, destination, general(General.rax), width)
      step(General.rdi, width, addressSize)
    case .lods:
      setGeneral(General.rax, try readMemory(segment, source, width), size: width)
      step(General.rsi, width, addressSize)
    case .scas:
      flags(Sub.self, general(General.rax), try readMemory(es, destination, width), width)
      step(General.rdi, width, addressSize)
    case .cmps:
      let a = try readMemory(segment, source, width)
      flags(Sub.self, a, try readMemory(es, destination, width), width)
      step(General.rsi, width, addressSize)
      step(General.rdi, width, addressSize)
    case .ins:
      // The destination is proved writable before the device is read.
      let linear = try linear(es, destination, width, write: true)
      _ = try state.page(linear, .write)
      let port = UInt16(truncatingIfNeeded: general(General.rdx))
      guard items > 1 else {
        try writeMemory(es, destination, try portIn(port, width), width)
        return step(General.rdi, width, addressSize)
      }
      let data = try portIn(port, width, items)
      for index in 0..<items {
        try writeMemory(es, destination &+ UInt64(index &* width), Self.item(data, index, width), width)
      }
      step(General.rdi, items &* width, addressSize)
    default:
      let port = UInt16(truncatingIfNeeded: general(General.rdx))
      guard items > 1 else {
        try portOut(port, try readMemory(segment, source, width), width)
        return step(General.rsi, width, addressSize)
      }
      try portOut(port, width, items) { (index) throws(Fault) in
        try readMemory(segment, source &+ UInt64(index &* width), width)
      }
      step(General.rsi, items &* width, addressSize)
    }
  }

  private static func item(_ data: UnsafeMutableRawPointer, _ index: Int, _ width: Int) -> UInt64 {
    switch width {
    case 1: UInt64(data.load(fromByteOffset: index, as: UInt8.self))
    case 2: UInt64(data.load(fromByteOffset: index &* 2, as: UInt16.self))
    default: UInt64(data.load(fromByteOffset: index &* 4, as: UInt32.self))
    }
  }
}
