import Glibc

/// A file of random bytes for as long as the value lives, so that no contender has holes to read or blocks to find.
struct ScratchImage: ~Copyable {
  let path: String

  init(_ path: String, megabytes: Int) throws {
    self.path = path
    let run = try ChildRun(["dd", "if=/dev/urandom", "of=\(path)", "bs=1M", "count=\(megabytes)"])
    guard run.status == 0 else { throw BenchError("\(path): dd ended with status \(run.status)") }
  }

  deinit { unlink(path) }
}
