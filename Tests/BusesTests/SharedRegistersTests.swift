import TestKit
import Testing

@testable import Buses

/// Memory that a device and processors share, as each sees it.
private final class SharedBlock {
  let memory: UnsafeMutableRawPointer
  let device: SharedRegisters
  let processor: SharedRegisters

  init(_ declared: [SharedRegister] = SharedBlock.registers) {
    memory = .allocate(byteCount: SharedRegisters.stride, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: SharedRegisters.stride)
    device = SharedRegisters(memory, index: 0)
    processor = SharedRegisters(memory, index: 0)
    device.declare(declared)
  }

  deinit { memory.deallocate() }

  static let registers = [
    SharedRegister(0x08, read: .value, index: 2), SharedRegister(0xC0, read: .takeCauses),
    SharedRegister(0xC8, write: .setCauses, writable: 0xFF), SharedRegister(0xD0, read: .mask, write: .setMask),
    SharedRegister(0xD8, write: .clearMask), SharedRegister(0x18, .byte, read: .value, write: .value, index: 1),
    SharedRegister(0x20, write: .unrelated), SharedRegister(0x60, read: .causes),
    SharedRegister(0x64, write: .clearCauses),
  ]

  func read(_ offset: UInt64, width: Int = 4) -> UInt32? {
    processor.find(offset, width: width).flatMap { processor.read($0) }
  }

  func write(_ offset: UInt64, _ value: UInt32, width: Int = 4) -> Bool? {
    processor.find(offset, width: width).flatMap { processor.write($0, value) }
  }
}

@Suite struct SharedRegistersTests {
  @Test func aRegisterIsFoundByItsOffsetAndWidth() {
    let block = SharedBlock()
    block.device.setValue(2, 0x283)
    #expect(block.read(0x08) == 0x283)
    #expect(block.read(0x08, width: 2) == nil && block.read(0x0C) == nil && block.read(0x1_0000_0008) == nil)
    #expect(block.read(0xC8) == nil && block.read(0x20) == nil, "the device answers")
    #expect(block.write(0x08, 1) == nil && block.write(0x20, 1) == nil, "the device performs it")
    #expect(block.processor.find(0x20, width: 4)?.write == .unrelated)
    #expect(block.processor.find(0x08, width: 4)?.write == .device)
  }

  @Test func aValueThatDoesNotFitItsRegisterIsTheDevicesToAnswer() {
    let block = SharedBlock()
    block.device.setValue(1, 0xFF)
    #expect(block.read(0x18, width: 1) == 0xFF)
    block.device.setValue(1, 0x100)
    #expect(block.read(0x18, width: 1) == nil)
    block.device.setValue(2, .max)
    #expect(block.read(0x08) == .max)
  }

  @Test func causesAreTakenByAReadAndThePinFallsWithThem() {
    let block = SharedBlock()
    block.device.setMask(0x80)
    block.device.setCauses(0x81)
    #expect(block.device.raisePin())
    #expect(!block.device.raisePin(), "it is up already")
    #expect(block.processor.isAsserted)
    #expect(block.read(0xC0) == 0x81)
    #expect(!block.device.isAsserted && block.device.causes == 0)
    #expect(block.read(0xC0) == 0)
    block.device.setCauses(0x80)
    #expect(!block.device.isAsserted, "only the device raises it")
    #expect(block.device.raisePin())
  }

  @Test func causesAreReadAndClearedWhereNoneIsLeft() {
    let block = SharedBlock()
    #expect(block.device.setCauses(1) == 0)
    #expect(block.device.setCauses(3) == 1)
    #expect(block.read(0x60) == 3 && block.read(0x60) == 3)
    #expect(block.write(0x64, 1) == nil && block.device.causes == 3, "the device performs it")
    #expect(block.device.clearCauses(1) == 2)
    #expect(block.write(0x64, 0xFFFF) == false && block.device.causes == 0)
    #expect(block.write(0x64, 1) == false)
  }

  @Test func aMaskIsSetAndClearedBitByBit() {
    let block = SharedBlock()
    #expect(block.write(0xD0, 0x94) == false)
    #expect(block.write(0xD0, 0x01) == false)
    #expect(block.read(0xD0) == 0x95 && block.device.mask == 0x95)
    block.device.setCauses(0x10)
    #expect(block.device.raisePin())
    #expect(block.write(0xD8, 0x04) == false)
    #expect(block.device.isAsserted, "what is pending is not masked by that")
    #expect(block.write(0xD8, .max) == false)
    #expect(block.read(0xD0) == 0 && !block.device.isAsserted && block.device.causes == 0x10)
  }

