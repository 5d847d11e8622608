import LinuxSystem
import MachineModel
import Synchronization
import TestKit
import Testing

@testable import Backends

/// Which files behind an image are opened, and how images are recognised.
@Suite struct BackingTests {
  /// Why the image cannot be used; with `isFree` nobody has it open for long.
  private func problem(_ spec: BlockSpec, isFree: Bool = true) -> String? {
    do throws(ImageError) {
      func open() throws(ImageError) { _ = try FileBlockBackend(try OpenedImage.open(spec), spec: spec) }
      if isFree { try whenUnlocked(open) } else { try open() }
      return nil
    } catch {
      #expect(!error.description.contains("\n"))
      return error.description
    }
  }

  private func spec(
    _ path: String, _ backing: BackingPolicy = .off, format: ImageFormat = .auto, readOnly: Bool = false
  ) -> BlockSpec {
    BlockSpec(id: "disk0", path: path, format: format, backing: backing, readOnly: readOnly)
  }

  @Test func aBackingFileIsOpenedOnlyWithLeave() async throws {
    let base = try TemporaryFile([UInt8](repeating: 7, count: 1 << 20))
    let top = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.path, "-F", "raw", top.path)
    let refused = problem(spec(top.path))
    #expect(refused?.contains("backing=on") == true && refused?.contains(base.path) == true)
    #expect(problem(spec(top.path, .on)) == nil)
    #expect(problem(spec(top.path, .file(base.path))) == nil)
    #expect(problem(spec(top.path, .file("/nonexistent")))?.contains("no such file") == true)
    #expect(problem(spec(base.path, .on))?.contains("leave backing= out") == true)
    // A raw image is nothing but bytes, whatever it looks like.
    #expect(problem(spec(top.path, format: .raw)) == nil)
  }

  @Test func aBackingFileIsSharedAndNoWriterGetsAtIt() async throws {
    let base = try TemporaryFile([UInt8](repeating: 7, count: 1 << 20))
    let first = try TemporaryFile()
    let second = try TemporaryFile()
    for file in [first.path, second.path] {
      try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.path, "-F", "raw", file)
    }
    let opened = try OpenedImage.open(spec(first.path, .on))
    #expect(problem(spec(second.path, .on)) == nil)
    #expect(problem(spec(base.path), isFree: false)?.contains("in use") == true)
    #expect(problem(spec(base.path, readOnly: true)) == nil)
    #expect(problem(spec(first.path, .on), isFree: false)?.contains("in use") == true)
    _ = consume opened
    #expect(problem(spec(base.path)) == nil)
  }

  @Test func readersShareAQCOW2Image() async throws {
    let file = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", file.path, "1M")
    let opened = try OpenedImage.open(spec(file.path, readOnly: true))
    #expect(problem(spec(file.path, readOnly: true)) == nil)
    #expect(problem(spec(file.path), isFree: false)?.contains("another process reads it") == true)
    _ = consume opened
  }

  @Test func namesAreRelativeToTheImage() async throws {
    let base = try TemporaryFile([UInt8](repeating: 7, count: 1 << 20))
    let top = try TemporaryFile()
    let name = String(base.path.split(separator: "/").last ?? "")
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", top.path, "1M")
    #expect(problem(spec(top.path, .on)) == nil)
  }

  @Test func whatIsNoFileOrHasNoKnownFormatIsRefused() async throws {
    let base = try TemporaryFile([UInt8](repeating: 7, count: 1 << 20))
    let top = try TemporaryFile()
    func make(_ backing: String, _ format: String...) async throws {
      try await qemu("qemu-img", "create", "-q", "-f", "qcow2", top.path, "1M")
      let run = try RunningProgram.start(
        "/usr/bin/qemu-img", ["rebase", "-u", "-b", backing] + format + [top.path], seconds: 30)
      try await run.end()
    }
    try await make("nbd://localhost/x", "-F", "raw")
    #expect(problem(spec(top.path, .on))?.contains("backing=PATH") == true)
    try await make(base.path, "-F", "vmdk")
    #expect(problem(spec(top.path, .on))?.contains("'vmdk'") == true)
    try await make(top.path, "-F", "qcow2")
    #expect(problem(spec(top.path, .on), isFree: false)?.contains("in use") == true)
    // A loop of read-only images ends, too.
    #expect(problem(spec(top.path, .on, readOnly: true))?.contains("files stand behind each other") == true)
  }

  /// What a guest has written to a raw base may not become an image with a backing file of its own.
  @Test func theFormatOfABackingFileIsNotGuessed() async throws {
    let secret = try TemporaryFile([UInt8](repeating: 7, count: 4096))
    let base = try TemporaryFile()
    let top = try TemporaryFile()
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret.path, "-F", "raw", base.path, "1M")
    try await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", top.path, "1M")
    // A backing name without the extension that names the format.
    var bytes = try top.contents()
    let name = Array(base.path.utf8)
    let place = 1024
    bytes.replaceSubrange(place..<place + name.count, with: name)
    bytes.replaceSubrange(
      8..<20, with: [0, 0, 0, 0, 0, 0, UInt8(place >> 8), UInt8(place & 0xFF), 0, 0, 0, UInt8(name.count)])
    try top.overwrite(bytes)
    #expect(problem(spec(top.path, .on))?.contains("qemu-img rebase") == true)
    // Named by the user, its looks count, and what stands behind it is one thing too many.
    #expect(problem(spec(top.path, .file(base.path)))?.contains("has a backing file itself") == true)
  }

  // MARK: Formats

  private func write(_ bytes: [UInt8], at offset: UInt64, _ spec: BlockSpec) throws -> BlockError? {
    let backend = try whenUnlocked { () throws(ImageError) in
      try FileBlockBackend(try OpenedImage.open(spec), spec: spec)
    }
    let memory = AlignedBuffer(count: bytes.count)
    let part = UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<bytes.count])
    part.copyBytes(from: bytes)
    let failure = Mutex<BlockError?>(nil)
    backend.submit(
      BlockRequest(.write, offset: offset, buffers: [part]) { result in
        if case .failure(let error) = result { failure.withLock { $0 = error } }
      })
    backend.drain()
    return failure.withLock { $0 }
  }

  @Test func aGuestCannotTurnAProbedRawImageIntoAnotherFormat() throws {
    let sector = QCOW2Header.magic + [UInt8](repeating: 1, count: 508)
    let file = try TemporaryFile([UInt8](repeating: 0, count: 8192))
    let probed = spec(file.path)
    #expect(try write(sector, at: 0, probed) == .host(errno: ErrorNumber.inputOutput))
    #expect(try write(sector, at: 512, probed) == nil)
    // In two halves neither.
    #expect(try write(Array(sector[..<2]), at: 0, probed) == nil)
    #expect(try write(Array(sector[2..<512]), at: 2, probed) == .host(errno: ErrorNumber.inputOutput))
    #expect(try whenUnlocked { () throws(ImageError) in try OpenedImage.open(probed).format } == .raw)
    // Said to be raw, it may hold anything, and stays raw.
    let raw = spec(file.path, format: .raw)
    #expect(try write(sector, at: 0, raw) == nil)
    #expect(try whenUnlocked { () throws(ImageError) in try OpenedImage.open(raw).format } == .raw)
    #expect(try whenUnlocked { () throws(ImageError) in try OpenedImage.open(probed).format } == .qcow2)
  }

  @Test func aRawImageIsNotTakenForQCOW2() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 8192))
    #expect(problem(spec(file.path, format: .qcow2))?.contains("format=raw") == true)
  }
}
