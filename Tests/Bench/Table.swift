/// Samples of one quantity.
struct Samples {
  private var values: [Double] = []

  init(_ values: [Double] = []) { self.values = values }

  mutating func add(_ value: Double) { values.append(value) }

  var median: Double { percentile(50) }

  /// The smallest sample that at least `percent` in a hundred do not exceed.
  func percentile(_ percent: Int) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? .nan : sorted[max(0, (sorted.count * percent + 99) / 100 - 1)]
  }
}

/// What a measurement prints.
protocol Report {
  var text: String { get }
}

/// One measurement: the contenders' times in seconds, vmrun's first, and its median as a multiple of theirs.
struct Table: Report {
  private let title: String
  /// What multiple of the second contender's median vmrun is to reach.
  private let goal: Double?
  /// What vmrun's median is to be at most, in seconds.
  private let limit: Double?
  private let rows: [(name: String, median: Double, high: Double)]

  init(
    _ title: String, goal: Double? = nil, limit: Double? = nil, _ rows: [(name: String, median: Double, high: Double)]
  ) {
    (self.title, self.goal, self.limit, self.rows) = (title, goal, limit, rows)
  }

  var text: String {
    var lines = title.padded(to: 40) + "median".aligned(to: 12) + "99%".aligned(to: 12) + "vmrun is".aligned(to: 12)
    for (index, row) in rows.enumerated() {
      lines += "\n" + "  \(row.name)".padded(to: 40)
      lines += time(row.median).aligned(to: 12) + time(row.high).aligned(to: 12)
      guard index > 0 else {
        if let limit { lines += "goal:".aligned(to: 18) + " \(time(limit))" }
        continue
      }
      lines += (decimal(rows[0].median / row.median, places: 2) + " x").aligned(to: 12)
      if index == 1, let goal { lines += "   goal: \(decimal(goal, places: 1)) x" }
    }
    return lines + "\n"
  }
}

func time(_ seconds: Double) -> String {
  switch seconds {
  case ..<1e-3: decimal(seconds * 1e6, places: 1) + " us"
  case ..<1: decimal(seconds * 1e3, places: 1) + " ms"
  default: decimal(seconds, places: 2) + " s"
  }
}

func decimal(_ value: Double, places: Int) -> String {
  guard value.magnitude < 1e9 else { return "-" }
  let scale = (0..<places).reduce(1) { scale, _ in scale * 10 }
  let number = Int((value * Double(scale)).rounded())
  return "\(number / scale)." + String(number % scale + scale).dropFirst()
}

extension String {
  func padded(to width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
  func aligned(to width: Int) -> String { String(repeating: " ", count: max(0, width - count)) + self }
}
