import Testing

@testable import SoftEngine

/// A master that was initialised as a PC's: base 0x08, cascade on line 2, with these bits of ICW4.
private func master(icw4: UInt8 = 0x01) -> I8259A {
  var chip = I8259A(isMaster: true, levelCapable: 0xF8)
  chip.write(data: false, 0x11)
  for value in [0x08, 0x04, icw4] as [UInt8] { chip.write(data: true, value) }
  return chip
}

extension I8259A {
  fileprivate mutating func raise(_ lines: Int...) { for line in lines { setInput(line, true) } }
  /// The line that an INTA cycle yields, nil for a spurious one.
  fileprivate mutating func takeLine() -> Int? {
    let acknowledgement = acknowledge()
    return acknowledgement.isSpurious ? nil : acknowledgement.line
  }
  fileprivate mutating func command(_ value: UInt8) { write(data: false, value) }
}

@Suite struct I8259ATests {
  @Test func nothingIsRequestedBeforeTheLastICW() {
    var chip = I8259A(isMaster: true, levelCapable: 0)
    chip.raise(3)
    #expect(!chip.isRequesting)
    chip.command(0x11)
    chip.setInput(3, false)
    chip.raise(3)
    for value in [0x20, 0x04] as [UInt8] {
      chip.write(data: true, value)
      #expect(!chip.isRequesting)
    }
    chip.write(data: true, 0x01)
    #expect(chip.isRequesting)
    #expect(chip.acknowledge() == .init(line: 3, vector: 0x23, isSpurious: false))
  }

  @Test(
    arguments: [
      (icw1: 0x10, writes: 2), (icw1: 0x11, writes: 3), (icw1: 0x12, writes: 1), (icw1: 0x13, writes: 2),
    ] as [(icw1: UInt8, writes: Int)])
  func icw1SaysHowManyWordsFollow(icw1: UInt8, writes: Int) {
    var chip = I8259A(isMaster: true, levelCapable: 0)
    chip.command(icw1)
    for _ in 0..<writes { chip.write(data: true, 0x40) }
    #expect(chip.mask == 0)
    chip.write(data: true, 0x5A)
    #expect(chip.mask == 0x5A)
  }

  @Test func icw1ClearsMasksServiceAndLatchedEdges() {
    var chip = master()
    chip.raise(1)
    #expect(chip.takeLine() == 1)
    chip.raise(4)
    chip.write(data: true, 0xFF)
    chip.command(0x0B)
    chip.command(0x11)
    #expect(chip.mask == 0 && chip.inService == 0 && chip.requests == 0)
    #expect(chip.read(data: false) == 0)
    #expect(chip.takeEnded() == 0x12)
  }

  @Test func lowerLinesComeFirstAndServiceHoldsBackEqualAndLower() {
    var chip = master()
    chip.raise(5, 3, 6)
    #expect(chip.takeLine() == 3)
    #expect(!chip.isRequesting)
    chip.raise(1)
    #expect(chip.takeLine() == 1)
    chip.command(0x20)
    #expect(chip.inService == 0x08 && !chip.isRequesting)
    chip.command(0x20)
    #expect(chip.takeLine() == 5)
    #expect(chip.takeEnded() == 0x0A)
  }

  @Test func masksHoldRequestsBackWithoutForgettingThem() {
    var chip = master()
    chip.write(data: true, 0x02)
    chip.raise(1)
    #expect(!chip.isRequesting && chip.requests == 0x02)
    chip.write(data: true, 0)
    #expect(chip.takeLine() == 1)
  }

  @Test func aPulseIsLatchedAndAHeldLineInterruptsOnce() {
    var chip = master()
    chip.raise(4)
    chip.setInput(4, false)
    #expect(chip.takeLine() == 4)
    chip.command(0x64)
    chip.raise(4)
    #expect(chip.takeLine() == 4)
    chip.command(0x64)
    chip.raise(4)
    #expect(!chip.isRequesting)
  }

  @Test func aLevelInterruptsUntilItFallsAndAWithdrawnOneIsSpurious() {
    var chip = master()
    chip.setLevelTriggered(0xFF)
    #expect(chip.levelTriggered == 0xF8)
    chip.raise(5)
    #expect(chip.takeLine() == 5)
    chip.command(0x65)
    #expect(chip.takeLine() == 5)
    chip.command(0x65)
    chip.setInput(5, false)
    #expect(chip.acknowledge() == .init(line: 7, vector: 0x0F, isSpurious: true))
    #expect(chip.inService == 0)
  }

  @Test func aSpecificEOIEndsThatLineAlone() {
    var chip = master()
    chip.raise(6)
    _ = chip.takeLine()
    chip.raise(2)
    _ = chip.takeLine()
    chip.command(0x66)
    #expect(chip.inService == 0x04)
    #expect(chip.takeEnded() == 0x40)
  }

  @Test func setPriorityRotatesTheOrder() {
    var chip = master()
    chip.command(0xC0 | 4)
    chip.raise(0, 4, 5, 7)
    var order: [Int?] = []
    for _ in 0..<4 {
      order.append(chip.takeLine())
      chip.command(0x20)
    }
    #expect(order == [5, 7, 0, 4])
  }

  @Test func rotateOnEOIGivesTheServedLineTheLowestPriority() {
    var chip = master()
    chip.raise(2, 3)
    #expect(chip.takeLine() == 2)
    chip.setInput(2, false)
    chip.raise(2)
    chip.command(0xA0)
    #expect(chip.takeLine() == 3)
    chip.command(0xE0 | 3)
    #expect(chip.takeLine() == 2)
  }

