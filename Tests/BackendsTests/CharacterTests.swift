import Backends
import Glibc
import LinuxSystem
import MachineModel
import Synchronization
import Testing

/// A device that takes as much input as it has room for.
final class Receiver: CharacterReceiver {
  private struct State {
    var bytes: [UInt8] = []
    var room: Int
    var sendables = 0
  }
  private let state: Mutex<State>
  init(room: Int = .max) { state = Mutex(State(room: room)) }

  func receive(_ bytes: UnsafeRawBufferPointer) -> Int {
    state.withLock { state in
      let taken = min(bytes.count, state.room)
      state.bytes += bytes[0..<taken]
      if state.room != .max { state.room -= taken }
      return taken
    }
  }
  func sendable() { state.withLock { $0.sendables += 1 } }
  func setRoom(_ room: Int) { state.withLock { $0.room = room } }
  var text: String { state.withLock { String(decoding: $0.bytes, as: UTF8.self) } }
  var count: Int { state.withLock { $0.bytes.count } }
  var sendables: Int { state.withLock { $0.sendables } }
}

/// Lines reported by a backend.
final class Lines: Sendable {
  private let lines = Mutex<[String]>([])
  func add(_ line: String) { lines.withLock { $0.append(line) } }
  var all: [String] { lines.withLock { $0 } }
}

func eventually(_ condition: () -> Bool) -> Bool {
  for _ in 0..<2000 {
    if condition() { return true }
    usleep(1000)
  }
  return condition()
}

func makePipe() -> (reading: CInt, writing: CInt) {
  var ends: [CInt] = [0, 0]
  #expect(pipe(&ends) == 0)
  return (ends[0], ends[1])
}

func send(_ backend: any CharacterBackend, _ text: String) -> Int {
  Array(text.utf8).withUnsafeBytes { backend.send($0) }
}

func write(_ raw: CInt, text: String) {
  let bytes = Array(text.utf8)
  #expect(bytes.withUnsafeBytes { Glibc.write(raw, $0.baseAddress, $0.count) } == bytes.count)
}

/// Reads until `count` bytes came or nothing comes for twenty seconds.
func readText(_ raw: CInt, count: Int) -> String {
  var bytes: [UInt8] = []
  while bytes.count < count {
    var entries = [PollEntry(raw, .readable)]
    waitForDescriptors(&entries, milliseconds: 20_000)
    guard !entries[0].ready.isEmpty else { break }
    var buffer = [UInt8](repeating: 0, count: 65536)
    let got = buffer.withUnsafeMutableBytes { read(raw, $0.baseAddress, min($0.count, count - bytes.count)) }
    guard got > 0 else { break }
    bytes += buffer[0..<got]
  }
  return String(decoding: bytes, as: UTF8.self)
}

func temporaryPath(_ name: String) -> String { "/tmp/vmrun-test-\(getpid())-\(name)" }

