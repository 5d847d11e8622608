import Glibc

/// The times of each of a ROM's programs, from the marks that it writes to COM1: `begin name`, `end name result`.
struct ProgramTimes {
  let contender: String
  private(set) var names: [String] = []
  private(set) var results: [String: String] = [:]
  private var samples: [String: Samples] = [:]

  init(_ contender: String) { self.contender = contender }

  mutating func add(_ run: ChildRun) throws {
    var start: UInt64 = 0
    var isWhole = false
    for (text, time) in run.lines {
      let words = text.split(separator: " ").map(String.init)
      switch (words.first, words.count) {
      case ("begin", 2): start = time
      case ("end", 3):
        if results.updateValue(words[2], forKey: words[1]) == nil { names.append(words[1]) }
        samples[words[1], default: Samples()].add(Double(time - start) / 1e9)
      case ("PASS", _): isWhole = true
      default: break
      }
    }
    guard isWhole else { throw BenchError("\(contender) ended with status \(run.status) and wrote: \(run.text)") }
  }

  /// In seconds.
  func median(of program: String) -> Double { samples[program]?.median ?? .nan }
}

/// Programs, their times and vmrun's speed as a multiple of the other's.
struct SpeedTable: Report {
  private let title: String
  private let goal: Double
  private let contenders: (String, String)
  private let rows: [(name: String, ours: Double, theirs: Double)]

  /// A program with another result is an error.
  init(_ title: String, goal: Double, _ ours: ProgramTimes, _ theirs: ProgramTimes) throws {
    guard ours.results == theirs.results else {
      throw BenchError("\(title): results differ: \(ours.results), \(theirs.results)")
    }
    (self.title, self.goal) = (title, goal)
    contenders = (ours.contender, theirs.contender)
    rows = ours.names.map { ($0, ours.median(of: $0), theirs.median(of: $0)) }
  }

  var text: String {
    var lines = title.padded(to: 40) + contenders.0.aligned(to: 12) + contenders.1.aligned(to: 12)
    lines += "speed".aligned(to: 12)
    for row in rows {
      lines += "\n" + "  \(row.name)".padded(to: 40) + time(row.ours).aligned(to: 12) + time(row.theirs).aligned(to: 12)
      lines += (decimal(row.theirs / row.ours, places: 2) + " x").aligned(to: 12)
    }
    let mean = exp(rows.reduce(0) { $0 + log($1.theirs / $1.ours) } / Double(max(1, rows.count)))
    lines += "\n" + "  geometric mean".padded(to: 64) + (decimal(mean, places: 2) + " x").aligned(to: 12)
    return lines + "   goal: \(decimal(goal, places: 2)) x\n"
  }
}
