import LinuxSystem
import MachineModel

/// What the device process has to know of an open image beside its descriptors and its `BlockSpec`.
public struct ImageGeometry: Sendable, WireCodable, Equatable {
  /// Bytes on the medium.
  public var size: UInt64
  /// The alignment of offsets, lengths and memory that the host asks for: 1, or 512 or 4096 with `cache=none`.
  public var alignment: Int

  public init(size: UInt64, alignment: Int = 1) {
    self.size = size
    self.alignment = alignment
  }

  public func write(to wire: inout WireWriter) { wire.put(size, alignment) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(size: try wire.get(), alignment: try wire.get())
  }
}

/// What the device process has to know of a file behind an image.
public struct BackingFile: Sendable, WireCodable, Equatable {
  public var path: String
  public var format: ImageFormat
  public var geometry: ImageGeometry
}

extension BackingFile {
  public func write(to wire: inout WireWriter) { wire.put(path, format, geometry) }
  public init(from wire: inout WireReader) throws(WireError) {
    self.init(path: try wire.get(), format: try wire.get(), geometry: try wire.get())
  }
}

/// An open descriptor with several owners, for arrays.
public final class SharedDescriptor: Sendable {
  public let descriptor: Descriptor
  public init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }
}

/// A locked disk image, the files behind it and, for a snapshot, the temporary file that takes its writes.
///
/// The lock belongs to the open file description: it goes along when the descriptor is sent to another process,
/// and ends when the last copy of it is closed.
public struct OpenedImage: ~Copyable, Sendable {
  public let image: Descriptor
  public let overlay: Descriptor?
  public let geometry: ImageGeometry
  /// The image's format, which is never `auto`.
  public let format: ImageFormat
  /// The files behind the image, nearest first.
  public let backing: [BackingFile]
  public let backingDescriptors: [SharedDescriptor]

  /// The descriptors, now the caller's to close: of the image, the overlay and the files behind the image.
  public consuming func takeDescriptors() throws(SystemError) -> (image: CInt, overlay: CInt?, backing: [CInt]) {
    var numbers: [CInt] = []
    for shared in backingDescriptors { numbers.append(try shared.descriptor.duplicate().release()) }
    let overlayNumber: CInt?
    switch consume overlay {
    case .some(let overlay): overlayNumber = overlay.release()
    case .none: overlayNumber = nil
    }
    return (image.release(), overlayNumber, numbers)
  }

  /// Opens, locks and measures the image that `spec` names. `temporaryDirectories` are tried in turn for a
  /// snapshot's overlay before anonymous memory is.
  public static func open(
    _ spec: BlockSpec, temporaryDirectories: [String] = defaultTemporaryDirectories
  ) throws(ImageError) -> OpenedImage {
    let access = BlockSpecAccess(
      path: spec.path, writable: !spec.readOnly && !spec.snapshot, direct: spec.cache == .none)
    let image = try openLocked(access)
    let size = try size(of: image, spec.path)
    let format = spec.format == .auto ? try probe(image, access) : spec.format
    let alignment = access.direct ? try directAlignment(image, access, size, isRaw: format == .raw) : 1
    var chain = BackingChain(direct: access.direct)
    if format == .qcow2 { try chain.open(behind: image, access, spec.backing) }
    guard format == .qcow2 || spec.backing == .off else {
      throw ImageError(spec.path, .backing, "a raw image has no backing file: leave backing= out")
    }
    let overlay: Descriptor?
    if spec.snapshot, !spec.readOnly {
      overlay = try openOverlay(spec.path, format == .raw ? size : 0, temporaryDirectories)
    } else {
      overlay = nil
    }
    return OpenedImage(
      image: image, overlay: overlay, geometry: ImageGeometry(size: size, alignment: alignment), format: format,
      backing: chain.files, backingDescriptors: chain.descriptors)
  }

  /// Opens and locks one file.
  static func openLocked(_ access: BlockSpecAccess) throws(ImageError) -> Descriptor {
    let image: Descriptor
    do throws(SystemError) {
      image = try .openImage(access.path, ImageOpenMode(writable: access.writable, direct: access.direct))
    } catch {
      throw ImageError(opening: access, error)
    }
    let kind: FileKind
    let size: UInt64
    do throws(SystemError) {
      kind = try image.kind()
      size = try kind == .regular || kind == .blockDevice ? image.imageSize() : 0
    } catch {
      throw ImageError(using: access.path, error)
    }
    switch kind {
    case .directory: throw ImageError(access.path, .directory, "this is a directory, not a disk image")
    case .other: throw ImageError(access.path, .notAnImage, "this is neither a regular file nor a block device")
    case .regular, .blockDevice: break
    }
    guard size > 0 else {
      throw ImageError(access.path, .empty, "the image is empty: give it a size with truncate -s 8G")
    }
    try lock(image, access)
    return image
  }

  static func size(of image: borrowing Descriptor, _ path: String) throws(ImageError) -> UInt64 {
    do throws(SystemError) { return try image.imageSize() } catch { throw ImageError(using: path, error) }
  }

  /// The format that the first bytes show. Nothing else of them is looked at.
  static func probe(_ image: borrowing Descriptor, _ access: BlockSpecAccess) throws(ImageError) -> ImageFormat {
    let start = AlignedBuffer(count: 4096)
    do throws(SystemError) { try image.readFilling([start.bytes], at: 0) } catch {
      throw ImageError(using: access.path, error)
    }
    return QCOW2Header.isMagic(start.bytes) ? .qcow2 : .raw
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

  /// Finds by trying what O_DIRECT asks for. A raw image has to end with a whole block of it.
  static func directAlignment(
    _ image: borrowing Descriptor, _ access: BlockSpecAccess, _ size: UInt64, isRaw: Bool
  ) throws(ImageError) -> Int {
    let probe = AlignedBuffer(count: 8192)
    for alignment in [512, 4096]
    where size >= UInt64(2 * alignment) && (!isRaw || size.isMultiple(of: UInt64(alignment))) {
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
    // That of other formats is known in the device process only, where the file gets its length.
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
