import CPU

/// Programs of integer instructions, without SSE: what compilers make of everyday loops.
@main enum Integer: Guest {
  static let name: StaticString = "integer"

  static func run() {
    Program(name: "sieve") { sieve() }.run()
    Program(name: "crc32") { crc32() }.run()
    Program(name: "memcpy") { copy() }.run()
    Program(name: "xor") { xor() }.run()
    Program(name: "calls") { calls(depth: 38) }.run()
    Program(name: "bytecode") { bytecode() }.run()
    Program(name: "pages") { pages() }.run()
    Program(name: "sort") { sort() }.run()
    Program(name: "hash") { hash() }.run()
    Program(name: "words") { words() }.run()
    Program(name: "modpow") { modularPowers() }.run()
    Program(name: "queens") { queens() }.run()
  }

  /// The primes below 2,000,000 by Eratosthenes.
  @inline(never) static func sieve() -> UInt64 {
    let limit = 2_000_000
    let composite = Area(0).of(UInt8.self)
    var count: UInt64 = 0
    for _ in 0..<60 {
      for index in 0..<limit { composite[index] = 0 }
      for factor in 2..<limit where composite[factor] == 0 {
        count &+= 1
        var multiple = factor &* factor
        while multiple < limit {
          composite[multiple] = 1
          multiple &+= factor
        }
      }
    }
    return count
  }

  /// A megabyte, a byte at a time through the table of 256.
  @inline(never) static func crc32() -> UInt64 {
    let table = Area(0).of(UInt32.self)
    for index in 0..<256 {
      var value = UInt32(truncatingIfNeeded: index)
      for _ in 0..<8 { value = value >> 1 ^ (value & 1 == 0 ? 0 : 0xEDB8_8320) }
      table[index] = value
    }
    let bytes = fill(Area(1).of(UInt64.self), 1 << 20)
    var crc: UInt32 = 0xFFFF_FFFF
    for _ in 0..<160 {
      for index in 0..<1 << 20 { crc = crc >> 8 ^ table[Int(UInt8(truncatingIfNeeded: crc) ^ bytes[index])] }
    }
    return UInt64(~crc)
  }

  /// Blocks of 64 bytes to 1 MiB with REP MOVSB, as Linux copies.
  @inline(never) static func copy() -> UInt64 {
    let source = fill(Area(0).of(UInt64.self), 2 << 20)
    let target = Area(1).of(UInt8.self)
    var sum: UInt64 = 0
    for _ in 0..<6 {
      var size = 64
      while size <= 1 << 20 {
        for block in 0..<min(4096, (1 << 20) / size) {
          let offset = block &* 64 & 0xF_FFFF
          target.update(from: source + offset, count: size)
        }
        sum &+= UInt64(target[size &- 1])
        size *= 4
      }
    }
    return sum
  }

  /// 64-bit words from one buffer into another.
  @inline(never) static func xor() -> UInt64 {
    let source = Area(0).of(UInt64.self)
    let target = Area(1).of(UInt64.self)
    _ = fill(source, 1 << 20)
    var sum: UInt64 = 0
    for round in 0..<240 {
      let key = UInt64(truncatingIfNeeded: round) &* 0x0101_0101_0101_0101
      for index in 0..<1 << 17 { target[index] = source[index] ^ key }
      sum &+= target[round]
    }
    return sum
  }

  /// Fibonacci numbers by their definition: a call and a return for every few instructions.
  @inline(never) static func calls(depth: UInt64) -> UInt64 {
    depth < 2 ? depth : calls(depth: depth &- 1) &+ calls(depth: depth &- 2)
  }

  /// A register machine whose loop jumps through a table for each of its instructions.
  @inline(never) static func bytecode() -> UInt64 {
    let code = Area(0).of(UInt8.self)
    let program: InlineArray<24, UInt8> = [
      0, 1, 4, 2, 9, 5, 3, 8, 6, 7, 10, 11, 1, 9, 4, 3, 5, 12, 0, 13, 2, 6, 14, 15,
    ]
    for index in program.indices { code[index] = program[index] }
    var (a, b, c): (UInt64, UInt64, UInt64) = (1, 2, 3)
    var rounds = 4_000_000
    var next = 0
    while true {
      let operation = code[next]
      next &+= 1
      switch operation {
      case 0: a &+= b
      case 1: b ^= c
      case 2: c &+= a >> 3
      case 3: a = a &* 0x5851_F42D_4C95_7F2D
      case 4: swap(&a, &b)
      case 5: c &-= b
      case 6: b = b << 1 | b >> 63
      case 7: a ^= a >> 17
      case 8: c |= a & 0xFF
      case 9: b &+= 12345
      case 10: if a & 1 == 0 { next &+= 1 }
      case 11: c &+= 1
      case 12: a &-= c
      case 13: b &= ~(c & 7)
      case 14: c ^= b << 5
      default:
        rounds &-= 1
        if rounds == 0 { return a ^ b ^ c }
        next = 0
      }
    }
  }

  /// One word in each of 16384 pages, in random order.
  @inline(never) static func pages() -> UInt64 {
    let words = Area(0).of(UInt64.self)
    for page in 0..<16384 { words[page &* 512] = UInt64(page) }
    var random = Random()
    var sum: UInt64 = 0
    for _ in 0..<5_000_000 {
      let page = Int(truncatingIfNeeded: random.next() >> 20 & 16383)
      words[page &* 512] &+= 1
      sum ^= words[page &* 512]
    }
    return sum
  }

