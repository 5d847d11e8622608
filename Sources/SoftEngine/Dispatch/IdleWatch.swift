/// Notices that a vCPU has had next to nothing to do for a while. Then what it keeps of the guest's code can go: an idle
/// guest uses little of it, and making that again costs milliseconds.
struct IdleWatch {
  /// Nanoseconds that are judged at a time.
  var period: UInt64 = 5_000_000_000
  /// Parts of a period: awake for less it is idle, awake for more it is busy.
  private static let idleFraction: UInt64 = 32
  private static let busyFraction: UInt64 = 8
  /// So many blocks an idle vCPU keeps: its clock needs some hundred, a program that is started now and then many more.
  static let blocksKept = 4096

  private var start: UInt64?
  private var asleep: UInt64 = 0
  /// It has become idle and has not been busy since.
  private(set) var isIdle = false

  mutating func slept(_ nanoseconds: UInt64) { asleep &+= nanoseconds }

  /// Whether what it keeps can go: once when it becomes idle, and while it is idle whenever that is more than
  /// `blocksKept` again. `now` is in nanoseconds.
  mutating func becomesIdle(at now: UInt64, blocks: Int) -> Bool {
    guard let start else {
      start = now
      return false
    }
    let elapsed = now &- start
    guard elapsed >= period else { return false }
    let awake = elapsed &- min(asleep, elapsed)
    self.start = now
    asleep = 0
    if awake > elapsed / Self.busyFraction { isIdle = false }
    guard awake < elapsed / Self.idleFraction, !isIdle || blocks > Self.blocksKept else { return false }
    isIdle = true
    return true
  }
}
