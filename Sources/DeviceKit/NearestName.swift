/// The candidate with the fewest edits from `name`; nil when all are too far to be a slip of the keys (more than
/// a third of the letters, at least two).
public func nearestName(to name: String, among candidates: some Sequence<String>) -> String? {
  let limit = max(2, name.count / 3)
  let nearest = candidates.map { (distance: editDistance(name.lowercased(), $0.lowercased()), name: $0) }
    .min { ($0.distance, $0.name) < ($1.distance, $1.name) }
  guard let nearest, nearest.distance <= min(limit, nearest.name.count - 1) else { return nil }
  return nearest.name
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other (optimal
/// string alignment).
func editDistance(_ first: String, _ second: String) -> Int {
  let first = Array(first.utf8)
  let second = Array(second.utf8)
  var beforePrevious: [Int] = []
  var previous = Array(0...second.count)
  for row in first.indices {
    var current = [row + 1]
    for column in second.indices {
      var best = min(previous[column + 1] + 1, current[column] + 1)
      best = min(best, previous[column] + (first[row] == second[column] ? 0 : 1))
      if row > 0, column > 0, first[row] == second[column - 1], first[row - 1] == second[column] {
        best = min(best, beforePrevious[column - 1] + 1)
      }
      current.append(best)
    }
    beforePrevious = previous
    previous = current
  }
  return previous[second.count]
}
