/// Compares versions as the UAPI group's version format specification says. Negative: `left` is older.
func compareVersions(_ left: String, _ right: String) -> Int {
  var (left, right) = (Array(left.utf8)[...], Array(right.utf8)[...])
  while true {
    left = left.drop { !isVersionCharacter($0) }
    right = right.drop { !isVersionCharacter($0) }
    // A pre-release is older than the end, all else is newer than that.
    if let order = orderOfMark("~", &left, &right) {
      if order != 0 { return order }
      continue
    }
    if left.isEmpty || right.isEmpty { return left.isEmpty ? (right.isEmpty ? 0 : -1) : 1 }
    let marks: [Unicode.Scalar] = ["-", "^", "."]
    var found = false
    for mark in marks where !found {
      guard let order = orderOfMark(mark, &left, &right) else { continue }
      if order != 0 { return order }
      found = true
    }
    if found { continue }
    let order =
      left.first.map(isDigit) == true || right.first.map(isDigit) == true
      ? compareNumbers(&left, &right) : compareLetters(&left, &right)
    if order != 0 { return order }
  }
}

/// nil: neither begins with the mark. 0: both do, and it is taken off. Else the one that has it is the older.
private func orderOfMark(
  _ mark: Unicode.Scalar, _ left: inout ArraySlice<UInt8>, _ right: inout ArraySlice<UInt8>
) -> Int? {
  let byte = UInt8(ascii: mark)
  switch (left.first == byte, right.first == byte) {
  case (false, false): return nil
  case (true, false): return -1
  case (false, true): return 1
  case (true, true):
    left.removeFirst()
    right.removeFirst()
    return 0
  }
}

private func compareNumbers(_ left: inout ArraySlice<UInt8>, _ right: inout ArraySlice<UInt8>) -> Int {
  func number(_ text: inout ArraySlice<UInt8>) -> [UInt8] {
    let digits = text.prefix(while: isDigit)
    text = text[digits.endIndex...]
    return Array(digits.drop { $0 == UInt8(ascii: "0") })
  }
  let isNumber = (left.first.map(isDigit) == true, right.first.map(isDigit) == true)
  // A number is newer than letters.
  guard isNumber == (true, true) else { return isNumber.0 ? 1 : -1 }
  let numbers = (number(&left), number(&right))
  if numbers.0.count != numbers.1.count { return numbers.0.count < numbers.1.count ? -1 : 1 }
  return compareBytes(numbers.0, numbers.1)
}

private func compareLetters(_ left: inout ArraySlice<UInt8>, _ right: inout ArraySlice<UInt8>) -> Int {
  func letters(_ text: inout ArraySlice<UInt8>) -> [UInt8] {
    let letters = text.prefix(while: isLetter)
    text = text[letters.endIndex...]
    return Array(letters)
  }
  return compareBytes(letters(&left), letters(&right))
}

private func compareBytes(_ left: [UInt8], _ right: [UInt8]) -> Int {
  if left == right { return 0 }
  return left.lexicographicallyPrecedes(right) ? -1 : 1
}

private func isDigit(_ byte: UInt8) -> Bool { 0x30...0x39 ~= byte }
private func isLetter(_ byte: UInt8) -> Bool { 0x41...0x5A ~= byte || 0x61...0x7A ~= byte }
private func isVersionCharacter(_ byte: UInt8) -> Bool {
  isDigit(byte) || isLetter(byte) || "~-^.".utf8.contains(byte)
}