/// The directories in /proc of this process's threads whose names begin so.
func threadDirectories(named prefix: String) -> [String] {
  guard let directory = opendir("/proc/self/task") else { return [] }
  defer { closedir(directory) }
  var found: [String] = []
  while let entry = readdir(directory) {
    let task = withUnsafePointer(to: &entry.pointee.d_name) { name in
      name.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if readFile("/proc/self/task/\(task)/comm").hasPrefix(prefix) { found.append("/proc/self/task/\(task)") }
  }
  return found
}

func threads(named prefix: String) -> Int { threadDirectories(named: prefix).count }

/// Nanoseconds of processor time that the backends' threads of this process have used.
func backendProcessorTime() -> UInt64 {
  threadDirectories(named: "char-").reduce(0) { total, thread in
    total + (readFile("\(thread)/schedstat").split(separator: " ").first.flatMap { UInt64($0) } ?? 0)
  }
}

func readFile(_ path: String) -> String {
  guard let file = try? Descriptor.open(path, O_RDONLY) else { return "" }
  return readText(file.raw, count: 4096)
}

@Suite(.serialized) struct StreamCharacterTests {
  @Test func outputReachesTheDescriptorAndDrainWaitsForIt() throws {
    let (reading, writing) = makePipe()
    defer { close(reading) }
    let backend = try StreamCharacterBackend(output: Descriptor(owning: writing)) { _ in }
    #expect(send(backend, "hello") == 5)
    backend.drain(nanoseconds: 2_000_000_000)
    #expect(readText(reading, count: 5) == "hello")
  }

  @Test func inputIsHeldBackUntilAReceiverIsAttached() throws {
    let (reading, writing) = makePipe()
    let backend = try StreamCharacterBackend(input: Descriptor(owning: reading)) { _ in }
    write(writing, text: "early")
    let receiver = Receiver()
    backend.attach(receiver)
    #expect(eventually { receiver.text == "early" })
    close(writing)
  }

  @Test func inputThatTheReceiverRefusesIsOfferedAgain() throws {
    let (reading, writing) = makePipe()
    let backend = try StreamCharacterBackend(input: Descriptor(owning: reading)) { _ in }
    let receiver = Receiver(room: 3)
    backend.attach(receiver)
    write(writing, text: "abcdefgh")
    #expect(eventually { receiver.count == 3 })
    receiver.setRoom(4)
    backend.resumeInput()
    #expect(eventually { receiver.count == 7 })
    receiver.setRoom(.max)
    backend.resumeInput()
    #expect(eventually { receiver.text == "abcdefgh" })
    close(writing)
  }

  @Test func endOfInputLeavesOutputWorkingAndUsesNoProcessorTime() throws {
    let (reading, writing) = makePipe()
    let (outputReading, outputWriting) = makePipe()
    defer { close(outputReading) }
    let backend = try StreamCharacterBackend(
      input: Descriptor(owning: reading), output: Descriptor(owning: outputWriting)
    ) { _ in }
    backend.attach(Receiver())
    close(writing)
    let before = backendProcessorTime()
    usleep(200_000)
    #expect(backendProcessorTime() < before + 100_000_000)
    #expect(send(backend, "on") == 2)
    #expect(readText(outputReading, count: 2) == "on")
  }

  @Test func aFullPipeRefusesBytesAndSaysWhenThereIsRoom() throws {
    let (reading, writing) = makePipe()
    let backend = try StreamCharacterBackend(output: Descriptor(owning: writing)) { _ in }
    let receiver = Receiver()
    backend.attach(receiver)
    let chunk = String(repeating: "x", count: 4096)
    var total = 0
    var quiet = 0
    while quiet < 20 {
      let taken = send(backend, chunk)
      total += taken
      quiet = taken == 0 ? quiet + 1 : 0
      if taken == 0 { usleep(2000) }
    }
    #expect(total >= 64 << 10)
    let before = receiver.sendables
    #expect(readText(reading, count: total).utf8.count == total)
    #expect(eventually { receiver.sendables > before })
    #expect(send(backend, "y") == 1)
    #expect(readText(reading, count: 1) == "y")
    close(reading)
  }

  @Test func aBrokenPipeIsReportedOnceAndOutputIsDroppedFromThenOn() throws {
    let (reading, writing) = makePipe()
    close(reading)
    let lines = Lines()
    let backend = try StreamCharacterBackend(output: Descriptor(owning: writing)) { lines.add($0) }
    #expect(send(backend, "lost") == 4)
    #expect(eventually { lines.all.count == 1 })
    #expect(send(backend, String(repeating: "z", count: 100_000)) == 100_000)
    backend.drain(nanoseconds: 5_000_000_000)
    #expect(lines.all.count == 1)
    #expect(lines.all.first?.contains("Broken pipe") == true)
  }

  @Test func aFullDiskIsReportedOnce() throws {
    let lines = Lines()
    let backend = try StreamCharacterBackend(output: try Descriptor.open("/dev/full", O_WRONLY)) { lines.add($0) }
    #expect(send(backend, "lost") == 4)
    #expect(eventually { lines.all.count == 1 })
    #expect(lines.all.first?.contains("No space left") == true)
  }

  @Test func drainGivesUpAfterItsTime() throws {
    let (reading, writing) = makePipe()
    let backend = try StreamCharacterBackend(output: Descriptor(owning: writing)) { _ in }
    var quiet = 0
    while quiet < 20 {
      quiet = send(backend, String(repeating: "x", count: 4096)) == 0 ? quiet + 1 : 0
      usleep(500)
    }
    let start = monotonicNanoseconds()
    backend.drain(nanoseconds: 50_000_000)
    #expect(monotonicNanoseconds() - start < 1_500_000_000)
    close(reading)
  }

  @Test func withoutOutputBytesAreDropped() throws {
    let backend = try StreamCharacterBackend { _ in }
    #expect(send(backend, "gone") == 4)
    backend.drain(nanoseconds: 1_000_000_000)
  }
}

@Suite(.serialized) struct CharacterEndpointTests {
  private func open(_ endpoint: CharacterEndpoint) throws -> OpenedCharacter {
    try openCharacter(CharacterSpec(id: "serial0", endpoint: endpoint))
  }

  @Test func aFileIsCreatedOrEmptied() throws {
    let path = temporaryPath("file")
    defer { unlink(path) }
    for text in ["a longer first text", "second"] {
      var opened = try open(.file(path))
      #expect(opened.kind == .output)
      let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
      #expect(send(backend, text) == text.utf8.count)
      backend.drain(nanoseconds: 2_000_000_000)
      let file = try Descriptor.open(path, O_RDONLY)
      #expect(readText(file.raw, count: 100) == text)
    }
  }

  @Test func aFileThatCannotBeWrittenIsNamed() {
    let error = #expect(throws: CharacterError.self) { _ = try open(.file("/nonexistent/log")) }
    #expect(error?.description == "serial0: cannot write /nonexistent/log: No such file or directory")
  }

  @Test func aSocketServesOneClientAfterAnother() throws {
    let path = temporaryPath("socket")
    defer { unlink(path) }
    var opened = try open(.unix(path))
    #expect(opened.temporaryPath == path)
    let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
    let receiver = Receiver()
    backend.attach(receiver)
    #expect(send(backend, "nobody hears this") == 17)
    for word in ["first", "second"] {
      let client = try UnixSocket.connect(to: path)
      write(client.raw, text: word)
      #expect(eventually { receiver.text.hasSuffix(word) })
      #expect(send(backend, "re:" + word) == 3 + word.utf8.count)
      #expect(readText(client.raw, count: 3 + word.utf8.count) == "re:" + word)
    }
  }

  @Test func aClientThatLeavesLosesNoneOfWhatItWrote() throws {
    let path = temporaryPath("leaver")
    defer { unlink(path) }
    var opened = try open(.unix(path))
    let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
    let receiver = Receiver(room: 2)
    backend.attach(receiver)
    do {
      let client = try UnixSocket.connect(to: path)
      write(client.raw, text: "all of it")
    }
    #expect(eventually { receiver.count == 2 })
    receiver.setRoom(.max)
    backend.resumeInput()
    #expect(eventually { receiver.text == "all of it" })
  }

  @Test func aClientThatEndsItsSideIsStillAnswered() throws {
    let path = temporaryPath("half")
    defer { unlink(path) }
    var opened = try open(.unix(path))
    let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
    let receiver = Receiver()
    backend.attach(receiver)
    let client = try UnixSocket.connect(to: path)
    write(client.raw, text: "?")
    shutdown(client.raw, CInt(SHUT_WR))
    #expect(eventually { receiver.text == "?" })
    usleep(20_000)
    #expect(send(backend, "answer") == 6)
    #expect(readText(client.raw, count: 6) == "answer")
  }

  @Test func aLiveSocketIsRefusedAndAStaleOneReplaced() throws {
    let path = temporaryPath("stale")
    defer { unlink(path) }
    do {
      let first = try open(.unix(path))
      _ = first.kind
      let error = #expect(throws: CharacterError.self) { _ = try open(.unix(path)) }
      #expect(error?.description == "serial0: \(path) is in use by another process; give another path")
      #expect(first.kind == .listener)
    }
    let second = try open(.unix(path))
    #expect(second.kind == .listener)
  }

  @Test func anOrdinaryFileAtTheSocketsPathStays() throws {
    let path = temporaryPath("plain")
    defer { unlink(path) }
    do { _ = try open(.file(path)) }
    let error = #expect(throws: CharacterError.self) { _ = try open(.unix(path)) }
    #expect(error?.description.contains("exists and is not a socket") == true)
    #expect(access(path, F_OK) == 0)
  }

  @Test func aSocketPathThatIsTooLongIsRefused() {
    let path = "/tmp/" + String(repeating: "p", count: 200)
    let error = #expect(throws: CharacterError.self) { _ = try open(.unix(path)) }
    #expect(error?.description.contains("at most 107 bytes") == true)
  }

  @Test func aPseudoterminalIsRawAndCarriesBothWays() throws {
    var opened = try open(.pty)
    let terminalPath = opened.terminalPath
    let path = try #require(terminalPath)
    let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
    let receiver = Receiver()
    backend.attach(receiver)
    let slave = try Descriptor.open(path, O_RDWR | O_NOCTTY)
    write(slave.raw, text: "in\r\u{3}")
    #expect(eventually { receiver.text == "in\r\u{3}" })
    #expect(send(backend, "out\n") == 4)
    #expect(readText(slave.raw, count: 4) == "out\n")
  }

  @Test func aPseudoterminalWithoutTerminalDropsOutputAndRests() throws {
    var opened = try open(.pty)
    let terminalPath = opened.terminalPath
    let path = try #require(terminalPath)
    let backend = try makeCharacterBackend(opened.kind, descriptor: opened.descriptor.take()) { _ in }
    backend.attach(Receiver())
    let before = backendProcessorTime()
    for _ in 0..<100 {
      #expect(send(backend, String(repeating: "x", count: 4096)) == 4096)
      usleep(2000)
    }
    #expect(backendProcessorTime() < before + 150_000_000)
    let slave = try Descriptor.open(path, O_RDWR | O_NOCTTY)
    #expect(
      eventually {
        _ = send(backend, "new")
        var entries = [PollEntry(slave.raw, .readable)]
        waitForDescriptors(&entries, milliseconds: 0)
        return !entries[0].ready.isEmpty
      })
    #expect(readText(slave.raw, count: 3) == "new")
  }

  @Test func nullTakesEverything() throws {
    let opened = try open(.null)
    #expect(opened.kind == .null)
    let backend = try makeCharacterBackend(opened.kind, descriptor: nil) { _ in }
    #expect(send(backend, "x") == 1)
  }
}
