import CPU

/// Interrupts are counted, nothing more: a test looks at the count of its vector.
enum Interrupts {
  /// Called for each interrupt of a local APIC before its end, with the vector; on whichever processor takes it.
  nonisolated(unsafe) static var handler: (@convention(c) (UInt8) -> Void)?

  static func count(_ vector: UInt8) -> UInt32 { load32(interrupt_count_address(vector)) }

  static func add(_ vector: UInt8) { _ = atomic_increment(interrupt_count_address(vector)) }

  /// Whether the vector's count rises by `more` within the time. Interrupts are on while it waits; what was pending
  /// before is taken first and does not count.
  static func wait(for vector: UInt8, more: UInt32 = 1, milliseconds: UInt64 = patience, after: () -> Void = {}) -> Bool
  {
    sti()
    defer { cli() }
    // On hosts that interpret ring 0 it takes an exit until a pending interrupt is looked at.
    _ = PMTimer.count
    let goal = count(vector) &+ more
    after()
    return eventually(milliseconds) { Int32(bitPattern: count(vector) &- goal) >= 0 }
  }

  /// Whether the vector's count stays as it is for that long; what was on its way before is taken first and does not
  /// count.
  static func none(for vector: UInt8, milliseconds: UInt64) -> Bool {
    sti()
    defer { cli() }
    sleep(milliseconds: 10)
    let before = count(vector)
    sleep(milliseconds: milliseconds)
    return count(vector) == before
  }
}

/// Called by start.s with interrupts off.
@c(interruptTaken)
func interruptTaken(_ frame: UnsafeMutablePointer<interrupt_frame>) {
  let vector = UInt8(truncatingIfNeeded: frame.pointee.vector)
  switch vector {
  case 0..<0x20 where caught().pointee.next != 0:
    caught().pointee.vector = UInt64(vector)
    caught().pointee.error = frame.pointee.error
    caught().pointee.rip = frame.pointee.rip
    frame.pointee.rip = caught().pointee.next
    // TF, RF and AC would stay.
    frame.pointee.rflags &= ~0x5_0100
    caught().pointee.next = 0
  case 0..<0x20:
    check(false, "exception \(vector), error \(hex: frame.pointee.error), at \(hex: frame.pointee.rip)")
    finish()
  case 0x20..<0x30:
    Interrupts.add(vector)
    PIC.endOfInterrupt(vector - 0x20)
  case LocalAPIC.spuriousVector:
    Interrupts.add(vector)
  default:
    Interrupts.handler?(vector)
    Interrupts.add(vector)
    LocalAPIC.endOfInterrupt()
  }
}

/// The two 8259A, at vectors 0x20–0x2F.
enum PIC {
  static func vector(irq: UInt8) -> UInt8 { 0x20 + irq }

  /// ICW1–ICW4, then every line masked.
  static func start() {
    outb(0x20, 0x11)
    outb(0xA0, 0x11)
    outb(0x21, 0x20)
    outb(0xA1, 0x28)
    outb(0x21, 0x04)
    outb(0xA1, 0x02)
    outb(0x21, 0x01)
    outb(0xA1, 0x01)
    outb(0x21, 0xFF)
    outb(0xA1, 0xFF)
  }

  static func unmask(irq: UInt8) {
    if irq < 8 {
      outb(0x21, inb(0x21) & ~(1 << irq))
    } else {
      outb(0xA1, inb(0xA1) & ~(1 << (irq - 8)))
      outb(0x21, inb(0x21) & ~0x04)
    }
  }

  static func maskAll() {
    outb(0x21, 0xFF)
    outb(0xA1, 0xFF)
  }

  static func endOfInterrupt(_ irq: UInt8) {
    if irq >= 8 { outb(0xA0, 0x20) }
    outb(0x20, 0x20)
  }
}

/// The local APIC of the CPU that runs this (SDM vol. 3, 11.4).
enum LocalAPIC {
  static let spuriousVector: UInt8 = 0x3F
  private static let base: UInt64 = 0xFEE0_0000

  enum Register: UInt64 {
    case id = 0x020
    case version = 0x030
    case endOfInterrupt = 0x0B0
    case spurious = 0x0F0
    case commandLow = 0x300
    case commandHigh = 0x310
    case timer = 0x320
    case lint0 = 0x350
    case initialCount = 0x380
    case currentCount = 0x390
    case divide = 0x3E0
  }

  static subscript(_ register: Register) -> UInt32 {
    get { load32(base + register.rawValue) }
    set { store32(base + register.rawValue, newValue) }
  }

  /// Software-enables it, with the 8259A passed through on LINT0.
  static func start() {
    self[.spurious] = 0x100 | UInt32(spuriousVector)
    self[.lint0] = 0x700
  }

  static func endOfInterrupt() { self[.endOfInterrupt] = 0 }

  /// Sends an interrupt command and waits until it has gone.
  static func send(_ command: UInt32, to id: UInt8 = 0) {
    self[.commandHigh] = UInt32(id) << 24
    self[.commandLow] = command
    _ = eventually { self[.commandLow] & 0x1000 == 0 }
  }
}

/// The 82093AA.
enum IOAPIC {
  private static let base: UInt64 = 0xFEC0_0000

  static subscript(_ index: UInt32) -> UInt32 {
    get {
      store32(base, index)
      return load32(base + 0x10)
    }
    set {
      store32(base, index)
      store32(base + 0x10, newValue)
    }
  }

  /// Edge-triggered, active high, to this CPU, fixed; or masked when `vector` is nil.
  static func route(pin: UInt32, to vector: UInt8?) {
    self[0x11 + 2 * pin] = LocalAPIC[.id]
    self[0x10 + 2 * pin] = vector.map { UInt32($0) } ?? 0x1_0000
  }
}
