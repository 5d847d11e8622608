import LinuxSystem

/// Memory aligned to 4 KiB, as direct I/O asks for.
// Safety: the bytes live as long as the owner and are used by the one request that holds it.
final class AlignedBuffer: @unchecked Sendable {
  let bytes: UnsafeMutableRawBufferPointer

  init(count: Int) {
    bytes = .allocate(byteCount: max(count, 1), alignment: 4096)
    fillWithZeroes(bytes)
  }

  deinit { bytes.deallocate() }
}

/// The parts of `buffers` that hold bytes `start..<start + count` of their concatenation.
func slice(_ buffers: [UnsafeMutableRawBufferPointer], _ start: Int, _ count: Int) -> [UnsafeMutableRawBufferPointer] {
  var result: [UnsafeMutableRawBufferPointer] = []
  var skip = start
  var left = count
  for buffer in buffers where left > 0 {
    guard skip < buffer.count else {
      skip -= buffer.count
      continue
    }
    let run = min(left, buffer.count - skip)
    result.append(UnsafeMutableRawBufferPointer(rebasing: buffer[skip..<skip + run]))
    skip = 0
    left -= run
  }
  return result
}

/// Copies the start of `flat` over all of `buffers`.
func scatter(_ flat: UnsafeMutableRawBufferPointer, _ buffers: [UnsafeMutableRawBufferPointer]) {
  var done = 0
  for buffer in buffers {
    let run = min(buffer.count, flat.count - done)
    buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: flat[done..<done + run]))
    done += run
  }
}

/// Copies all of `buffers` to the start of `flat`.
func gather(_ buffers: [UnsafeMutableRawBufferPointer], _ flat: UnsafeMutableRawBufferPointer) {
  var done = 0
  for buffer in buffers {
    let run = min(buffer.count, flat.count - done)
    UnsafeMutableRawBufferPointer(rebasing: flat[done..<done + run]).copyMemory(
      from: UnsafeRawBufferPointer(rebasing: buffer[0..<run]))
    done += run
  }
}
