import LinuxSystem
import TestKit
import Testing

extension Machines {
  /// Debian with a paravirtual disk and network, on the software CPU.
  @Suite(.enabled(if: Machines.isLong, Machines.long)) struct Paravirtual {
    @Test func aPackageComesFromAServerOfTheHostAndSSHGetsIn() async throws {
      let directory = try TemporaryFile().path + ".repository"
      try await Self.shell(Self.makeRepository, directory)
      let server = try RunningProgram.start(
        "/usr/bin/python3",
        ["-m", "http.server", "--bind", "127.0.0.1", "--directory", directory, "\(Self.serverPort)"], seconds: 900)
      defer { server.signal(SignalNumber.kill) }
      try await Self.boot(["--net", "user,hostfwd=tcp:127.0.0.1:\(Self.sshPort)-:22"]) { run in
        try await Self.command(
          run, "ls /sys/bus/virtio/drivers/virtio_blk /sys/bus/virtio/drivers/virtio_net", "virtio1")
        try await Self.command(run, "findmnt -no SOURCE /", "/dev/vda1")
        let source = "deb [trusted=yes] http://10.0.2.2:\(Self.serverPort)/ ./"
        try await Self.command(
          run, "echo '\(source)' > /etc/apt/sources.list && apt-get update", "Reading package lists")
        try await Self.command(run, "apt-get install -y hello && hello", "Hello, world!")
        let ssh = try RunningProgram.start(
          "/usr/bin/ssh",
          [
            "-p", "\(Self.sshPort)", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
            "ConnectTimeout=60", "root@127.0.0.1", "uname -n; hello",
          ], seconds: 180)
        #expect(try await ssh.end() == .exited(0), "\(ssh.transcript)")
        #expect(lines(ssh.output) == ["vmrun", "Hello, world!"], "\(ssh.transcript)")
      }
      try await Self.shell("rm -r \"$0\"", directory)
    }

    @Test func theGuestLearnsThatItsDiskHasGrown() async throws {
      let disk = try TemporaryFile([UInt8](repeating: 0, count: 1 << 20))
      try await Self.boot(["--disk", disk.path + ",format=raw"]) { run in
        try await Self.command(run, "cat /sys/block/vdb/size", "2048")
        try await Self.shell("truncate -s 3M \"$0\"", disk.path)
        run.signal(SignalNumber.user2)
        // The driver reads the new size in a thread of its own.
        try await Self.command(run, "sleep 3; cat /sys/block/vdb/size", "6144")
      }
    }

    /// One guest's end of the wire and the other's.
    @Test(arguments: [
      ("unix,path=%first,listen=on", "unix,path=%first"),
      ("unix,type=dgram,local=%first,path=%second", "unix,type=dgram,local=%second,path=%first"),
    ])
    func guestsOnOneUnixSocketPingEachOther(_ ends: (first: String, second: String)) async throws {
      let wire = try TemporaryFile().path
      func end(_ option: String) -> [String] {
        ["--net", option.replacing("%first", with: wire + ".first").replacing("%second", with: wire + ".second")]
      }
      try await Self.boot(end(ends.first)) { first in
        try await Self.boot(end(ends.second)) { second in
          for (number, run) in [first, second].enumerated() {
            try await Self.command(
              run, "ip addr add 192.168.7.\(number + 1)/24 dev eth0 && ip link set eth0 up && echo has $?", "has 0")
          }
          for (number, run) in [first, second].enumerated() {
            try await Self.command(run, "ping -c 5 -W 10 192.168.7.\(2 - number)", "5 received")
          }
        }
      }
    }

    // MARK: Steps

    private static let serverPort = 48_223
    private static let sshPort = 48_224

    /// A directory that apt takes packages from, with one.
    private static let makeRepository = """
      set -e; mkdir "$0"; cd "$0"; apt-get download -qq hello; package=$(echo *.deb)
      { dpkg-deb -f "$package"; echo "Filename: ./$package"; echo "Size: $(stat -c %s "$package")"
        echo "SHA256: $(sha256sum "$package" | cut -d ' ' -f 1)"; } > Packages
      """

    private static func shell(_ script: String, _ argument: String) async throws {
      let run = try RunningProgram.start("/bin/sh", ["-c", script, argument], seconds: 120)
      #expect(try await run.end() == .exited(0), "\(run.transcript)")
    }

    private static func boot(_ options: [String], body: (RunningProgram) async throws -> Void) async throws {
      let disk = try GuestRunner.guest("debian.img") + ",snapshot=on"
      let machine = ["--mode", "pvhvm", "--accel", "soft", "-m", "512M", "--disk", disk]
      try await Systems.run(machine + options, seconds: 900) { run in
        try await Systems.logIn(run)
        try await body(run)
        try await Systems.powerOff(run)
      }
    }

    /// Types a line; what the guest writes until it is done has `text` in it, which the line has not.
    private static func command(_ run: RunningProgram, _ line: String, _ text: String) async throws {
      let start = run.output.utf8.count
      try run.send("\(line); echo done $((\(start) * 2))\r")
      try await run.wait(for: "done \(start * 2)", after: start, unless: Systems.failures, seconds: 240)
      let answer = String(decoding: run.output.utf8.dropFirst(start), as: UTF8.self)
      #expect(answer.contains(text), "\(line): \(answer)")
    }
  }
}
