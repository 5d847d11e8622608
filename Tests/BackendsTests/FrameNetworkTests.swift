import Glibc
import LinuxSystem
import MachineModel
import TestKit
import Testing

@testable import Backends

@Suite struct FrameNetworkTests {
  private let lines = Lines()

  private func network(
    _ framing: Framing, _ connection: CInt
  ) throws -> FrameNetwork {
    try FrameNetwork("net0", framing, connection: Descriptor(owning: connection), report: lines.add)
  }

  // MARK: Streams

  @Test func aStreamCarriesEachFrameBehindItsLength() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    #expect(network.send([Array(frame(1).prefix(20)), Array(frame(1).dropFirst(20))]))
    #expect(readSome(far.raw) == onStream(frame(1)))
    let receiver = FrameReceiver()
    network.start(receiver)
    let bytes = onStream(frame(2)) + onStream(frame(3, count: 65_553)) + onStream(frame(4, count: 14))
    // In pieces that respect no frame.
    for start in stride(from: 0, to: bytes.count, by: 999) {
      writeAll(far.raw, Array(bytes[start..<min(start + 999, bytes.count)]))
    }
    #expect(eventually { receiver.frames.count == 3 })
    #expect(receiver.bytes == [frame(2), frame(3, count: 65_553), frame(4, count: 14)])
    #expect(receiver.frames.allSatisfy { $0.header == FrameHeader() })
  }

  @Test func whatIsNoFrameIsNeitherSentNorHandedOver() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let receiver = FrameReceiver()
    network.start(receiver)
    #expect(network.send([frame(1, count: 13)]))
    #expect(network.send([frame(1, count: FrameLength.maximum + 1)]))
    #expect(network.send([frame(2)]))
    #expect(readSome(far.raw) == onStream(frame(2)))
    writeAll(far.raw, onStream([]) + onStream(frame(3, count: 13)) + onStream(frame(4)))
    #expect(eventually { receiver.bytes == [frame(4)] })
  }

  @Test func aPeerThatSendsNonsenseLosesItsConnection() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let receiver = FrameReceiver()
    network.start(receiver)
    writeAll(far.raw, onStream(frame(1)) + bigEndian(FrameLength.maximum + 1, 4))
    #expect(eventually { !network.isLinkUp && receiver.linkChanges == 1 })
    #expect(receiver.bytes == [frame(1)])
    #expect(lines.all.count == 1)
    // Without link everything is lost, as on a cable.
    #expect(network.send([frame(2)]))
  }

  @Test func aFullStreamRefusesAndTellsWhenThereIsRoom() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let receiver = FrameReceiver()
    network.start(receiver)
    var sent = 0
    while network.send([frame(sent, count: 1500)]) { sent += 1 }
    #expect(sent > 10)
    #expect(receiver.sendables == 0)
    var bytes: [UInt8] = []
    while bytes.count < sent * 1504 {
      let some = readSome(far.raw)
      guard !some.isEmpty else { break }
      bytes += some
    }
    #expect(eventually { receiver.sendables == 1 })
    #expect(bytes == (0..<sent).flatMap { onStream(frame($0, count: 1500)) })
    #expect(network.send([frame(sent, count: 1500)]))
    #expect(readSome(far.raw) == onStream(frame(sent, count: 1500)))
  }

  @Test func aStreamGetsSegmentsWithChecksums() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let packet = Packet(payload: frame(1, count: 10_000))
    #expect(
      network.send(
        [Array(packet.unfinished.prefix(54)), Array(packet.unfinished.dropFirst(54))], packet.header(segments: 1460)))
    #expect(readSome(far.raw) == packet.segments(of: 1460).flatMap(onStream))
    let small = Packet(isTCP: false, payload: [1, 2, 3])
    #expect(network.send([small.unfinished], small.header))
    #expect(readSome(far.raw) == onStream(small.bytes))
    // What cannot be finished is lost alone.
    #expect(network.send([small.unfinished], small.header(segments: 10)))
    #expect(network.send([frame(1)]))
    #expect(readSome(far.raw) == onStream(frame(1)))
  }

  @Test func drainGivesTheHostWhatWaits() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    var sent = 0
    while network.send([frame(sent, count: 9000)]) { sent += 1 }
    let reader = try HostThread("reader") { [raw = far.raw, sent] in
      var count = 0
      while count < sent * 9004 { count += readSome(raw).count }
    }
    network.drain()
    reader.join()
  }

  // MARK: Datagrams

  @Test func aDatagramIsAFrame() throws {
    let (near, far) = socketPair(SOCK_DGRAM)
    let network = try network(.datagram, near)
    #expect(network.send([frame(1)]))
    #expect(readSome(far.raw) == frame(1))
    let receiver = FrameReceiver()
    network.start(receiver)
    for number in 0..<100 {
      while write(far.raw, frame(number, count: 60 + number), 60 + number) < 0 { usleep(100) }
    }
    #expect(eventually { receiver.frames.count == 100 })
    #expect(receiver.bytes == (0..<100).map { frame($0, count: 60 + $0) })
    let packet = Packet(payload: frame(7, count: 4000))
    #expect(network.send([packet.unfinished], packet.header(segments: 1000)))
    for segment in packet.segments(of: 1000) { #expect(readSome(far.raw) == segment) }
  }

  @Test func aNetworkProcessGetsPacketsInOnePieceAndIsBelieved() throws {
    var far: Peer?
    let near: CInt
    (near, far) = socketPair(SOCK_SEQPACKET)
    let network = try network(.networkProcess, near)
    let raw = try #require(far).raw
    let packet = Packet(payload: frame(7, count: 60_000))
    #expect(network.send([packet.unfinished], packet.header(segments: 1460)))
    #expect(readSome(raw) == packet.bytes)
    let receiver = FrameReceiver()
    network.start(receiver)
    writeAll(raw, Self.headed(frame(1), FrameHeader(flags: .dataValid)))
    #expect(eventually { receiver.frames == [.init(bytes: frame(1), header: FrameHeader(flags: .dataValid))] })
    far = nil
    #expect(eventually { !network.isLinkUp })
  }

  private static func headed(_ frame: [UInt8], _ header: FrameHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: FrameHeader.size)
    bytes.withUnsafeMutableBytes { header.encode(to: $0) }
    return bytes + frame
  }

  @Test(arguments: [false, true]) func aLongPacketComesWholeOrInSegmentsAsTheGuestTakesIt(isIPv6: Bool) throws {
    let (near, far) = socketPair(SOCK_SEQPACKET)
    let network = try network(.networkProcess, near)
    let receiver = FrameReceiver()
    network.start(receiver)
    let packet = Packet(isIPv6: isIPv6, payload: frame(7, count: 10_000))
    let header = packet.header(segments: 1460)
    let whole = [FrameReceiver.Frame(bytes: packet.unfinished, header: header)]
    let cut = packet.segments(of: 1460).map { FrameReceiver.Frame(bytes: $0, header: FrameHeader(flags: .dataValid)) }
    var expected: [FrameReceiver.Frame] = []
    let (right, wrong): (NetworkOffloads, NetworkOffloads) = isIPv6 ? (.tso6, .tso4) : (.tso4, .tso6)
    let cases: [(NetworkOffloads, [FrameReceiver.Frame])] = [
      ([], cut), ([.checksum], cut), ([.checksum, wrong], cut), ([.checksum, right], whole), ([], cut),
    ]
    for (offloads, frames) in cases {
      network.setReceiveOffloads(offloads)
      writeAll(far.raw, Self.headed(packet.unfinished, header))
      expected += frames
      #expect(eventually { receiver.frames == expected })
    }
  }

  // MARK: A device without room

  @Test func aFrameWaitsUntilTheDeviceHasRoom() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let receiver = FrameReceiver(room: 1)
    network.start(receiver)
    writeAll(far.raw, (0..<4).flatMap { onStream(frame($0)) })
    #expect(eventually { receiver.refusals >= 2 })
    // It can still send meanwhile.
    #expect(network.send([frame(9)]))
    #expect(readSome(far.raw) == onStream(frame(9)))
    receiver.setRoom(2)
    network.resume()
    #expect(eventually { receiver.frames.count == 3 })
    receiver.setRoom(.max)
    network.resume()
    #expect(eventually { receiver.frames.count == 4 })
    #expect(receiver.bytes == (0..<4).map { frame($0) })
  }

  @Test func roomThatComesAndGoesLosesNothing() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let network = try network(.stream, near)
    let receiver = FrameReceiver(room: 0)
    network.start(receiver)
    let writer = try HostThread("writer") { [raw = far.raw] in
      for number in 0..<3000 {
        let bytes = onStream(frame(number))
        while write(raw, bytes, bytes.count) < 0 { usleep(100) }
      }
    }
    var random: UInt64 = 1
    #expect(
      eventually {
        random = random &* 6_364_136_223_846_793_005 &+ 1
        receiver.setRoom(Int(random >> 33 % 40))
        network.resume()
        return receiver.frames.count == 3000
      })
    writer.join()
    #expect(receiver.bytes == (0..<3000).map { frame($0) })
  }

  // MARK: Peers that come and go

  private func unix(_ unix: UnixNetwork) throws -> any NetworkBackend {
    let spec = NetworkSpec(id: "net0", endpoint: .unix(unix), mac: MACAddress(machine: "", index: 0))
    var opened = try openNetwork(spec)
    let connector = opened.connector
    let plan = opened.plan
    var descriptors = opened.take().descriptors.makeIterator()
    try connector?.start()
    return try makeNetworkBackend("net0", plan, report: lines.add) { () throws(SystemError) in
      guard let raw = descriptors.next() else { throw SystemError("test", errno: EINVAL) }
      return Descriptor(owning: raw)
    }
  }

  private func path() -> String { "/tmp/vmrun-net-\(monotonicNanoseconds())" }

  @Test func twoNetworksMeetOverAPathAndMeetAgain() throws {
    let path = path()
    defer { unlink(path) }
    let listener = try unix(UnixNetwork(path: path, listens: true))
    let first = FrameReceiver()
    listener.start(first)
    #expect(!listener.isLinkUp)
    #expect(listener.send([frame(0)]))
    for round in 1...3 {
      let receiver = FrameReceiver()
      let peer = try unix(UnixNetwork(path: path))
      #expect(peer.isLinkUp)
      peer.start(receiver)
      #expect(eventually { listener.isLinkUp })
      #expect(peer.send([frame(round)]))
      #expect(eventually { first.bytes.last == frame(round) })
      #expect(listener.send([frame(-round)]))
      #expect(eventually { receiver.bytes == [frame(-round)] })
      withExtendedLifetime(peer) {}
    }
    #expect(eventually { !listener.isLinkUp })
    #expect(first.linkChanges == 6)
  }

  @Test func aListenerThatComesBackIsConnectedAgain() throws {
    let path = path()
    defer { unlink(path) }
    var listener: Peer? = Peer(owning: try UnixSocket.listen(at: path).release())
    let network = try unix(UnixNetwork(path: path))
    let receiver = FrameReceiver()
    network.start(receiver)
    do {
      let connection = try UnixSocket.accept(from: try #require(listener).raw)
      writeAll(connection.raw, onStream(frame(1)))
      #expect(eventually { receiver.bytes == [frame(1)] })
    }
    listener = nil
    #expect(eventually { !network.isLinkUp })
    #expect(network.send([frame(2)]))
    unlink(path)
    listener = Peer(owning: try UnixSocket.listen(at: path).release())
    #expect(eventually { network.isLinkUp })
    let connection = try UnixSocket.accept(from: try #require(listener).raw)
    #expect(network.send([frame(3)]))
    #expect(readSome(connection.raw) == onStream(frame(3)))
  }

  @Test func twoDatagramNetworksMeetWhicheverComesFirst() throws {
    let (here, there) = (path() + "a", path() + "b")
    defer { for path in [here, there] { unlink(path) } }
    let first = try unix(UnixNetwork(kind: .dgram, path: there, local: here))
    let receiver = FrameReceiver()
    first.start(receiver)
    #expect(!first.isLinkUp)
    for round in 1...2 {
      // The connector of the round before lets go of the path a moment after its network.
      var opened: (any NetworkBackend)?
      #expect(
        eventually {
          opened = try? unix(UnixNetwork(kind: .dgram, path: here, local: there))
          return opened != nil
        })
      let second = try #require(opened)
      let other = FrameReceiver()
      second.start(other)
      #expect(
        eventually {
          _ = first.send([frame(round)])
          return other.bytes.contains(frame(round))
        })
      #expect(eventually { second.send([frame(10 + round)]) && receiver.bytes.contains(frame(10 + round)) })
      withExtendedLifetime(second) {}
    }
  }

  @Test func aPathThatCannotBeUsedIsOneLineThatSaysWhatToDo() throws {
    let missing = path()
    let file = try TemporaryFile()
    let taken = path()
    defer { unlink(taken) }
    let listener = try UnixSocket.listen(at: taken)
    for (unix, advice) in [
      (UnixNetwork(path: missing), "start the peer first, or give listen=on"),
      (UnixNetwork(path: taken, listens: true), "in use by another process"),
      (UnixNetwork(path: file.path, listens: true), "is not a socket"),
      (UnixNetwork(kind: .dgram, path: taken), "give type=stream"),
      (UnixNetwork(path: missing + String(repeating: "x", count: 90), listens: true), "at most 107 bytes"),
    ] {
      let error = #expect(throws: NetworkError.self) { _ = try self.unix(unix) }
      #expect(error?.description.contains(advice) == true, "\(String(describing: error))")
      #expect(error?.description.hasPrefix("net0: ") == true)
    }
    withExtendedLifetime(listener) {}
  }

  // MARK: Captures

  private func words(_ bytes: [UInt8]) -> [UInt32] {
    bytes.withUnsafeBytes { bytes in
      (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self) }
    }
  }

  @Test func aCaptureHasEveryFrameOfBothDirections() throws {
    let file = try TemporaryFile()
    let (near, far) = socketPair(SOCK_STREAM)
    let capture = CaptureFile(try CaptureFile.create(file.path), id: "net0", report: lines.add)
    let network = CapturingNetwork(try network(.stream, near), to: capture)
    let receiver = FrameReceiver(room: 0)
    network.start(receiver)
    #expect(network.send([frame(1), frame(2)]))
    writeAll(far.raw, onStream(frame(3, count: 61)))
    #expect(eventually { receiver.refusals > 1 })
    receiver.setRoom(1)
    network.resume()
    #expect(eventually { receiver.frames.count == 1 })
    let size = 24 + 16 + 120 + 16 + 61
    #expect(eventually { (try? file.contents().count) == size })
    let bytes = try file.contents()
    let header: [UInt32] = [0xA1B2_3C4D, 0x0004_0002, 0, 0, 262_144, 1]
    #expect(words(Array(bytes[..<24])) == header)
    for (start, length) in [(24, UInt32(120)), (160, UInt32(61))] {
      let record = words(Array(bytes[start..<start + 16]))
      #expect(record[0] > 1_600_000_000)
      #expect(record[1] < 1_000_000_000)
      #expect(record[2] == length)
      #expect(record[3] == length)
    }
    #expect(Array(bytes[40..<160]) == frame(1) + frame(2))
    #expect(Array(bytes[176...]) == frame(3, count: 61))
  }

  @Test func aCaptureThatCannotGoOnSaysSoOnceAndTheGuestGoesOn() throws {
    let (near, far) = socketPair(SOCK_STREAM)
    let capture = CaptureFile(try Descriptor.open("/dev/full", O_WRONLY), id: "net0", report: lines.add)
    let network = CapturingNetwork(try network(.stream, near), to: capture)
    for number in 0..<3 { #expect(network.send([frame(number)])) }
    #expect(readSome(far.raw) == (0..<3).flatMap { onStream(frame($0)) })
    #expect(lines.all == ["net0: capturing ends: No space left on device"])
  }
}
