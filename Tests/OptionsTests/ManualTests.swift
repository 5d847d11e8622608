import DeviceKit
import Devices
import FoundationEssentials
import MachineModel
import Testing

@testable import Options

/// The manual covers the command line and the registry, so that neither can grow without it.
@Suite struct Manual {
  struct DumpedHelp: Decodable {
    struct Command: Decodable { let arguments: [Argument] }
    struct Argument: Decodable {
      struct Name: Decodable { let name: String }
      let names: [Name]?
      let allValues: [String]?
      let shouldDisplay: Bool
    }
    let command: Command
  }

  private func page(_ name: String) throws -> [Substring] {
    let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
    return try String(decoding: Data(contentsOf: URL(filePath: "\(root)/man/\(name)")), as: UTF8.self)
      .split(separator: "\n", omittingEmptySubsequences: false)
  }

  private func arguments() throws -> [DumpedHelp.Argument] {
    guard case .text(let json) = request("--experimental-dump-help") else { return [] }
    return try JSONDecoder().decode(DumpedHelp.self, from: Data(json.utf8)).command.arguments
      .filter(\.shouldDisplay)
  }

  @Test func everyFlagIsAnItemOfTheManual() throws {
    let items = try page("vmrun.1").filter { $0.hasPrefix(".It ") }.map { $0.split(separator: " ") }
    let flags = Set(items.flatMap { words in zip(words, words.dropFirst()).filter { $0.0 == "Fl" }.map(\.1) })
    let names = try arguments().flatMap { $0.names ?? [] }.map(\.name)
    #expect(names.contains("memory"))
    for name in names { #expect(flags.contains(Substring(name)), "vmrun.1 has no item for '\(name)'") }
  }

  @Test func everyValueOfAFlagIsOnItsItem() throws {
    let items = try page("vmrun.1").filter { $0.hasPrefix(".It ") }
    for argument in try arguments() {
      guard let name = argument.names?.last?.name, let values = argument.allValues else { continue }
      let item = items.first { $0.contains("Fl Fl \(name) ") }?.split(separator: " ") ?? []
      for value in values { #expect(item.contains(Substring(value)), "'\(value)' of --\(name) is not in vmrun.1") }
    }
  }

  @Test func everyDiskOptionIsInTheManual() throws {
    let items = try page("vmrun.1").filter { $0.hasPrefix(".It Cm ") }
    for option in VMRunCommand.diskOptions {
      #expect(items.contains { $0.hasPrefix(".It Cm \(option.name) Ns = Ns ") }, "'\(option.name)' is not in vmrun.1")
    }
  }

  @Test func everyExitStatusIsInTheManual() throws {
    let lines = try page("vmrun.1")
    let statuses: [ExitStatus] = [
      .poweredOff, .usage, .panicked, .reset, .tripleFault, .timedOut, .hostFailure, .sandboxViolation,
    ]
    for status in statuses { #expect(lines.contains(".It \(status.code)"), "\(status) is not in vmrun.1") }
  }

  @Test func everyCacheModeIsInTheImagesPage() throws {
    let lines = try page("vmrun-images.5")
    for mode in CacheMode.allCases { #expect(lines.contains(".It Cm \(mode.rawValue)"), "\(mode)") }
  }

  @Test func theDevicesPageIsThatOfTheRegistry() throws {
    #expect(
      try page("vmrun-devices.7").joined(separator: "\n") == catalog.manual, "run 'make man' to bring it up to date")
  }

  @Test(arguments: ["fixture", "catalog"])
  func everyModelAndOptionIsInTheDevicesPage(name: String) {
    let registry = name == "fixture" ? registry : catalog
    for model in registry.models {
      let sections = registry.manual.split(separator: "\n.Ss ").dropFirst()
      let section = sections.first { $0.hasPrefix("\(model.name)\n") }
      #expect(section != nil, "\(model.name)")
      for option in model.options {
        #expect(section?.contains("\n.It Cm \(option.name) Ns = Ns Ar ") == true, "\(model.name) \(option.name)")
      }
    }
  }
}
