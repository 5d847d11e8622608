import Backends

/// Consecutive blocks on their way between medium and drive. A request that fails is tried again in halves, so the
/// blocks before a bad one are transferred and the bad one is known by its number.
struct MediumRun: Sendable {
  enum Step: Sendable, Equatable {
    /// Ask for `nextPart`.
    case more
    case finished
    /// Block `block` cannot be read or written.
    case failed(BlockError)
  }

  /// Next block on the medium.
  private(set) var block: UInt64
  /// Blocks of the run that were transferred.
  private(set) var done = 0
  private(set) var left: Int
  private var limit: Int

  init(block: UInt64, count: Int) {
    self.block = block
    left = count
    limit = max(count, 1)
  }

  /// Blocks to ask for next.
  var nextPart: Int { min(left, limit) }

  /// Takes the outcome of the request for `nextPart` blocks.
  mutating func finish(_ result: Result<Void, BlockError>) -> Step {
    let part = nextPart
    switch result {
    case .success:
      block &+= UInt64(part)
      done += part
      left -= part
      return left > 0 ? .more : .finished
    case .failure(let error):
      // No part of a medium that refuses writes as a whole would fare better.
      guard part > 1, error != .readOnly else { return .failed(error) }
      limit = part / 2
      return .more
    }
  }
}
