import COptionROM

/// The option ROM that firmware runs to start a kernel: COptionROM/kernel.S with its size and checksums (Plug and Play BIOS
/// Specification 1.0A, 3.1 and 3.2).
enum KernelROM {
  /// Its fw_cfg file. Firmware runs all below `genroms/`, and calls its boot entry `/rom@` and this name.
  static let fileName = "genroms/vmrun-kernel.bin"
  private static let unit = 512

  private enum Field {
    /// In units of 512 bytes.
    static let size = 2
    /// Offset of the expansion header.
    static let expansion = 0x1A
  }

  /// Fields of the expansion header.
  private enum Expansion {
    static let size = 32
    static let checksum = 9
  }

  static let image: [UInt8] = {
    // Safety: the object file has as many bytes there.
    var image = [UInt8](UnsafeRawBufferPointer(start: kernel_rom(), count: kernel_rom_size()))
    // The last byte is the checksum's.
    image += [UInt8](repeating: 0, count: unit - image.count % unit)
    image[Field.size] = UInt8(truncatingIfNeeded: image.count / unit)
    let expansion = Int(image[Field.expansion]) | Int(image[Field.expansion + 1]) << 8
    image[expansion + Expansion.checksum] = 0 &- sum(image[expansion..<expansion + Expansion.size])
    image[image.count - 1] = 0 &- sum(image[...])
    return image
  }()

  private static func sum(_ bytes: ArraySlice<UInt8>) -> UInt8 { bytes.reduce(0, &+) }
}
