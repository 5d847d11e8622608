import DeviceKit
import MachineModel
import Testing

@Suite struct PropertyParsing {
  @Test(arguments: [
    ("pc-board,iobase=0x2f8", "iobase", PropertyValue.integer(0x2F8)),
    ("pc-board,iobase=0", "iobase", .integer(0)),
    ("pc-board,iobase=65528", "iobase", .integer(0xFFF8)),
    ("pc-board,msi=on", "msi", .boolean(true)),
    ("pc-board,vgamem=64M", "vgamem", .integer(64 << 20)),
    ("pc-board,vgamem=1048576", "vgamem", .integer(1 << 20)),
    ("pc-board,label=a,,b=c", "label", .string("a,b=c")),
    ("std-vga,addr=1f.7", "addr", .string("1f.7")),
    ("std-vga,addr=A", "addr", .string("0a.0")),
    ("ide-hd,bus=ide.1", "bus", .string("ide.1")),
  ])
  func valuesAreTyped(text: String, option: String, value: PropertyValue) throws {
    let device = try registry.device(parsing: text, defaultID: "d")
    #expect(device.properties[option] == value)
    #expect(device.id == "d")
  }

  @Test(arguments: [
    ("", "no device named; '--device help' lists them"),
    ("isa-seral", "unknown device 'isa-seral', did you mean 'isa-serial'? '--device help' lists all"),
    (
      "pc-board,iobas=1",
      "pc-board has no option 'iobas', did you mean 'iobase'? It has iobase, irq, msi, vgamem, label, id"
    ),
    ("isa-serial,x=1", "isa-serial has no option 'x'; it has chardev, id"),
    ("pc-board,irq=4,irq=4", "pc-board option 'irq' is given twice"),
    ("pc-board,irq", "pc-board option 'irq' has no value; write irq=VALUE with a number from 3 to 15"),
    ("pc-board,irq=", "pc-board option 'irq' has no value; write irq=VALUE with a number from 3 to 15"),
    ("pc-board,irq=four", "pc-board option 'irq' is 'four'; it must be a number from 3 to 15"),
    ("pc-board,irq=+4", "pc-board option 'irq' is '+4'; it must be a number from 3 to 15"),
    ("pc-board,irq=16", "pc-board option 'irq' is '16', out of range; it must be a number from 3 to 15"),
    (
      "pc-board,iobase=0x10000000000000000",
      "pc-board option 'iobase' is '0x10000000000000000', out of range; it must be a number from 0x0 to 0xfff8"
    ),
    ("pc-board,msi=yes", "pc-board option 'msi' is 'yes'; it must be on or off"),
    ("pc-board,vgamem=512M", "pc-board option 'vgamem' is '512M', out of range; it must be a size from 1M to 256M"),
    ("pc-board,vgamem=big", "pc-board option 'vgamem' is 'big'; it must be a size from 1M to 256M"),
    (
      "pc-board,label=123456789",
      "pc-board option 'label' is '123456789', out of range; it must be text of at most 8 characters"
    ),
    ("ide-hd,bus=ide.2", "ide-hd option 'bus' is 'ide.2'; it must be ide.0 or ide.1"),
    ("ide-hd,id=1st", "ide-hd option 'id' is '1st'; it must be text of at most 63 characters"),
    (
      "std-vga,addr=20.0",
      "std-vga option 'addr' is '20.0', out of range; "
        + "it must be a PCI slot from 00 to 1f and a function from 0 to 7, such as 03.0"
    ),
    (
      "std-vga,addr=2.0.0",
      "std-vga option 'addr' is '2.0.0'; it must be a PCI slot from 00 to 1f and a function from 0 to 7, such as 03.0"
    ),
  ])
  func badArgumentsSayWhatToWrite(text: String, message: String) {
    do throws(PropertyError) {
      let device = try registry.device(parsing: text, defaultID: "d")
      Issue.record("\(text) made \(device)")
    } catch {
      #expect(error.description == message)
    }
  }

  @Test func defaultsFillWhatASpecLeavesOut() {
    let properties = registry.properties(
      of: DeviceSpec(model: "pc-board", id: "x", properties: ["irq": .integer(5)]))
    #expect(properties.integer("irq") == 5)
    #expect(properties.integer("iobase") == 0x3F8)
    #expect(properties.string("label") == nil)
  }

  @Test func aKeyValueListSplitsAtSingleCommas() {
    let list = KeyValueList("a,,b,c=d=e,f,,,g=")
    #expect(list.head == "a,b")
    #expect(list.items.map(\.key) == ["c", "f,", "g"])
    #expect(list.items.map(\.value) == ["d=e", nil, ""])
  }

  @Test(arguments: [
    ("ide-dh", "ide-hd"), ("IDE-HD", "ide-hd"), ("stdvga", "std-vga"), ("serial", nil), ("x", nil), ("", nil),
  ])
  func theNearestNameIsWithinASlipOfTheKeys(name: String, nearest: String?) {
    #expect(nearestName(to: name, among: registry.models.map(\.name)) == nearest)
  }
}

@Suite struct Quantities {
  @Test(
    arguments: [
      ("512M", 512 << 20), ("2g", 2 << 30), ("1.5G", 1536 << 20), ("0.5K", 512), ("7", 7), ("0", 0), ("1T", 1 << 40),
      ("0.0000001K", 0), ("18446744073709551615", UInt64.max), ("18446744073709551616", nil), ("16777216T", nil),
      ("", nil), ("M", nil), ("-1", nil), ("+1", nil), ("1.", nil), (".5", nil), ("1.2.3G", nil), ("1 G", nil),
      ("1MB", nil), ("1ß", nil), ("0x10", nil), ("١", nil),
    ] as [(String, UInt64?)])
  func sizesAreBytes(text: String, bytes: UInt64?) {
    #expect(Quantity.bytes(text) == bytes)
  }

  @Test(
    arguments: [
      ("30s", 30_000_000_000), ("5m", 300_000_000_000), ("1h", 3_600_000_000_000), ("500ms", 500_000_000),
      ("1.5s", 1_500_000_000), ("10", 10_000_000_000), ("0s", 0), ("5124096h", nil), ("s", nil), ("5 s", nil),
      ("1d", nil),
    ] as [(String, UInt64?)])
  func timesAreNanoseconds(text: String, nanoseconds: UInt64?) {
    #expect(Quantity.nanoseconds(text) == nanoseconds)
  }

  @Test(
    arguments: [(0, "0"), (1023, "1023"), (1 << 10, "1K"), (1536 << 20, "1536M"), (16 << 30, "16G")]
      as [(UInt64, String)])
  func sizesPrintInTheLargestUnit(bytes: UInt64, text: String) {
    #expect(Quantity.describe(bytes: bytes) == text)
  }
}

@Suite struct ExitStatuses {
  @Test(
    arguments: [
      (ExitStatus.poweredOff, 0), (.guest(33), 33), (.usage, 64), (.panicked, 121), (.reset, 122), (.tripleFault, 123),
      (.timedOut, 124), (.hostFailure, 125), (.sandboxViolation, 126), (.signal(15), 143),
    ] as [(ExitStatus, UInt8)])
  func haveTheirCodes(status: ExitStatus, code: UInt8) {
    #expect(status.code == code)
  }
}

@Suite struct SerialEndpoints {
  @Test(arguments: ["stdio", "pty", "null", "file:/tmp/a:b", "unix:s"])
  func printAsTheyAreWritten(text: String) {
    #expect(CharacterEndpoint(text)?.description == text)
  }
}
