import DeviceKit
import GuestMemory
import MachineModel

/// The memory balloon (virtio 1.2 §5.5): pages that the guest puts into it, and those that it reports as free, go back
/// to the host and read as zeros when they are used again.
public final class VirtioBalloon: VirtioDevice, @unchecked Sendable {
  /// §5.5.2. Linux before 6.11 leaves out the numbers of queues whose feature is not there, later ones do not; so all
  /// are there up to the one that is wanted.
  private enum Queue {
    static let inflate = 0
    static let deflate = 1
    static let statistics = 2
    static let freePageHints = 3
    static let reporting = 4
    static let count = 5
  }

  /// §5.5.3.
  private enum Feature {
    static let statistics = VirtioFeatures(bit: 1)
    static let deflateOnOOM = VirtioFeatures(bit: 2)
    static let freePageHints = VirtioFeatures(bit: 3)
    static let pagePoison = VirtioFeatures(bit: 4)
    static let pageReporting = VirtioFeatures(bit: 5)
  }

  /// §5.5.4. The free page hints' command at 8 stays 0: none are wanted.
  private enum Field {
    /// Pages that the guest is asked to put into the balloon.
    static let pages = 0
    /// Pages that are in it, as the driver says.
    static let actual = 4..<8
    /// What the guest's free pages are filled with.
    static let poison = 12..<16
    static let size = 16
  }

  /// The unit of page numbers, whatever the guest's pages are (§5.5.6).
  static let pageSize: UInt64 = 4096
  /// Page numbers that are read at a time, and that one buffer may hold; Linux sends 256.
  private static let batch = 1024
  private static let maximumNumbers = 64 << 10

  /// `pages`: how many the guest is asked for.
  init(id: String, pages: UInt32, reporting: Bool, board: Board) throws(DeviceError) {
    var features: VirtioFeatures = [Feature.statistics, Feature.deflateOnOOM, Feature.freePageHints]
    if reporting { features.formUnion([Feature.pageReporting, Feature.pagePoison]) }
    var configuration = [UInt8](repeating: 0, count: Field.size)
    configuration.store(UInt64(pages), at: Field.pages, count: 4)
    try super.init(
      id: id, kind: VirtioKind(id: 5, transitionalID: 0x1002, pciClass: 0x00FF00), features: features,
      queues: (0..<Queue.count).map { _ in QueueSpec(size: 128) }, configuration: configuration, board: board)
  }

  public override func isWritable(configuration offset: Int) -> Bool {
    Field.actual.contains(offset) || Field.poison.contains(offset)
  }

  public override func process(_ queue: Int) throws(VirtqueueFault) -> Bool {
    // The buffer of statistics is kept: giving it back asks for new ones (§5.5.6.3), which nobody looks at.
    if queue == Queue.statistics { return try queues[queue].take() != nil }
    var worked = false
    while let chain = try queues[queue].take() {
      switch queue {
      case Queue.inflate: try inflate(chain)
      case Queue.reporting: report(chain)
      // A page that leaves the balloon is the guest's again without more.
      default: break
      }
      queues[queue].put(chain.token, written: 0)
      worked = true
    }
    return worked
  }

  /// Gives back the pages whose numbers the buffer holds, neighbours together.
  private func inflate(_ chain: DescriptorChain) throws(VirtqueueFault) {
    guard chain.readableCount <= Self.maximumNumbers * 4 else { throw .request }
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.batch) { numbers in
      var run: Range<UInt64> = 0..<0
      var offset = 0
      while true {
        let count = chain.read(at: offset, into: UnsafeMutableRawBufferPointer(numbers)) / 4
        guard count > 0 else { break }
        offset += count * 4
        for number in numbers[..<count] {
          let page = UInt64(UInt32(littleEndian: number))
          if page == run.upperBound, !run.isEmpty {
            run = run.lowerBound..<page + 1
          } else if page + 1 == run.lowerBound, !run.isEmpty {
            run = page..<run.upperBound
          } else {
            discard(run)
            run = page..<page + 1
          }
        }
      }
      discard(run)
    }
  }

  private func discard(_ pages: Range<UInt64>) {
    guard !pages.isEmpty else { return }
    // A page that is no RAM is the driver's mistake and nobody's loss.
    try? memory.discard(pages.lowerBound * Self.pageSize, pages.count * Int(Self.pageSize))
  }

  /// Free pages (§5.5.6.7): what is in them may be lost, but for a pattern that the guest goes by.
  private func report(_ chain: DescriptorChain) {
    guard !accepted.contains(Feature.pagePoison) || configuration[Field.poison].allSatisfy({ $0 == 0 }) else { return }
    for run in chain.writable { memory.discard(run) }
  }

  public static let model = VirtioModel(
    name: "virtio-balloon", summary: "virtio memory balloon; the guest's free memory goes back to the host",
    options: [
      OptionSpec(
        "inflate", .size(0...(UInt64(UInt32.max) * pageSize)), default: .integer(0),
        "memory that the guest is asked to give up"),
      OptionSpec(
        "free-page-reporting", .boolean, default: .boolean(true), "give back what the guest reports as free"),
    ]
  ) { (id, properties, board) throws(DeviceError) in
    let pages = (properties.integer("inflate") ?? 0) / pageSize
    return try VirtioBalloon(
      id: id, pages: UInt32(clamping: pages), reporting: properties.boolean("free-page-reporting"), board: board)
  }
}
