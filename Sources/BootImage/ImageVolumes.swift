/// The file systems of a disk image that can be read.
final class ImageVolumes: BootVolumes {
  private struct Volume {
    let partition: Partition
    let range: DiskRange
    let fileSystem: any ImageFileSystem
  }

  private var volumes: [Volume] = []
  /// What there is on the disk, a phrase each: for an error that says where nothing was found.
  private(set) var contents: [String] = []
  /// What was wrong and passed over.
  private(set) var remarks: [String] = []

  /// Partitions that are looked at.
  private static let limit = 256

  init(_ disk: Disk) throws(BootImageError) {
    let whole = DiskRange(disk)
    let table = try PartitionTable(whole)
    remarks = table.remarks
    for partition in table.partitions.prefix(Self.limit) {
      let range = DiskRange(disk, start: partition.start, size: partition.size)
      switch try FoundFileSystem(range) {
      case .readable(let fileSystem):
        volumes.append(Volume(partition: partition, range: range, fileSystem: fileSystem))
        contents.append("\(partition.description) is \(fileSystem.name)")
        if let ext = fileSystem as? ExtFileSystem, ext.needsRecovery {
          remarks.append(
            "\(partition.description) was not unmounted: files written last, such as a new kernel, may not be seen")
        }
      case .foreign(let name): contents.append("\(partition.description) is \(name), which is not read here")
      case .broken(let reason): contents.append("\(partition.description) is damaged (\(reason))")
      case .unknown: contents.append("\(partition.description) has no file system that is known here")
      }
    }
  }

  var count: Int { volumes.count }
  func partition(of volume: Int) -> Partition { volumes[volume].partition }
  func uuid(of volume: Int) -> String { volumes[volume].fileSystem.uuid }
  func label(of volume: Int) -> String { volumes[volume].fileSystem.label }

  /// Throws `notFound`, where the others give nil.
  func file(_ path: BootPath) throws(BootImageError) -> StoredFile {
    do throws(BootImageError) { return try volumes[path.volume].fileSystem.file(path.path) } catch {
      throw described(path, error)
    }
  }

  func contents(_ path: BootPath) throws(BootImageError) -> [UInt8]? {
    try ifFound { () throws(BootImageError) in
      let file = try file(path)
      do throws(BootImageError) { return try file.bytes(limit: BootLimits.configuration) } catch {
        throw described(path, error)
      }
    }
  }

  func kind(of path: BootPath) throws(BootImageError) -> PathKind? {
    try ifFound { () throws(BootImageError) in
      do throws(BootImageError) {
        let fileSystem = volumes[path.volume].fileSystem
        if try fileSystem.isDirectory(path.path) { return PathKind.directory }
        return PathKind.file(isEmpty: try fileSystem.file(path.path).count == 0)
      } catch { throw described(path, error) }
    }
  }

  func names(in path: BootPath) throws(BootImageError) -> [String] {
    try ifFound { () throws(BootImageError) in
      do throws(BootImageError) { return try volumes[path.volume].fileSystem.names(in: path.path) } catch {
        throw described(path, error)
      }
    } ?? []
  }

  private func ifFound<Value>(_ body: () throws(BootImageError) -> Value) throws(BootImageError) -> Value? {
    do throws(BootImageError) { return try body() } catch {
      guard error.kind == .notFound else { throw error }
      return nil
    }
  }

  private func described(_ path: BootPath, _ error: BootImageError) -> BootImageError {
    BootImageError(error.kind, "\(path.path) on \(volumes[path.volume].partition.description): \(error.description)")
  }
}