  @Test func automaticEOILeavesNothingInService() {
    var chip = master(icw4: 0x03)
    chip.raise(1, 2)
    #expect(chip.takeLine() == 1)
    #expect(chip.inService == 0 && chip.takeEnded() == 0x02)
    #expect(chip.takeLine() == 2)
  }

  @Test func rotationInAutomaticEOIModeIsSwitchedByItsCommands() {
    var chip = master(icw4: 0x03)
    chip.command(0x80)
    chip.raise(1)
    _ = chip.takeLine()
    chip.setInput(1, false)
    chip.raise(1, 3)
    #expect(chip.takeLine() == 3)
    chip.command(0x00)
    chip.raise(5)
    #expect(chip.takeLine() == 5)
    #expect(chip.takeLine() == 1)
  }

  @Test func specialMaskModeLetsLowerLinesThroughAMaskedService() {
    var chip = master()
    chip.raise(2, 5)
    #expect(chip.takeLine() == 2)
    chip.write(data: true, 0x04)
    #expect(!chip.isRequesting)
    chip.command(0x68)
    #expect(chip.takeLine() == 5)
    chip.command(0x20)
    #expect(chip.inService == 0x04)
    chip.command(0x48)
    chip.command(0x20)
    #expect(chip.inService == 0)
  }

  @Test func specialFullyNestedModeLetsTheSlaveInterruptItsOwnService() {
    var chip = master(icw4: 0x11)
    chip.raise(2)
    #expect(chip.takeLine() == 2)
    chip.setInput(2, false)
    chip.raise(2, 4)
    #expect(chip.takeLine() == 2)
    chip.raise(3)
    #expect(!chip.isRequesting)
    var plain = master()
    plain.raise(2)
    _ = plain.takeLine()
    plain.setInput(2, false)
    plain.raise(2)
    #expect(!plain.isRequesting)
  }

  @Test func aPollIsAnAcknowledgeByReading() {
    var chip = master()
    chip.command(0x0C)
    #expect(chip.read(data: false) == 0)
    chip.raise(6)
    chip.command(0x0C)
    #expect(chip.read(data: true) == 0x86)
    #expect(chip.inService == 0x40)
    #expect(chip.read(data: true) == 0)
  }

  @Test func ocw3SelectsWhatIsRead() {
    var chip = master()
    chip.raise(1)
    _ = chip.takeLine()
    chip.raise(3)
    chip.command(0x0B)
    #expect(chip.read(data: false) == 0x02)
    chip.command(0x0A)
    #expect(chip.read(data: false) == 0x08)
    chip.command(0x08)
    #expect(chip.read(data: false) == 0x08)
  }
}

@Suite struct I8259APairTests {
  private func pair(slaveICW4: UInt8 = 0x01) -> I8259APair {
    var pair = I8259APair()
    for (isSlave, words) in [(false, [0x08, 0x04, 0x01]), (true, [0x70, 0x02, slaveICW4])] {
      pair.write(isSlave: isSlave, data: false, 0x11)
      for word in words { pair.write(isSlave: isSlave, data: true, word) }
    }
    return pair
  }

  @Test(arguments: [(0, 0x08), (1, 0x09), (7, 0x0F), (8, 0x70), (12, 0x74), (15, 0x77)] as [(Int, UInt8)])
  func anIRQHasItsVector(irq: Int, vector: UInt8) {
    var pair = pair()
    pair.setInput(irq, true)
    #expect(pair.isRequesting)
    #expect(pair.acknowledge() == vector)
    if irq >= 8 {
      pair.write(isSlave: true, data: false, 0x20)
      #expect(pair.takeEnded() == 1 << UInt16(irq))
    }
    pair.write(isSlave: false, data: false, 0x20)
    #expect(pair.takeEnded() == (irq < 8 ? 1 << UInt16(irq) : 0))
    #expect(!pair.isRequesting)
  }

  @Test func theSlavesNextRequestFollowsItsEOI() {
    var pair = pair()
    pair.setInput(8, true)
    pair.setInput(10, true)
    #expect(pair.acknowledge() == 0x70)
    pair.write(isSlave: false, data: false, 0x20)
    #expect(!pair.isRequesting)
    pair.write(isSlave: true, data: false, 0x20)
    #expect(pair.acknowledge() == 0x72)
  }

  @Test func aSlaveWithAutomaticEOIRequestsAgainAfterTheAcknowledge() {
    var pair = pair(slaveICW4: 0x03)
    pair.setInput(8, true)
    pair.setInput(9, true)
    #expect(pair.acknowledge() == 0x70)
    pair.write(isSlave: false, data: false, 0x20)
    #expect(pair.acknowledge() == 0x71)
  }

  @Test func aWithdrawnRequestOfTheSlaveIsIRQ15WithTheCascadeInService() {
    var pair = pair()
    pair[elcr: true] = 0x08
    pair.setInput(11, true)
    pair.setInput(11, false)
    #expect(pair.acknowledge() == 0x77)
    #expect(pair.slave.inService == 0 && pair.master.inService == 0x04)
  }

  @Test func irq2IsTheCascadeAndTakesNoInput() {
    var pair = pair()
    pair.setInput(2, true)
    #expect(!pair.isRequesting)
  }
}
