import LinuxSystem
import MachineModel
import TestKit
import Testing

@testable import Backends

private func spec(
  _ path: String, readOnly: Bool = false, cache: CacheMode = .writeback, snapshot: Bool = false
) -> BlockSpec {
  BlockSpec(id: "disk0", path: path, readOnly: readOnly, cache: cache, snapshot: snapshot)
}

private func reason(opening spec: BlockSpec, isFree: Bool = false) -> ImageError.Reason? {
  do throws(ImageError) {
    func open() throws(ImageError) { _ = try OpenedImage.open(spec) }
    if isFree { try whenUnlocked(open) } else { try open() }
    return nil
  } catch {
    #expect(error.description.hasPrefix(spec.path + ": "))
    #expect(!error.description.contains("\n"))
    return error.reason
  }
}

@Suite struct OpenedImageTests {
  @Test func aSecondWriterIsRefused() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 4096))
    let first = try OpenedImage.open(spec(file.path))
    #expect(reason(opening: spec(file.path)) == .locked)
    #expect(reason(opening: spec(file.path, readOnly: true)) == .locked)
    #expect(reason(opening: spec(file.path, snapshot: true)) == .locked)
    _ = consume first
    #expect(reason(opening: spec(file.path), isFree: true) == nil)
  }

  @Test func readersShareAnImageAndKeepWritersOut() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 4096))
    let first = try OpenedImage.open(spec(file.path, readOnly: true))
    let second = try OpenedImage.open(spec(file.path, snapshot: true))
    #expect(first.geometry.size == 4096)
    let hasOverlay = second.overlay != nil
    #expect(hasOverlay)
    do throws(ImageError) {
      _ = try OpenedImage.open(spec(file.path))
      Issue.record("a writer got in")
    } catch {
      #expect(error.reason == .locked)
      #expect(error.description.contains("readonly=on"))
    }
    _ = consume first
    _ = consume second
  }

  @Test func aLockLivesAsLongAsACopyOfTheDescriptor() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 4096))
    let opened = try OpenedImage.open(spec(file.path))
    let copy = try opened.image.duplicate()
    _ = consume opened
    #expect(reason(opening: spec(file.path)) == .locked)
    _ = consume copy
    #expect(reason(opening: spec(file.path), isFree: true) == nil)
  }

  @Test func errorsSayWhatIsWrong() throws {
    let empty = try TemporaryFile()
    #expect(reason(opening: spec("/nonexistent/disk.img")) == .missing)
    #expect(reason(opening: spec("/tmp")) == .directory)
    #expect(reason(opening: spec("/tmp", readOnly: true)) == .directory)
    #expect(reason(opening: spec("/dev/null")) == .notAnImage)
    #expect(reason(opening: spec(empty.path)) == .empty)
  }

  @Test func refusalsNameTheWayOut() {
    let access = BlockSpecAccess(path: "d.img", writable: true, direct: true)
    // EROFS, EACCES, EINVAL and EIO as Linux numbers them.
    #expect(ImageError(opening: access, SystemError("open", errno: 30)).description.contains("readonly=on"))
    #expect(ImageError(opening: access, SystemError("open", errno: 13)).reason == .forbidden)
    #expect(ImageError(opening: access, SystemError("open", errno: 22)).description.contains("cache=writeback"))
    #expect(ImageError(opening: access, SystemError("open", errno: 5)).reason == .host(errno: 5))
  }

  @Test func aSnapshotWithoutATemporaryDirectoryUsesMemory() throws {
    let file = try TemporaryFile([UInt8](repeating: 1, count: 4096))
    let opened = try OpenedImage.open(spec(file.path, snapshot: true), temporaryDirectories: ["/nonexistent"])
    let hasOverlay = opened.overlay != nil
    #expect(hasOverlay)
  }
}
