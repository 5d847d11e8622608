import DeviceKit
import MachineModel

extension Registry {
  /// vmrun-devices(7) in mdoc(7).
  public var manual: String {
    var page = """
      .\\" Generated from the device registry by "make man"; edit the models, not this file.
      .Dd November 22, 2026
      .Dt VMRUN-DEVICES 7
      .Os
      .Sh NAME
      .Nm vmrun-devices
      .Nd devices of virtual machines
      .Sh SYNOPSIS
      .Nm vmrun
      .Fl Fl device Ar model Ns Op , Ns Ar option Ns = Ns Ar value Ns ...
      .Sh DESCRIPTION
      The devices that
      .Xr vmrun 1
      can put into a machine, by the bus that they plug into.
      The board of each mode has some of them already;
      .Fl Fl dry-run
      shows which, and
      .Fl Fl device
      adds more.
      .Pp
      Numbers are decimal, or hexadecimal after 0x.
      Sizes are bytes, or end in K, M, G or T for powers of 1024.
      A comma within a value is written twice.
      .Pp
      Every device also takes
      .Cm \(OptionSpec.id.name) Ns = Ns Ar name :
      \(mdoc(OptionSpec.id.summary)).

      """
    for bus in BusKind.allCases where models.contains(where: { $0.bus == bus }) {
      page += ".Sh \(bus.title.uppercased())\n"
      for model in models where model.bus == bus { page += model.manual }
    }
    return page + """
      .Sh SEE ALSO
      .Xr vmrun 1 ,
      .Xr vmrun-images 5 ,
      .Xr vmrun-internals 7

      """
  }
}

extension DeviceModel {
  fileprivate var manual: String {
    var text = ".Ss \(name)\n\(mdoc(summary)).\n"
    guard !options.isEmpty else { return text }
    text += ".Bl -tag -width Ds\n"
    for option in options {
      text += ".It Cm \(mdoc(option.name)) Ns = Ns Ar \(mdoc(option.kind.placeholder.lowercased()))\n"
      text += "\(mdoc(option.summary))"
      text += option.facts.isEmpty ? ".\n" : "\n\(mdoc("(" + option.facts + ")")).\n"
    }
    return text + ".El\n"
  }
}

/// Plain text in lines of at most 78 characters, with what troff would take for a request or escape made literal.
private func mdoc(_ text: String) -> String {
  var lines = [""]
  for word in text.split(separator: " ") {
    let escaped = word.split(separator: "\\", omittingEmptySubsequences: false).joined(separator: "\\e")
    let line = lines[lines.count - 1]
    if line.isEmpty {
      lines[lines.count - 1] = escaped
    } else if line.count + 1 + escaped.count < 78 {
      lines[lines.count - 1] += " " + escaped
    } else {
      lines.append(escaped)
    }
  }
  return lines.map { $0.hasPrefix(".") || $0.hasPrefix("'") ? "\\&" + $0 : $0 }.joined(separator: "\n")
}
