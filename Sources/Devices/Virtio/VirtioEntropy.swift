import DeviceKit
import MachineModel

/// The entropy device (virtio 1.2 §5.4): each buffer of its one queue is filled with the host's random bytes.
public final class VirtioEntropy: VirtioDevice, @unchecked Sendable {
  /// Bytes that one buffer is given at most: the driver asks again, and none can keep the device busy for long.
  private static let limit = 64 << 10

  init(id: String, board: Board) throws(DeviceError) {
    try super.init(
      id: id, kind: VirtioKind(id: 4, transitionalID: 0x1005, pciClass: 0x00FF00), features: [],
      queues: [QueueSpec(size: 64)], configuration: [], board: board)
  }

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    var random = SystemRandomNumberGenerator()
    var worked = false
    while let chain = try queues[queue].take() {
      var written = 0
      for run in chain.writable where written < Self.limit {
        let count = min(run.count, Self.limit - written)
        for start in stride(from: 0, to: count, by: 8) {
          withUnsafeBytes(of: random.next()) { bytes in
            let part = min(8, count - start)
            UnsafeMutableRawBufferPointer(rebasing: run[start..<start + part]).copyMemory(
              from: UnsafeRawBufferPointer(rebasing: bytes[..<part]))
          }
        }
        written += count
      }
      queues[queue].put(chain.token, written: UInt32(truncatingIfNeeded: written))
      worked = true
    }
    return worked
  }

  public static let model = VirtioModel(
    name: "virtio-rng", summary: "virtio entropy device with the host's random numbers"
  ) { (id, _, board) throws(DeviceError) in
    try VirtioEntropy(id: id, board: board)
  }
}
