import LinuxSystem
import MachineModel

/// What the device process has to know of an open image beside its descriptors and its `BlockSpec`.
public struct ImageGeometry: Sendable, Codable, Equatable {
  /// Bytes on the medium.
  public var size: UInt64
  /// The alignment of offsets, lengths and memory that the host asks for: 1, or 512 or 4096 with `cache=none`.
  public var alignment: Int

  public init(size: UInt64, alignment: Int = 1) {
    self.size = size
    self.alignment = alignment
  }
}

/// A locked disk image and, for a snapshot, the temporary file that takes its writes.
///
/// The lock belongs to the open file description: it goes along when the descriptor is sent to another process,
/// and ends when the last copy of it is closed.
public struct OpenedImage: ~Copyable, Sendable {
  public let image: Descriptor
  public let overlay: Descriptor?
  public let geometry: ImageGeometry

  init(image: consuming Descriptor, overlay: consuming Descriptor?, geometry: ImageGeometry) {
    self.image = image
    self.overlay = overlay
    self.geometry = geometry
  }

  /// The descriptors, now the caller's to close, and the geometry.
  public consuming func takeApart() -> (image: CInt, overlay: CInt?, geometry: ImageGeometry) {
    let geometry = geometry
    let overlayNumber: CInt?
    switch consume overlay {
    case .some(let overlay): overlayNumber = overlay.release()
    case .none: overlayNumber = nil
    }
    return (image.release(), overlayNumber, geometry)
  }

  /// Opens, locks and measures the image that `spec` names. `temporaryDirectories` are tried in turn for a
  /// snapshot's overlay before anonymous memory is.
  public static func open(
    _ spec: BlockSpec, temporaryDirectories: [String] = defaultTemporaryDirectories
  ) throws(ImageError) -> OpenedImage {
    let access = BlockSpecAccess(
      path: spec.path, writable: !spec.readOnly && !spec.snapshot, direct: spec.cache == .none)
    let image: Descriptor
    do throws(SystemError) {
      image = try .openImage(spec.path, ImageOpenMode(writable: access.writable, direct: access.direct))
    } catch {
      throw ImageError(opening: access, error)
    }
    let kind: FileKind
    let size: UInt64
    do throws(SystemError) {
      kind = try image.kind()
      size = try kind == .regular || kind == .blockDevice ? image.imageSize() : 0
    } catch {
      throw ImageError(using: spec.path, error)
    }
    switch kind {
    case .directory: throw ImageError(spec.path, .directory, "this is a directory, not a disk image")
    case .other: throw ImageError(spec.path, .notAnImage, "this is neither a regular file nor a block device")
    case .regular, .blockDevice: break
    }
    guard size > 0 else {
      throw ImageError(spec.path, .empty, "the image is empty: give it a size with truncate -s 8G")
    }
    try lock(image, access)
    let geometry = ImageGeometry(size: size, alignment: access.direct ? try directAlignment(image, access, size) : 1)
    guard spec.snapshot, !spec.readOnly else { return OpenedImage(image: image, overlay: nil, geometry: geometry) }
    let overlay = try openOverlay(spec.path, size, temporaryDirectories)
    return OpenedImage(image: image, overlay: overlay, geometry: geometry)
  }

  /// `$TMPDIR`, then `/var/tmp`.
  public static var defaultTemporaryDirectories: [String] {
    if let directory = environment("TMPDIR"), !directory.isEmpty { [directory, "/var/tmp"] } else { ["/var/tmp"] }
  }

  private static func lock(_ image: borrowing Descriptor, _ access: BlockSpecAccess) throws(ImageError) {
    do throws(SystemError) {
      try image.lockImage(exclusive: access.writable)
    } catch {
      guard error.isLocked else { throw ImageError(using: access.path, error) }
      let advice =
        access.writable && !image.hasLockedWriter()
        ? "another process reads it: end that one, add readonly=on, or use --snapshot"
        : "another process writes to it: end that one, or use a copy"
      throw ImageError(access.path, .locked, "the image is in use, \(advice)")
    }
  }

  /// Finds by trying what O_DIRECT asks for.
  private static func directAlignment(_ image: borrowing Descriptor, _ access: BlockSpecAccess, _ size: UInt64)
    throws(ImageError) -> Int
  {
    let probe = AlignedBuffer(count: 8192)
    for alignment in [512, 4096] where size % UInt64(alignment) == 0 && size >= UInt64(2 * alignment) {
      let part = UnsafeMutableRawBufferPointer(rebasing: probe.bytes[alignment..<2 * alignment])
      do throws(SystemError) {
        try image.readFully([part], at: UInt64(alignment))
        return alignment
      } catch {
        guard error.isInvalid else { throw ImageError(using: access.path, error) }
      }
    }
    throw ImageError(
      access.path, .noDirectAccess,
      "its size is not one that cache=none can reach in whole host blocks: use cache=writeback")
  }

  private static func openOverlay(_ path: String, _ size: UInt64, _ directories: [String]) throws(ImageError)
    -> Descriptor
  {
    let whole = Overlay.fileSize(of: size)
    for directory in directories {
      do throws(SystemError) { return try .temporary(in: directory, size: whole) } catch { continue }
    }
    do throws(SystemError) {
      return try .memory(named: "vmrun-snapshot", size: whole)
    } catch {
      throw ImageError(path, .noOverlay, "no place for the snapshot's writes (\(error)): set TMPDIR to a directory")
    }
  }
}