  @Test func theBellRingsWhereThePinCouldRise() {
    let block = SharedBlock()
    #expect(block.write(0xC8, 0xFFFF) == false)
    #expect(block.device.causes == 0xFF, "what is not writable stays")
    #expect(block.write(0xD0, 0x100) == false)
    #expect(block.write(0xD0, 0x80) == true)
    #expect(block.device.wantsPin && block.device.raisePin() && !block.device.wantsPin)
    #expect(block.write(0xD0, 0x40) == false, "it is up")
  }

  @Test func theBellRingsForValuesThatTheDeviceAwaits() {
    let block = SharedBlock()
    #expect(block.write(0x18, 5, width: 1) == false)
    block.device.setAwaited(1, true)
    #expect(block.write(0x18, 6, width: 1) == true)
    block.device.setAwaited(1, false)
    #expect(block.write(0x18, 7, width: 1) == false)
    #expect(block.device.value(1) == 7 && block.read(0x18, width: 1) == 7)
    block.device.reset()
    #expect(block.device.value(1) == 0)
  }

  @Test func onlyTheInputThatThePinDrivesIsAsserted() {
    let block = SharedBlock()
    block.device.setMask(1)
    block.device.setCauses(1)
    #expect(block.device.raisePin())
    #expect(!(0..<24).contains { block.processor.asserts($0) })
    block.device.setInput(11)
    #expect((0..<24).filter { block.processor.asserts($0) } == [11])
    #expect(block.read(0xC0) == 1)
    #expect(!block.processor.asserts(11))
  }

  /// Whatever the other process writes, an access ends and stays in the block.
  @Test func anyContentsOfTheBlockAreHarmless() {
    var random = SystemRandomNumberGenerator()
    let block = SharedBlock()
    let words = block.memory.assumingMemoryBound(to: UInt64.self)
    for _ in 0..<20_000 {
      for word in 0..<SharedRegisters.stride / 8 { words[word] = random.next() }
      // Codes are sometimes nearly right.
      for slot in 0..<SharedRegisters.registerCount where Bool.random() {
        words[2 + slot] =
          UInt64.random(in: 0...0xFF) | 4 << 32 | UInt64.random(in: 0...9) << 40 | UInt64.random(in: 0...9) << 48
          | UInt64.random(in: 0...255) << 56
      }
      for offset in stride(from: UInt64(0), to: 0x100, by: 4) {
        guard let access = block.processor.find(offset, width: 4) else { continue }
        _ = block.processor.read(access)
        _ = block.processor.write(access, UInt32(truncatingIfNeeded: random.next()))
      }
      _ = block.processor.asserts(Int.random(in: 0..<24))
      _ = (block.device.takeCauses(), block.device.raisePin())
    }
  }
}

extension InterruptFabricTests {
  @Test func aLineWithSharedRegistersTriggersAndLeavesItsLevelToThem() {
    let block = SharedBlock()
    let line = fabric.intx(slot: 3, pin: 1, registers: block.device)
    fabric.route(pirq: 2, to: 11)
    block.device.setMask(1)
    block.device.setCauses(1)
    _ = block.device.raisePin()
    line.set(true)
    #expect(sink.takeTriggers(11) == 1 && !sink.level(11) && block.processor.asserts(11))
    fabric.route(pirq: 2, to: 10)
    #expect(sink.takeTriggers(10) == 1 && !block.processor.asserts(11) && block.processor.asserts(10))
    _ = block.read(0xC0)
    fabric.route(pirq: 2, to: 9)
    #expect(sink.takeTriggers(9) == 0, "it has fallen")
    line.set(false)
    block.device.setCauses(1)
    _ = block.device.raisePin()
    #expect(!block.processor.asserts(9), "it reaches nothing while it is not set")
    line.set(true)
    #expect(sink.takeTriggers(9) == 1 && block.processor.asserts(9))
  }

  @Test func aLineWhoseRegistersNobodyReachesIsAsAnyOther() {
    let registers = SharedRegisters()
    let line = fabric.intx(slot: 3, pin: 1, registers: registers)
    fabric.route(pirq: 2, to: 11)
    line.set(true)
    #expect(sink.level(11))
    line.set(false)
    #expect(!sink.level(11))
  }
}
