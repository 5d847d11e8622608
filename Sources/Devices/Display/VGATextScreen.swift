extension VGA {
  /// The lines of the text screen in Unicode, trailing blanks cut; nil in graphics modes and while the palette
  /// address source keeps the screen off, as it is before firmware sets a mode.
  func textScreen() -> [String]? {
    guard !dispi.isEnabled, !registers.isGraphics, registers.isScreenConnected else { return nil }
    let lines = registers.linesPerRow * (registers.isDoubleScanned ? 2 : 1)
    return (0..<registers.displayedLines / lines).map { row in
      let start = registers.startAddress + row * registers.rowPitch
      var text = ""
      var blanks = 0
      for column in 0..<registers.displayedCharacters {
        let character = CodePage437.character(UInt8(truncatingIfNeeded: memory[planar: (start + column) & 0xFFFF]))
        if character == " " {
          blanks += 1
        } else {
          text += String(repeating: " ", count: blanks)
          text.append(character)
          blanks = 0
        }
      }
      return text
    }
  }
}

/// The characters of the VGA's own font (IBM code page 437, graphic form of the control codes).
enum CodePage437 {
  private static let controls = Array(" ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼")
  private static let high = Array(
    "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀"
      + "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ")

  static func character(_ code: UInt8) -> Character {
    switch code {
    case 0x00..<0x20: controls[Int(code)]
    case 0x20..<0x7F: Character(Unicode.Scalar(code))
    default: high[Int(code) - 0x7F]
    }
  }
}
