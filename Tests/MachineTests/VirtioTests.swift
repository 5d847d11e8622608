import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Virtio devices under stock Debian, one boot for all.
  @Suite(.enabled(if: Machines.isLong, Machines.long)) struct VirtioDevices {
    @Test func debianUsesThemAll() async throws {
      let name = "/tmp/vmrun-virtio-\(monotonicNanoseconds())"
      let disk = try GuestRunner.guest("debian.img") + ",if=scsi,snapshot=on"
      let disc = try GuestRunner.guest("test-cd.img") + ",if=scsi"
      let arguments = [
        "--mode", "pvhvm", "--accel", "soft", "-m", "1G", "--disk", disk, "--cdrom", disc,
        "--serial", "stdio", "--serial", "unix:\(name).console", "--serial", "unix:\(name).port",
        "--device", "virtio-serial-pci", "--device", "virtconsole,chardev=serial1",
        "--device", "virtserialport,chardev=serial2,name=org.example.port",
        "--device", "virtio-balloon-pci", "--device", "virtio-rng-pci", "--vsock", "uds=\(name).vsock,cid=42",
      ]
      try await GuestRunner.run(
        arguments, program: GuestRunner.releaseProgram, streams: ProgramStreams(input: .pipe), seconds: 900
      ) { run in
        try await run.wait(for: "login: ", unless: Systems.failures, seconds: 600)
        try run.send("root\r")
        try await run.wait(for: "root@vmrun:~# ", unless: Systems.failures, seconds: 120)
        let shell = Shell(run)
        #expect(try await shell.run("systemctl is-system-running --wait") == "running")
        try await Self.checkSCSI(shell)
        #expect(try await shell.run("head -c 4096 /dev/hwrng | wc -c") == "4096")
        try await Self.checkBalloon(shell)
        try await Self.checkConsole(shell, try await .connect(to: name + ".console"))
        try await Self.checkPort(shell, try await .connect(to: name + ".port"))
        try await Self.checkHostsConnection(shell, name + ".vsock")
        try await Self.checkGuestsConnection(shell, name + ".vsock")
        try run.send("poweroff\r")
        #expect(try await run.end(seconds: 120) == .exited(0), "\(run.transcript)")
      }
    }

    // MARK: Devices

    private static func checkSCSI(_ shell: Shell) async throws {
      #expect(try await shell.run("findmnt -no SOURCE /") == "/dev/sda1")
      #expect(try await shell.run("head -c 32774 /dev/sr0 | tail -c 5") == "CD001")
      let sums = try await shell.run(
        "head -c 30000000 /dev/urandom > x; cksum < x; sync; echo 3 > /proc/sys/vm/drop_caches; cksum < x; rm x")
      let (written, read) = try #require(lines(sums).count == 2 ? (lines(sums)[0], lines(sums)[1]) : nil)
      #expect(written == read)
      #expect(try await shell.run("fstrim / && echo trimmed") == "trimmed")
    }

    /// Memory that the guest has freed goes back to the host, and is the guest's again.
    private static func checkBalloon(_ shell: Shell) async throws {
      func resident() -> Int {
        let words = ProcessTable.status("RssShmem", of: shell.run.pid)?.split(separator: " ")
        return (words?.first.flatMap { Int($0) } ?? 0) >> 10
      }
      for _ in 0..<2 {
        _ = try await shell.run("mount -t tmpfs -o size=600m none /mnt && head -c 500M /dev/zero > /mnt/x")
        let filled = resident()
        #expect(filled > 500)
        _ = try await shell.run("umount /mnt")
        for _ in 0..<300 where resident() > filled - 400 { try await Task.sleep(for: .milliseconds(100)) }
        #expect(resident() <= filled - 400, "\(filled) MiB filled")
      }
    }

    private static func checkConsole(_ shell: Shell, _ console: UnixClient) async throws {
      _ = try await shell.run("systemctl start serial-getty@hvc0")
      try console.send("\r")
      _ = try await console.receive(until: "login: ")
      try console.send("root\r")
      _ = try await console.receive(until: "# ")
      try console.send("tty; echo $((6 * 7)) lines\r")
      #expect(try await console.receive(until: "42 lines").contains("/dev/hvc0"))
    }

    private static func checkPort(_ shell: Shell, _ port: UnixClient) async throws {
      let path = "/dev/virtio-ports/org.example.port"
      try port.send("to the guest\n")
      #expect(try await shell.run("head -n1 \(path)") == "to the guest")
      // The guest waits where nobody reads.
      let writer = Task { try await shell.run("seq 1 100000 > \(path)") }
      let numbers = try await port.receive(until: "\n100000\n")
      #expect(lines(numbers) == (1...100_000).map(String.init))
      _ = try await writer.value
    }

    /// A guest in Perl that sends back in upper case what it is sent.
    private static func checkHostsConnection(_ shell: Shell, _ path: String) async throws {
      let listen = #"socket(L,40,1,0);bind(L,pack("SSLLx4",40,0,5000,~0&0xffffffff))||die;listen(L,9)||die;"#
      let serve = #"print "up\n";close STDOUT;while(accept(S,L)){$n="";$n.=$_ while <S>;print S uc $n;close S}"#
      #expect(try await shell.run("perl -e '$|=1;\(listen)\(serve)' 2> /dev/null &") == "up")
      for _ in 0..<5 {
        let client = try await UnixClient.connect(to: path)
        try client.send("CONNECT 5000\n")
        let answer = try await client.receive(until: "\n")
        #expect(answer.hasPrefix("OK "))
        try client.send(String(repeating: "abc", count: 100_000))
        client.endSending()
        #expect(try await client.receive() == String(repeating: "ABC", count: 100_000))
      }
      let client = try await UnixClient.connect(to: path)
      try client.send("CONNECT 5001\n")
      #expect(try await client.receive() == "", "nobody listens")
    }

    private static func checkGuestsConnection(_ shell: Shell, _ path: String) async throws {
      let listener = try UnixSocket.listen(at: path + "_1234", backlog: 8)
      defer { try? removeFile(path + "_1234") }
      func connect(to port: Int) -> String {
        #"socket(S,40,1,0);connect(S,pack("SSLLx4",40,0,\#(port),2))||die "$!\n";"#
      }
      let send = #"syswrite(S,"abc"x100000);shutdown(S,1);print scalar <S>"#
      let answer = Task { try await shell.run("perl -e '\(connect(to: 1234))\(send)'") }
      var entries = [PollEntry(listener.raw, .readable)]
      waitForDescriptors(&entries, milliseconds: 60_000)
      let host = UnixClient(try UnixSocket.accept(from: listener.raw).release())
      #expect(try await host.receive() == String(repeating: "abc", count: 100_000))
      try host.send("received\n")
      #expect(try await answer.value == "received")
      #expect(try await shell.run("perl -e '\(connect(to: 1235))' 2>&1") == "Connection reset by peer")
    }
  }
}

/// The shell on a guest's serial port.
private final class Shell: Sendable {
  let run: RunningProgram

  init(_ run: RunningProgram) { self.run = run }

  /// What a command writes on standard output, without the last line's end.
  func run(_ command: String, seconds: Double = 300) async throws -> String {
    let start = run.output.utf8.count
    // The shell's echo of the line has no sums in it.
    try run.send("echo \"<$((40 + 2))<$(\(command))>$((40 + 2))>\"\r")
    try await run.wait(for: ">42>", after: start, unless: Machines.Systems.failures, seconds: seconds)
    let output = String(decoding: Array(run.output.utf8.dropFirst(start)), as: UTF8.self)
    guard let from = output.firstRange(of: "<42<"), let to = output.firstRange(of: ">42>") else {
      throw StreamError(description: "no answer to '\(command)'")
    }
    return String(output[from.upperBound..<to.lowerBound])
  }
}
