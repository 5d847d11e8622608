/// What `--device help` prints.
extension Registry {
  /// Every model by bus, a line each.
  public var help: String {
    var text = "Devices for --device MODEL[,option=value...]; '--device MODEL,help' shows a device's options.\n"
    let width = models.map(\.name.count).max() ?? 0
    for bus in BusKind.allCases {
      let models = models.filter { $0.bus == bus }
      if models.isEmpty { continue }
      text += "\n\(bus.title):\n"
      for model in models { text += "  \(pad(model.name, width))  \(model.summary)\n" }
    }
    return text
  }
}

extension DeviceModel {
  /// The model's options: range, default and summary of each.
  public var help: String {
    let options = options + [.id]
    let synopses = options.map { "\($0.name)=\($0.kind.placeholder)" }
    let width = synopses.map(\.count).max() ?? 0
    var text = "\(name): \(summary) (\(bus.title))\n\n"
    for (option, synopsis) in zip(options, synopses) {
      text += "  \(pad(synopsis, width))  \(option.summary)"
      let facts = option.facts
      text += facts.isEmpty ? "\n" : " (\(facts))\n"
    }
    return text
  }
}

extension OptionSpec {
  /// The range and the default, where there are any: `a number from 0 to 1, default 0`.
  public var facts: String {
    let range: String? =
      switch kind {
      case .integer, .size, .string, .macAddress, .pciAddress: kind.expected
      case .boolean, .choice, .block, .character, .network: nil
      }
    let value = defaultValue.map { "default \(kind.describe($0))" }
    return [range, value].compactMap { $0 }.joined(separator: ", ")
  }
}

extension BusKind {
  /// The bus for a heading.
  public var title: String {
    switch self {
    case .system: "system board"
    case .isa: "ISA bus"
    case .pci: "PCI bus"
    case .ide: "IDE channel"
    case .virtioSerial: "virtio console"
    case .scsi: "SCSI bus"
    case .virtioMMIO: "virtio-mmio slot"
    }
  }
}

private func pad(_ text: String, _ width: Int) -> String {
  text + String(repeating: " ", count: max(0, width - text.count))
}