  /// Quicksort of 1,000,000 numbers.
  @inline(never) static func sort() -> UInt64 {
    let numbers = Area(0).of(UInt32.self)
    var random = Random()
    var sum: UInt64 = 0
    for _ in 0..<7 {
      for index in 0..<1_000_000 { numbers[index] = UInt32(truncatingIfNeeded: random.next()) }
      quicksort(numbers, 0, 999_999)
      sum = sum &* 31 &+ UInt64(numbers[500_000])
    }
    return sum
  }

  @inline(never) static func quicksort(_ numbers: UnsafeMutablePointer<UInt32>, _ first: Int, _ last: Int) {
    guard first < last else { return }
    let pivot = numbers[(first &+ last) / 2]
    var (low, high) = (first, last)
    while low <= high {
      while numbers[low] < pivot { low &+= 1 }
      while numbers[high] > pivot { high &-= 1 }
      guard low <= high else { break }
      (numbers[low], numbers[high]) = (numbers[high], numbers[low])
      low &+= 1
      high &-= 1
    }
    quicksort(numbers, first, high)
    quicksort(numbers, low, last)
  }

  /// 400,000 keys into a table of 1 << 20 with linear probing, and each looked up again.
  @inline(never) static func hash() -> UInt64 {
    let table = Area(0).of(UInt64.self)
    var found: UInt64 = 0
    for round in 0..<8 {
      for index in 0..<1 << 20 { table[index] = 0 }
      for pass in 0..<2 {
        var random = Random()
        for _ in 0..<400_000 {
          let key = random.next() &+ UInt64(round) | 1
          var slot = Int(truncatingIfNeeded: (key &* 0x9E37_79B9_7F4A_7C15) >> 44)
          while table[slot] != 0, table[slot] != key { slot = (slot &+ 1) & 0xF_FFFF }
          if pass == 0 { table[slot] = key } else if table[slot] == key { found &+= UInt64(slot) }
        }
      }
    }
    return found
  }

  /// Words, lines and one word's occurrences in a text, a byte at a time.
  @inline(never) static func words() -> UInt64 {
    let text = Area(0).of(UInt8.self)
    let size = 1 << 20
    var random = Random()
    for index in 0..<size {
      let value = random.next() >> 33
      text[index] = value % 7 == 0 ? 0x20 : value % 61 == 0 ? 0x0A : UInt8(truncatingIfNeeded: 0x61 &+ value % 5)
    }
    var (words, lines, hits): (UInt64, UInt64, UInt64) = (0, 0, 0)
    for _ in 0..<96 {
      var inWord = false
      for index in 0..<size &- 4 {
        let byte = text[index]
        if byte == 0x0A { lines &+= 1 }
        let isSpace = byte == 0x20 || byte == 0x0A
        if !isSpace, !inWord { words &+= 1 }
        inWord = !isSpace
        if byte == 0x61, text[index &+ 1] == 0x62, text[index &+ 2] == 0x63 { hits &+= 1 }
      }
    }
    return words << 40 ^ lines << 20 ^ hits
  }

  /// Powers modulo 32-bit numbers: a multiplication and a 64-bit division a bit.
  @inline(never) static func modularPowers() -> UInt64 {
    // From memory, so that the compiler does not divide by multiplying.
    let parameters = Area(0).of(UInt64.self)
    parameters[0] = 0xFFFF_FFFB
    var sum: UInt64 = 0
    for base in 2..<4_000_000 as Range<UInt64> {
      let modulus = parameters[0] &+ (sum & 2)
      var (result, power, exponent): (UInt64, UInt64, UInt64) = (1, base, 0xDEAD_BEEF_1234)
      while exponent != 0 {
        if exponent & 1 != 0 { result = product(result, power, modulus) }
        power = product(power, power, modulus)
        exponent >>= 1
      }
      sum ^= result
    }
    return sum
  }

  private static func product(_ a: UInt64, _ b: UInt64, _ modulus: UInt64) -> UInt64 {
    a &* b % modulus
  }

  /// The ways to place 12 queens, by bit masks and recursion.
  @inline(never) static func queens() -> UInt64 {
    let count = Area(0).of(UInt64.self)
    count[0] = 0
    for _ in 0..<60 { place(0, 0, 0, count) }
    return count[0]
  }

  @inline(never)
  static func place(_ columns: UInt32, _ left: UInt32, _ right: UInt32, _ count: UnsafeMutablePointer<UInt64>) {
    let all: UInt32 = 0xFFF
    if columns == all { count[0] &+= 1 }
    var free = all & ~(columns | left | right)
    while free != 0 {
      let queen = free & (0 &- free)
      free ^= queen
      place(columns | queen, (left | queen) << 1, (right | queen) >> 1, count)
    }
  }

  private static func fill(_ words: UnsafeMutablePointer<UInt64>, _ bytes: Int) -> UnsafeMutablePointer<UInt8> {
    var random = Random()
    for index in 0..<bytes / 8 { words[index] = random.next() }
    return UnsafeMutableRawPointer(words).assumingMemoryBound(to: UInt8.self)
  }
}
