import Glibc
import Testing
import X86

/// VMRUN_TEST_LONG=1: take everything instead of a sample.
let isLongRun = getenv("VMRUN_TEST_LONG").map { String(cString: $0) == "1" } ?? false

/// Code that objdump and the decoder must read alike.
struct CodeSample: Sendable, CustomTestStringConvertible {
  let path: String
  let mode: DecodeMode
  /// objdump's options for the file's format.
  let format: String
  /// The addresses read when the run is not a long one.
  let range: Range<Int>

  var testDescription: String { "\(path) (\(mode))" }
  var exists: Bool { access(path, R_OK) == 0 }
  var listing: Listing {
    let limits = isLongRun ? "" : " --start-address=\(range.lowerBound) --stop-address=\(range.upperBound)"
    return Listing(arguments: "\(format)\(limits) \(path)")
  }
}

@Suite(.enabled(if: Listing.isAvailable, "objdump (package binutils) is not installed"))
struct ObjdumpTests {
  private static let library = "/usr/lib/x86_64-linux-gnu/"

  static let samples = [
    CodeSample(path: library + "libc.so.6", mode: .bits64, format: "-d", range: 0x9_0000..<0xA_0000),
    CodeSample(path: library + "libm.so.6", mode: .bits64, format: "-d", range: 0x2_0000..<0x2_8000),
    CodeSample(path: library + "libcrypto.so.3", mode: .bits64, format: "-d", range: 0x10_0000..<0x10_8000),
    CodeSample(path: "/lib32/libc.so.6", mode: .bits32, format: "-d", range: 0x9_0000..<0xA_0000),
    CodeSample(path: "/lib32/libm.so.6", mode: .bits32, format: "-d", range: 0x2_0000..<0x2_8000),
    CodeSample(
      path: "/usr/share/seabios/bios-256k.bin", mode: .bits32, format: "-D -b binary -m i386",
      range: 0x3_0000..<0x3_8000),
    CodeSample(
      path: "/usr/share/seabios/bios-256k.bin", mode: .bits16, format: "-D -b binary -m i8086",
      range: 0x3_D000..<0x4_0000),
    CodeSample(
      path: "/usr/share/seabios/vgabios-stdvga.bin", mode: .bits16, format: "-D -b binary -m i8086",
      range: 0x0000..<0x4000),
  ]

  @Test(arguments: samples.filter(\.exists))
  func systemCodeReadsAsObjdumpReadsIt(sample: CodeSample) {
    var comparison = ListingComparison(mode: sample.mode)
    comparison.run(sample.listing)
    expectEqual(comparison, atLeast: 1000)
  }

  @Test(arguments: [(DecodeMode.bits16, "i8086"), (.bits32, "i386"), (.bits64, "i386:x86-64")])
  func randomBytesReadAsObjdumpReadsThem(mode: DecodeMode, machine: String) throws {
    let seed: UInt64 = 0x0B1D_0F86
    var random = SeededGenerator(seed: seed)
    let count = isLongRun ? 4_000_000 : 32_000
    let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next() >> 32) }
    let path = "/tmp/vmrun-test-code-\(getpid())-\(machine)"
    defer { unlink(path) }
    let file = try #require(fopen(path, "w"))
    #expect(bytes.withUnsafeBytes { fwrite($0.baseAddress, 1, $0.count, file) } == count)
    fclose(file)
    var comparison = ListingComparison(mode: mode)
    comparison.run(Listing(arguments: "-D -b binary -m \(machine) \(path)"))
    expectEqual(comparison, atLeast: 5000)
  }

  private func expectEqual(_ comparison: ListingComparison, atLeast count: Int) {
    print(comparison.report)
    #expect(comparison.count >= count)
    #expect(comparison.lengthDifferences == 0, "\(comparison.examples)")
    #expect(comparison.textDifferences * 1000 <= comparison.count, "\(comparison.examples)")
  }
}
