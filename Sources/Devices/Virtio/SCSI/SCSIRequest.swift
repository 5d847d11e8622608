import Backends
import Synchronization

/// A disk or CD-ROM drive at a target of the host device; its logical unit 0.
// Safety: `chip` belongs to the device's worker.
final class SCSIUnit: @unchecked Sendable {
  enum Chip: Sendable {
    case disk(SCSIDisk)
    case cdrom(CDROM)
  }

  let target: Int
  var chip: Chip
  let backend: (any BlockBackend)?
  /// Bytes of the medium as of the last change that the guest has not been told of; 0: none.
  let newSize = Atomic<UInt64>(0)

  init(target: Int, chip: Chip, backend: (any BlockBackend)?) {
    self.target = target
    self.chip = chip
    self.backend = backend
  }

  func reset() {
    switch chip {
    case .disk(var disk):
      disk.reset()
      chip = .disk(disk)
    case .cdrom(var cdrom):
      cdrom.reset(attention: true)
      chip = .cdrom(cdrom)
    }
  }
}

/// A request of the driver's on its way through a backend.
// Safety: the worker touches it before it is submitted and after it has come back; in between only `left` and `failure`
// are used.
final class SCSIRequest: @unchecked Sendable {
  let queue: Int
  let token: BufferToken
  let unit: SCSIUnit
  let identifier: UInt64
  /// The driver's response and, behind it, room for data.
  let writable: [UnsafeMutableRawBufferPointer]
  /// Bytes that the driver sends, or has room for.
  let dataOut: Int
  let dataIn: Int
  /// Of those, what the command moves.
  var moved = 0
  var isWrite = false
  /// A flush follows the data.
  var isDurable = false
  let left = Atomic<Int>(0)
  let failure = Mutex<BlockError?>(nil)

  init(
    queue: Int, token: BufferToken, unit: SCSIUnit, identifier: UInt64, writable: [UnsafeMutableRawBufferPointer],
    dataOut: Int, dataIn: Int
  ) {
    self.queue = queue
    self.token = token
    self.unit = unit
    self.identifier = identifier
    self.writable = writable
    self.dataOut = dataOut
    self.dataIn = dataIn
  }
}

/// Parts of the driver's buffers.
enum SCSIBuffers {
  /// The runs of `count` bytes from byte `skipping` on.
  static func runs(
    _ source: some Sequence<UnsafeMutableRawBufferPointer>, skipping: Int, count: Int
  ) -> [UnsafeMutableRawBufferPointer] {
    var result: [UnsafeMutableRawBufferPointer] = []
    var skip = skipping
    var left = count
    for run in source where left > 0 {
      if skip >= run.count {
        skip -= run.count
        continue
      }
      let part = min(run.count - skip, left)
      result.append(UnsafeMutableRawBufferPointer(rebasing: run[skip..<skip + part]))
      left -= part
      skip = 0
    }
    return result
  }

  static func store(_ bytes: [UInt8], at offset: Int, in target: [UnsafeMutableRawBufferPointer]) {
    var done = 0
    for run in runs(target, skipping: offset, count: bytes.count) {
      run.copyBytes(from: bytes[done..<done + run.count])
      done += run.count
    }
  }
}
