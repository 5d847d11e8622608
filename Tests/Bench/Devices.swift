import Glibc
import LinuxSystem

/// Disks and network cards in Debian, by emulated and by paravirtual devices, both processors in software.
extension Bench {
  /// fio on a scratch disk, and iperf3 to the host through a user network.
  func devices() throws -> [any Report] {
    let scratch = try ScratchImage("\(guests)/scratch.img", megabytes: 512)
    return [try rates(network: "user", qemuNetwork: "user", disk: scratch.path)]
  }

  /// iperf3 to the host's kernel, which takes checksums and segmentation from cards that leave them to it.
  func tap() throws -> [any Report] {
    guard geteuid() == 0, access("/dev/net/tun", R_OK | W_OK) == 0 else {
      StandardStream.report("vmrun-bench: tap: skipped: it needs root and /dev/net/tun")
      return []
    }
    let interface = try TapInterface("vmrun-bench", address: "10.0.2.2/24")
    defer { withExtendedLifetime(interface) {} }
    let qemuNetwork = "tap,ifname=\(interface.name),script=no,downscript=no"
    return [try rates(network: "tap,ifname=\(interface.name)", qemuNetwork: qemuNetwork, disk: nil)]
  }

  /// - Parameter disk: what fio writes to; nil: the network alone is measured.
  private func rates(network: String, qemuNetwork: String, disk: String?) throws -> DeviceTable {
    let image = "\(guests)/debian-bench.img"
    let server = try NetworkServer()
    defer { withExtendedLifetime(server) {} }
    func ours(_ mode: String) throws -> ChildRun {
      var line = ["--mode", mode, "--net", network, "--disk", "\(image),snapshot=on"]
      if let disk { line += ["--disk", disk] }
      return try ChildRun(vmrunMachine(accel: "soft", memory: "1G", line))
    }
    func theirs(_ interface: String, _ card: String) throws -> ChildRun {
      var line = qemuMachine(accel: "tcg", memory: "1G", [])
      line.replace(["-nic", "none"], with: ["-netdev", "\(qemuNetwork),id=n", "-device", "\(card),netdev=n"])
      for file in ["\(image),format=raw,snapshot=on"] + (disk.map { ["\($0),format=raw"] } ?? []) {
        line += ["-drive", "file=\(file),if=\(interface)"]
      }
      return try ChildRun(line)
    }
    return DeviceTable(
      hvm: try DeviceRates("vmrun hvm", ours("hvm")), pvhvm: try DeviceRates("vmrun pvhvm", ours("pvhvm")),
      emulated: try DeviceRates("QEMU e1000", theirs("ide", "e1000")),
      paravirtual: try DeviceRates("QEMU virtio", theirs("virtio", "virtio-net-pci")))
  }
}

/// A TAP interface of the host for as long as the value lives.
private final class TapInterface {
  let name: String

  /// - Parameter address: the host's, with the length of the network's prefix.
  init(_ name: String, address: String) throws {
    self.name = name
    for words in [
      ["tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"], ["address", "add", address, "dev", name],
      ["link", "set", name, "up"],
    ] {
      let run = try ChildRun(["ip"] + words)
      guard run.status == 0 else { throw BenchError("ip \(words.joined(separator: " ")) ended with \(run.status)") }
    }
  }

  deinit { _ = try? ChildRun(["ip", "link", "delete", name]) }
}
