import CPU

/// Programs of SSE2 double precision, packed and scalar.
@main enum SSE2: Guest {
  static let name: StaticString = "sse2"

  static func run() {
    Program(name: "dot") { dotProduct() }.run()
    Program(name: "matrix") { matrixProduct() }.run()
    Program(name: "mandelbrot") { mandelbrot() }.run()
    Program(name: "nbody") { bodies() }.run()
    Program(name: "spectral") { spectralNorm() }.run()
  }

  /// Packed: of vectors that fit into the first cache.
  @inline(never) static func dotProduct() -> UInt64 {
    let a = Area(0).of(SIMD2<Double>.self)
    let b = Area(1).of(SIMD2<Double>.self)
    for index in 0..<1024 {
      a[index] = SIMD2(Double(index), 1 / Double(index &+ 1))
      b[index] = SIMD2(0.5, Double(index) * 0.25)
    }
    var total = SIMD2<Double>(0, 0)
    for _ in 0..<36_000 {
      var (even, odd) = (SIMD2<Double>(0, 0), SIMD2<Double>(0, 0))
      for index in 0..<512 {
        even += a[2 &* index] * b[2 &* index]
        odd += a[2 &* index &+ 1] * b[2 &* index &+ 1]
      }
      total += (even + odd) * 0.0001
      a[0] += total * 1e-9
    }
    return (total.x + total.y).bitPattern
  }

  /// Packed: 96 by 96.
  @inline(never) static func matrixProduct() -> UInt64 {
    let size = 96
    let a = Area(0).of(Double.self)
    let b = Area(1).of(SIMD2<Double>.self)
    let c = Area(2).of(SIMD2<Double>.self)
    for index in 0..<size &* size { a[index] = Double(index % 17) * 0.125 }
    for index in 0..<size &* size / 2 { b[index] = SIMD2(Double(index % 13), Double(index % 11) * 0.5) }
    var sum = 0.0
    for round in 0..<84 {
      for row in 0..<size {
        for column in 0..<size / 2 {
          var value = SIMD2<Double>(0, 0)
          for index in 0..<size {
            value += SIMD2(repeating: a[row &* size &+ index]) * b[index &* (size / 2) &+ column]
          }
          c[row &* (size / 2) &+ column] = value
        }
      }
      sum += c[round].x - c[round &* 5].y
    }
    return sum.bitPattern
  }

  /// Scalar: 160 by 120 points, up to 200 iterations.
  @inline(never) static func mandelbrot() -> UInt64 {
    var sum: UInt64 = 0
    for _ in 0..<20 {
      for row in 0..<120 {
        for column in 0..<160 {
          let (x, y) = (Double(column) * (3.0 / 160) - 2.1, Double(row) * (2.4 / 120) - 1.2)
          var (real, imaginary) = (0.0, 0.0)
          var count: UInt64 = 0
          while count < 200 {
            let (square, other) = (real * real, imaginary * imaginary)
            if square + other > 4 { break }
            imaginary = 2 * real * imaginary + y
            real = square - other + x
            count &+= 1
          }
          sum = sum &* 31 &+ count
        }
      }
    }
    return sum
  }

  /// Scalar with square roots and divisions: five bodies attract each other.
  @inline(never) static func bodies() -> UInt64 {
    // Of each body: position, velocity, mass.
    let body = Area(0).of(Double.self)
    for index in 0..<5 {
      let place = Double(index) + 1
      body[7 &* index] = place * 1.5
      body[7 &* index &+ 1] = place * place * 0.3
      body[7 &* index &+ 2] = 2 - place
      body[7 &* index &+ 3] = 0.1 * place
      body[7 &* index &+ 4] = 0.2 - 0.05 * place
      body[7 &* index &+ 5] = 0.01
      body[7 &* index &+ 6] = 1 / place
    }
    let step = 0.001
    for _ in 0..<400_000 {
      for i in 0..<5 {
        let a = body + 7 &* i
        for j in i &+ 1..<5 {
          let b = body + 7 &* j
          let (dx, dy, dz) = (a[0] - b[0], a[1] - b[1], a[2] - b[2])
          let square = dx * dx + dy * dy + dz * dz
          let pull = step / (square * square.squareRoot())
          let (toA, toB) = (b[6] * pull, a[6] * pull)
          a[3] -= dx * toA
          a[4] -= dy * toA
          a[5] -= dz * toA
          b[3] += dx * toB
          b[4] += dy * toB
          b[5] += dz * toB
        }
      }
      for i in 0..<5 {
        let a = body + 7 &* i
        a[0] += step * a[3]
        a[1] += step * a[4]
        a[2] += step * a[5]
      }
    }
    var sum = 0.0
    for index in 0..<35 { sum += body[index] }
    return sum.bitPattern
  }

  /// Scalar with conversions and divisions: an infinite matrix, times a vector.
  @inline(never) static func spectralNorm() -> UInt64 {
    let size = 220
    let u = Area(0).of(Double.self)
    let v = Area(1).of(Double.self)
    for index in 0..<size { u[index] = 1 }
    for _ in 0..<400 {
      multiply(u, v, size, transposed: false)
      multiply(v, u, size, transposed: true)
    }
    var sum = 0.0
    for index in 0..<size { sum += u[index] * v[index] }
    return sum.squareRoot().bitPattern
  }

  private static func multiply(
    _ vector: UnsafeMutablePointer<Double>, _ result: UnsafeMutablePointer<Double>, _ size: Int, transposed: Bool
  ) {
    for i in 0..<size {
      var sum = 0.0
      for j in 0..<size {
        let diagonal = i &+ j
        let entry = diagonal &* (diagonal &+ 1) / 2 &+ (transposed ? j : i) &+ 1
        sum += vector[j] / Double(entry)
      }
      result[i] = sum
    }
  }
}
