import CPU

/// Leaves "vmrun VGA text" in the first row of the screen, "PASS" in its last.
@main enum VGAText: Guest {
  static let name: StaticString = "vga-text"

  static func run() {
    VGA.setTextMode()
    check(inb(0x3CC) == 0x67, "the miscellaneous output register is read back")
    check(VGA.read(0x3D4, 0x01) == 0x4F && VGA.read(0x3D4, 0x13) == 0x28, "so are the CRTC's")
    check(
      VGA.read(0x3CE, 0x06) == 0x0E && VGA.read(0x3C4, 0x02) == 0x03, "the graphics controller's and the sequencer's")
    VGA.write(0x3D4, 0x01, 0x10)
    check(VGA.read(0x3D4, 0x01) == 0x4F, "CRTC 11h bit 7 protects CRTC 0 to 7")

    for cell in 0..<UInt64(2000) { store16(VGA.text + 2 * cell, 0x0720) }
    VGA.put("vmrun VGA text", row: 0, column: 0, attribute: 0x1F)
    check(load16(VGA.text) == 0x1F76 && load16(VGA.text + 26) == 0x1F74, "B8000 holds what was written")
    check(load8(VGA.text + 2) == 0x6D && load8(VGA.text + 3) == 0x1F, "byte by byte too")
    store8(VGA.text + 2 * 79, 0x2A)
    check(load16(VGA.text + 2 * 79) == 0x072A, "a byte write leaves the attribute alone")

    // The cursor at row 2, column 3.
    VGA.write(0x3D4, 0x0E, 0)
    VGA.write(0x3D4, 0x0F, 163)
    check(VGA.read(0x3D4, 0x0F) == 163, "the cursor is where it was put")
    check(
      eventually { inb(0x3DA) & 8 != 0 } && eventually { inb(0x3DA) & 8 == 0 },
      "vertical retrace comes and goes")
    VGA.put("PASS", row: 24, column: 0)
  }
}
