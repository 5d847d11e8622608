import Testing

@testable import Devices

@Suite struct DisplayPictureTests {
  let display: DisplayBoard
  init() throws { display = try DisplayBoard() }

  func type(_ text: String, row: UInt64 = 0, attribute: UInt8 = 0x07) {
    for (column, byte) in text.utf8.enumerated() {
      display.poke(0xB8000 + row * 160 + UInt64(column) * 2, byte)
      display.poke(0xB8001 + row * 160 + UInt64(column) * 2, attribute)
    }
  }

  @Test func thereIsNoTextBeforeAModeIsSet() {
    #expect(display.screen.textScreen() == nil)
    #expect(display.peek(0xB8000) == 0xFF)
  }

  @Test func theTextScreenReadsAsLines() {
    display.set(.text)
    type("Booting from Hard Disk...", row: 0)
    type("  a  b  ", row: 24)
    display.poke(0xB8000 + 160, 0xC9)
    display.poke(0xB8000 + 162, 0xCD)
    display.poke(0xB8000 + 164, 0x01)
    let screen = display.screen.textScreen()
    #expect(screen?.count == 25)
    #expect(screen?[0] == "Booting from Hard Disk...")
    #expect(screen?[1] == "╔═☺")
    #expect(screen?[2] == "")
    #expect(screen?[24] == "  a  b")
  }

  @Test func theStartAddressScrollsTheText() {
    display.set(.text)
    type("first", row: 0)
    type("second", row: 1)
    display.crtc(0x0C, 0)
    display.crtc(0x0D, 80)
    #expect(display.screen.textScreen()?.first == "second")
    display.crtc(0x0C, 0xFF)
    display.crtc(0x0D, 0xB0)
    #expect(display.screen.textScreen()?[1] == "first")
  }

  @Test func rowsAndColumnsComeFromTheCRTC() {
    display.set(.text)
    display.crtc(0x11, 0x0E)
    display.crtc(0x01, 39)
    display.crtc(0x13, 20)
    display.crtc(0x09, 0x47)
    let screen = display.screen.textScreen()
    #expect(screen?.count == 50)
    for column in UInt64(0)..<80 { display.poke(0xB8000 + column * 2, 0x41) }
    #expect(display.screen.textScreen()?.map(\.count).prefix(3) == [40, 40, 0])
  }

  @Test func graphicsModesHaveNoText() {
    display.set(.planar)
    #expect(display.screen.textScreen() == nil)
    display.set(.text)
    display.dispi(4, 0x41)
    #expect(display.screen.textScreen() == nil)
    display.dispi(4, 0)
    #expect(display.screen.textScreen() != nil)
  }

  @Test func everyCodeHasACharacterOfItsOwn() {
    let characters = (UInt8.min...UInt8.max).map { CodePage437.character($0) }
    #expect(characters[0x41] == "A" && characters[0xB0] == "░" && characters[0xFE] == "■" && characters[0x7F] == "⌂")
    #expect(Set(characters).count == 254)
    #expect(characters[0] == " " && characters[0x20] == " " && characters[0xFF] == " ")
  }

