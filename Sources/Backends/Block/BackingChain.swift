import LinuxSystem
import MachineModel

/// The files behind an image, opened with the rights of the user: read-only, and locked against writers.
///
/// An image is a stranger's word: the names in it are followed only where the user says so.
struct BackingChain {
  private(set) var files: [BackingFile] = []
  private(set) var descriptors: [SharedDescriptor] = []
  private let direct: Bool
  static let longest = 32

  init(direct: Bool) { self.direct = direct }

  /// Opens what stands behind a qcow2 image.
  mutating func open(behind image: borrowing Descriptor, _ access: BlockSpecAccess, _ policy: BackingPolicy)
    throws(ImageError)
  {
    // Without leave not even the name is read; the device process says what is missing.
    if policy == .off { return }
    var path = access.path
    var link = try Self.link(of: image, path)
    while let next = link {
      guard files.count < Self.longest else {
        throw ImageError(access.path, .backing, "more than \(Self.longest) files stand behind each other")
      }
      if case .file(let name) = policy {
        guard files.isEmpty else {
          throw ImageError(
            path, .backing,
            "it has a backing file itself, \(quoted(next.name)): use backing=on, or merge them with qemu-img convert")
        }
        path = name
      } else {
        // A guest may have made a raw image look like qcow2: what it is has to be said.
        guard next.format != nil else {
          throw ImageError(
            path, .backing,
            "it does not say what format its backing file \(quoted(next.name)) has:"
              + " tell it with qemu-img rebase -u -F FORMAT")
        }
        path = try Self.resolve(next.name, from: path)
      }
      link = try add(path, next.format)
    }
    if files.isEmpty, case .file = policy {
      throw ImageError(access.path, .backing, "the image has no backing file: leave backing= out")
    }
  }

  private struct Link {
    var name: String
    var format: ImageFormat?
  }

  /// Opens one file and returns what stands behind it.
  private mutating func add(_ path: String, _ format: ImageFormat?) throws(ImageError) -> Link? {
    let access = BlockSpecAccess(path: path, writable: false, direct: direct)
    let image = try OpenedImage.openLocked(access)
    let size = try OpenedImage.size(of: image, path)
    let probed = try OpenedImage.probe(image, access)
    let format = format ?? probed
    let alignment =
      direct ? try OpenedImage.directAlignment(image, access, size, isRaw: format == .raw) : 1
    let link = format == .qcow2 ? try Self.link(of: image, path) : nil
    files.append(
      BackingFile(path: path, format: format, geometry: ImageGeometry(size: size, alignment: alignment)))
    descriptors.append(SharedDescriptor(image))
    return link
  }

  private static func link(of image: borrowing Descriptor, _ path: String) throws(ImageError) -> Link? {
    let header: QCOW2Header
    do throws(LayerError) { header = try QCOW2Header(reading: image) } catch { throw ImageError(using: path, error) }
    guard let name = header.backingFile else { return nil }
    switch header.backingFormat {
    case "raw"?: return Link(name: name, format: .raw)
    case "qcow2"?: return Link(name: name, format: .qcow2)
    case let other?:
      throw ImageError(path, .backing, "its backing file has the format \(quoted(other)); raw and qcow2 are supported")
    case nil: return Link(name: name, format: nil)
    }
  }

  /// A name in an image is relative to the image's directory.
  private static func resolve(_ name: String, from path: String) throws(ImageError) -> String {
    guard !name.hasPrefix("/") else { return name }
    let start = name.prefix { $0 != "/" }
    guard !start.contains(":") else {
      throw ImageError(path, .backing, "its backing file \(quoted(name)) is not a file's name: use backing=PATH")
    }
    guard let slash = path.lastIndex(of: "/") else { return name }
    return path[...slash] + name
  }
}

/// Text of an image in a message: printable, and not longer than a line.
func quoted(_ text: String) -> String {
  let shown = text.unicodeScalars.prefix(200).map { $0.value < 0x20 || 0x7F...0x9F ~= $0.value ? "?" : String($0) }
  return "'" + shown.joined() + "'"
}

extension QCOW2Header {
  /// Reads the header of an open image, as the launcher does for the name of a backing file.
  init(reading image: borrowing Descriptor) throws(LayerError) {
    let buffer = AlignedBuffer(count: 2 << 20)
    let start = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<4096])
    do throws(SystemError) { try image.readFilling([start], at: 0) } catch { throw .host(error) }
    let count = max(4096, try Self.bytesToRead(Array(start)))
    let whole = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
    do throws(SystemError) { try image.readFilling([whole], at: 0) } catch { throw .host(error) }
    try self.init(parsing: Array(whole))
  }
}
