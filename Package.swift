// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

/// A library target of `Sources/`, with the arrows it may follow.
func layer(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
  .target(name: name, dependencies: dependencies, resources: resources, swiftSettings: strict)
}

/// A layer that interprets code: handlers are chained by tail calls, which only optimised builds have. Where equal functions
/// are merged, the calls of what is left of them are no longer tail calls.
func engine(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(
    name: name, dependencies: dependencies,
    swiftSettings: strict + [
      .unsafeFlags([
        "-O", "-wmo", "-num-threads", "2", "-disable-batch-mode", "-Xcc", "-momit-leaf-frame-pointer",
        "-Xfrontend", "-disable-llvm-merge-functions-pass",
      ])
    ])
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let package = Package(
  name: "vmrun",
  products: [.executable(name: "vmrun", targets: ["vmrun"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
  ],
  targets: [
    // The host: the only callers of libc, the kernel headers and C libraries.
    .target(name: "CLinux"),
    .target(name: "CKVM"),
    .target(name: "CChecksum", cSettings: [.unsafeFlags(["-O2"])]),
    .target(name: "CSoftCPU", cSettings: [.unsafeFlags(["-O2"])]),
    .target(name: "CSandbox"),
    // What firmware runs to start a kernel.
    .target(name: "COptionROM"),
    .target(name: "CSlirp"),
    .systemLibrary(name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
    .systemLibrary(name: "CCap", pkgConfig: "libcap", providers: [.apt(["libcap-dev"])]),
    .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
    .systemLibrary(name: "CLzma", pkgConfig: "liblzma", providers: [.apt(["liblzma-dev"])]),
    .systemLibrary(name: "CLz4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    .systemLibrary(name: "CLibExt2FS", pkgConfig: "ext2fs", providers: [.apt(["libext2fs-dev"])]),
    .target(name: "CExt2FS", dependencies: ["CLibExt2FS"], linkerSettings: [.linkedLibrary("com_err")]),
    layer("LinuxSystem", ["CLinux", "CZlib", "CZstd", "CLzma", "CLz4"]),

    // Values and contracts.
    layer("MachineModel", ["X86"]),
    layer("GuestMemory", ["LinuxSystem"]),
    layer("Buses", []),
    layer("Backends", ["LinuxSystem", "MachineModel"]),
    layer("DeviceKit", ["MachineModel", "GuestMemory", "Buses", "Backends"]),
    layer("Engines", ["LinuxSystem", "Buses"]),
    engine("X86", []),

    // What implements them. Engines never see devices; devices never see engines.
    layer("Devices", ["DeviceKit", "MachineModel", "GuestMemory", "Buses", "Backends", "CChecksum"]),
    layer("KVMEngine", ["Engines", "Buses", "CKVM", "LinuxSystem"]),
    engine("SoftEngine", ["Engines", "Buses", "X86", "CSoftCPU", "LinuxSystem"]),
    layer(
      "Sandbox", ["LinuxSystem", "Buses", "CLinux", "CSandbox", "CSeccomp", "CCap"],
      resources: [
        .embedInCode("Policies/device.policy"), .embedInCode("Policies/network.policy"),
        .embedInCode("Policies/vcpu.policy"),
      ]),

    layer("UserNetwork", ["LinuxSystem", "MachineModel", "Backends", "CSlirp"]),

    // What an image says about how it is booted. Knows nothing of machines.
    layer("BootImage", ["CExt2FS"]),

    // What joins them.
    layer(
      "Boards", ["DeviceKit", "Devices", "MachineModel", "Engines", "GuestMemory", "LinuxSystem", "COptionROM"]),
    layer("Options", ["MachineModel", "X86", "DeviceKit", "LinuxSystem", argumentParser]),
    layer(
      "Processes",
      [
        "Boards", "BootImage", "Engines", "KVMEngine", "SoftEngine", "Sandbox", "LinuxSystem", "MachineModel",
        "DeviceKit",
        "Devices",
        "GuestMemory", "Buses", "Backends", "UserNetwork", logging,
      ]),
    .executableTarget(
      name: "vmrun",
      dependencies: ["Options", "Processes", "Boards", "Devices", "Sandbox", "LinuxSystem", "MachineModel"],
      swiftSettings: strict),

    layer("TestKit", ["DeviceKit", "LinuxSystem", "GuestMemory", "Buses", "Backends"]),
    tests("GuestMemoryTests", ["GuestMemory"]),
    tests("X86Tests", ["X86"]),
    tests("BusesTests", ["Buses", "DeviceKit", "TestKit"]),
    tests("BackendsTests", ["Backends", "LinuxSystem", "MachineModel", "TestKit"]),
    tests("BootImageTests", ["BootImage", "LinuxSystem", "TestKit"]),
    tests("UserNetworkTests", ["UserNetwork", "LinuxSystem", "MachineModel", "TestKit"]),
    tests(
      "DevicesTests",
      ["Devices", "DeviceKit", "MachineModel", "GuestMemory", "Buses", "Backends", "LinuxSystem", "TestKit"]),
    tests(
      "BoardsTests",
      [
        "Boards", "Devices", "DeviceKit", "MachineModel", "GuestMemory", "Buses", "Backends", "LinuxSystem", "TestKit",
      ]),
    tests("OptionsTests", ["Options", "Devices", "DeviceKit", "MachineModel", "TestKit"]),
    .target(name: "CSandboxProbe", path: "Tests/CSandboxProbe"),
    .executableTarget(
      name: "sandbox-probe", dependencies: ["Sandbox", "LinuxSystem", "CSandboxProbe", "CSeccomp"],
      path: "Tests/SandboxProbe", swiftSettings: strict),
    tests("SandboxTests", ["Sandbox", "Buses", "LinuxSystem", "TestKit", "sandbox-probe"]),
    tests("KVMEngineTests", ["KVMEngine", "SoftEngine", "Engines", "LinuxSystem", "CKVM", "TestKit"]),
    tests(
      "ProcessesTests",
      [
        "Processes", "Engines", "Sandbox", "Buses", "DeviceKit", "MachineModel", "Backends", "LinuxSystem", "TestKit",
      ]),
    tests("MachineTests", ["TestKit", "LinuxSystem", "vmrun"]),
    // What `make bench` runs.
    .executableTarget(
      name: "vmrun-bench", dependencies: ["KVMEngine", "Engines", "LinuxSystem"], path: "Tests/Bench",
      swiftSettings: strict),
    .target(name: "CNativeRun", path: "Tests/CNativeRun"),
    tests("SoftEngineTests", ["SoftEngine", "CSoftCPU", "Engines", "Buses", "X86", "CNativeRun", "TestKit"]),
  ],
  swiftLanguageModes: [.v6]
)