  @Test func glyphsAreDrawnWithTheirAttribute() {
    display.set(.text)
    display.setPalette()
    display.sequencer(2, 4)
    display.sequencer(4, 6)
    display.graphics(5, 0)
    display.graphics(6, 4)
    display.poke(0xA0000 + 0x41 * 32, 0b1000_0001)
    display.poke(0xA0000 + 0xC4 * 32, 0b0000_0001)
    display.set(.text)
    type("A", attribute: 0x12)
    display.poke(0xB8002, 0xC4)
    display.poke(0xB8003, 0x12)
    let picture = display.picture
    #expect(picture.width == 720 && picture.height == 400)
    let (foreground, background) = (picture.pixels[0], picture.pixels[1])
    #expect(foreground != background)
    #expect(
      (0..<18).map { picture.pixels[$0] == foreground } == [
        true, false, false, false, false, false, false, true, false,
        false, false, false, false, false, false, false, true, true,
      ])
  }

  @Test func theCursorCoversItsLines() {
    display.set(.text)
    display.setPalette()
    display.crtc(0x0A, 14)
    display.crtc(0x0B, 15)
    display.crtc(0x0F, 1)
    type("  ", attribute: 0x07)
    let pixels = display.picture.pixels
    #expect(pixels[13 * 720 + 9] == pixels[0])
    #expect(pixels[14 * 720 + 9] != pixels[0] && pixels[15 * 720 + 17] != pixels[0])
    #expect(pixels[14 * 720 + 8] == pixels[0] && pixels[14 * 720 + 18] == pixels[0])
    display.crtc(0x0A, 0x2E)
    #expect(display.picture.pixels[14 * 720 + 9] == pixels[0])
  }

  @Test func chainedAndUnchainedModesShareALayout() {
    display.set(.chained)
    display.setPalette()
    for x in UInt64(0)..<320 { display.poke(0xA0000 + 320 * 5 + x, UInt8(truncatingIfNeeded: x)) }
    let chained = display.picture
    #expect(chained.width == 640 && chained.height == 400)
    #expect(chained.pixels[640 * 10 + 2] == chained.pixels[640 * 11 + 3])
    #expect(Set(chained.pixels[640 * 10..<640 * 11]).count > 50)
    display.sequencer(4, 0x06)
    display.graphics(4, 2)
    #expect(display.peek(0xA0000 + 80 * 5 + 1) == 6)
    display.crtc(0x14, 0)
    display.crtc(0x17, 0xE3)
    #expect(display.picture.pixels == chained.pixels)
  }

  @Test func theLineCompareStartsAgainAtAddressZero() {
    display.set(.planar)
    display.setPalette()
    for x in UInt64(0)..<80 { display.poke(0xA0000 + x, 0xFF) }
    display.crtc(0x0C, 0x10)
    display.crtc(0x18, 99)
    display.crtc(0x07, 0x2E)
    display.crtc(0x09, 0x00)
    let picture = display.picture
    let lit = (0..<480).filter { picture.pixels[$0 * 640] != picture.pixels[0] }
    #expect(lit == [100])
  }

  @Test func panningMovesThePictureLeft() {
    display.set(.planar)
    display.setPalette()
    display.poke(0xA0000, 0x10)
    display.attribute(0x13, 3)
    let picture = display.picture
    #expect(picture.pixels[0] != picture.pixels[1])
  }

  @Test func aBlankedScreenIsBlack() {
    display.set(.planar)
    display.setPalette()
    display.poke(0xA0000, 0xFF)
    display.sequencer(1, 0x21)
    #expect(Set(display.picture.pixels) == [0])
    display.sequencer(1, 0x01)
    #expect(Set(display.picture.pixels).count > 1)
  }

  @Test(
    arguments: [
      (15, [0x1F, 0x7C], 0xFF00FF), (16, [0xE0, 0x07], 0x00FF00), (24, [0x33, 0x22, 0x11], 0x112233),
      (32, [0x33, 0x22, 0x11, 0xFF], 0x112233),
    ] as [(UInt16, [UInt8], UInt32)])
  func directColorPixelsKeepTheirComponents(depth: UInt16, bytes: [UInt8], expected: UInt32) {
    display.dispi(1, 64)
    display.dispi(2, 32)
    display.dispi(3, depth)
    display.dispi(4, 0x41)
    for (offset, byte) in bytes.enumerated() { display.poke(0xA0000 + UInt64(bytes.count * 3 + offset), byte) }
    let picture = display.picture
    #expect(picture.width == 64 && picture.height == 32)
    #expect(picture.pixels[3] == expected && picture.pixels[4] == 0)
  }

  @Test func fourBitDISPIModesArePlanar() {
    display.set(.planar)
    display.setPalette()
    display.dispi(1, 800)
    display.dispi(2, 600)
    display.dispi(3, 4)
    display.dispi(4, 0x41)
    display.sequencer(2, 0x0F)
    display.poke(0xA0000 + 100 * 7, 0x80)
    let picture = display.picture
    #expect(picture.width == 800 && picture.height == 600)
    let lit = picture.pixels.indices.filter { picture.pixels[$0] != picture.pixels[0] }
    #expect(lit == [7 * 800])
  }

  @Test(arguments: [(16000, 12000, 1048), (1920, 1080, 1080), (8, 12000, 12000), (0, 10, 10)])
  func hugePicturesAreCutBelow(width: Int, height: Int, lines: Int) {
    #expect(VGA.drawnLines(width: width, height: height) == lines)
  }
}
