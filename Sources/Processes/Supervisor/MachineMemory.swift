import Boards
import DeviceKit
import Engines
import LinuxSystem
import MachineModel
import Sandbox

/// The memory of a machine: guest RAM, firmware, what devices show to the guest, and the page shared with the device
/// process. Mappings live as long as the machine.
final class MachineMemory: Sendable {
  let layout: PCMemoryLayout
  /// nil: there is no firmware.
  let placement: FirmwarePlacement?
  let ramFile: Descriptor
  let pageFile: Descriptor
  let deviceFile: Descriptor
  let ram: Mapping
  /// A page that nobody sees where there is none.
  let firmware: Mapping
  let device: Mapping
  let page: MachinePage

  init(_ spec: MachineSpec, registry: Registry) throws {
    layout = try PCMemoryLayout(memory: spec.memory)
    let image = spec.mode == .pv ? [] : try Self.firmware(spec.firmware)
    do throws(MemoryLayoutError) {
      placement = spec.mode == .pv ? nil : try FirmwarePlacement(size: UInt64(image.count))
    } catch {
      throw LaunchError("\(spec.firmware): \(error)")
    }
    firmware = try Mapping(anonymous: max(image.count, 4096))
    firmware.bytes.copyBytes(from: image)
    ramFile = try Descriptor.memory(named: "vmrun-ram", size: spec.memory, isSealed: true)
    ram = try Mapping(sharingInHugePages: ramFile, count: Int(spec.memory))
    let deviceSize = max(4096, try Recipe.requiredDeviceMemory(spec, registry: registry))
    deviceFile = try Descriptor.memory(named: "vmrun-devices", size: deviceSize, isSealed: true)
    device = try Mapping(sharing: deviceFile, count: Int(deviceSize))
    pageFile = try Descriptor.memory(
      named: "vmrun-page", size: UInt64(MachinePage.size(vcpus: spec.cpus)), isSealed: true)
    page = try MachinePage(pageFile, vcpus: spec.cpus, initialize: true)
  }

  private static func firmware(_ path: String) throws -> [UInt8] {
    do throws(SystemError) {
      return try Descriptor.open(path, .readOnly).contents(limit: Int(FirmwarePlacement.sizes.upperBound))
    } catch {
      throw LaunchError(cannotRead: path, error, package: "seabios")
    }
  }

  /// Guest RAM and firmware where the guest sees them, but for a PC's first megabyte from the VGA window on, which
  /// devices arrange.
  var fixedMappings: [HostMapping] {
    var result: [HostMapping] = []
    for region in layout.ram {
      let host = ram.base + Int(region.fileOffset)
      guard region.guestAddress == 0, placement != nil else {
        result.append(
          HostMapping(guestAddress: region.guestAddress, size: region.size, host: host, readOnly: false))
        continue
      }
      let low = PCMemoryLayout.vgaWindow.lowerBound
      let high: UInt64 = 1 << 20
      result.append(HostMapping(guestAddress: 0, size: low, host: host, readOnly: false))
      result.append(
        HostMapping(guestAddress: high, size: region.size - high, host: host + Int(high), readOnly: false))
    }
    if let placement {
      result.append(
        HostMapping(guestAddress: placement.base, size: placement.size, host: firmware.base, readOnly: true))
    }
    return result
  }

  /// `count` bytes of RAM at a guest physical address, as far as there is RAM.
  func bytes(at address: UInt64, count: Int) -> [UInt8] {
    for region in layout.ram where address >= region.guestAddress && address < region.end {
      let available = min(UInt64(count), region.end - address)
      let start = Int(region.fileOffset + (address - region.guestAddress))
      return Array(ram.bytes[start..<start + Int(available)])
    }
    guard let placement, address >= placement.base, address - placement.base < placement.size else {
      return []
    }
    let start = Int(address - placement.base)
    return Array(firmware.bytes[start..<min(start + count, firmware.count)])
  }
}
