import Testing

@testable import BootImage

@Suite struct VersionTests {
  /// In ascending order, as the specification's examples have them.
  @Test(arguments: [
    ["~1", "", "1"],
    [
      "122.1", "123~rc1-1", "123", "123-a", "123-a.1", "123-1", "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1",
      "124-1",
    ],
    ["6.1.0-9", "6.1.0-10", "6.10.0"], ["5.4.0-99-generic", "5.4.0-100-generic"], ["a", "b", "1"],
    ["001", "2", "0010"],
  ])
  func order(versions: [String]) {
    for (index, left) in versions.enumerated() {
      for (other, right) in versions.enumerated() {
        let order = compareVersions(left, right)
        #expect(order.signum() == (index - other).signum(), "\(left) \(right)")
      }
    }
    #expect(compareVersions("1_2", "12") == compareVersions("1+2", "12"))
    #expect(compareVersions("0", "00") == 0)
  }

  @Test func patterns() {
    for (name, pattern, matches) in [
      ("abc", "a*", true), ("abc", "*c", true), ("abc", "a?c", true), ("abc", "a[a-c]c", true),
      ("abc", "a[!a-c]c", false),
      ("abc", "ab", false), ("", "*", true), ("a]", "a[]]", true), ("a*", "a\\*", true), ("ab", "a\\*", false),
      ("a", "[", false),
      ("a", "[a", false), ("", "", true), ("a", "", false),
    ] { #expect(matchesGlob(name, pattern) == matches, "\(name) \(pattern)") }
    #expect(!matchesGlob(String(repeating: "a", count: 3000), String(repeating: "*a", count: 1000) + "b"))
  }
}

@Suite struct LoaderEntryTests {
  private func search(_ files: [String: String]) throws -> ConfigurationSearch.Found? {
    try ConfigurationSearch(TestVolumes(files)).run()
  }

  @Test func keysOfAnEntry() {
    let entry = LoaderEntry(
      fileName: "a+3-1.conf",
      Array(
        "# comment\r\ntitle   The  title\r\nversion 1\nlinux\t/vmlinuz\ninitrd /a\ninitrd /b\noptions root=/dev/vda1\n  options  ro \nunknown x\n"
          .utf8))
    #expect(entry.id == "a" && !entry.isBad)
    let boot = entry.bootEntry(on: 0)
    #expect(boot.title == "The  title")
    #expect(boot.kernel == BootPath("/vmlinuz", on: 0))
    #expect(boot.ramdisks.map(\.path) == ["/a", "/b"])
    #expect(boot.arguments == "root=/dev/vda1 ro")
    #expect(LoaderEntry(fileName: "a+0-3.conf", []).isBad)
    #expect(LoaderEntry(fileName: "a+b.conf", []).id == "a+b")
  }

  @Test func orderAndDefault() throws {
    let files = [
      "/loader/loader.conf": "timeout 3\n#default x\ndefault old*\n",
      "/loader/entries/old-1.conf": "title o\nsort-key a\nmachine-id m\nversion 1\nlinux /1",
      "/loader/entries/new-1.conf": "title n\nsort-key a\nmachine-id m\nversion 2\nlinux /2",
      "/loader/entries/z.conf": "title z\nlinux /z",
      "/loader/entries/z9.conf": "title z9\nlinux /z",
      "/loader/entries/bad+0.conf": "title bad\nsort-key a\nversion 9\nlinux /b",
      "/loader/entries/efi.conf": "title efi\nefi /shell.efi",
      "/loader/entries/arm.conf": "title arm\narchitecture aa64\nlinux /arm",
      "/loader/entries/x.txt": "title no\nlinux /no",
    ]
    let found = try #require(try search(files))
    #expect(found.menu.entries.map(\.title) == ["n", "o", "z9", "z", "bad"])
    #expect(found.menu.chosenEntry?.title == "o")
    #expect(found.source == "/loader/entries on partition 1")
    var other = files
    other["/loader/loader.conf"] = "default @saved"
    #expect(try search(other)?.menu.chosenEntry?.title == "n")
    other["/loader/loader.conf"] = "default NEW-1.conf"
    #expect(try search(other)?.menu.chosenEntry?.title == "n")
  }

  @Test func loaderConfigurationDecidesBetweenSystemdBootAndGRUB() throws {
    var files = [
      "/loader/entries/a.conf": "title bls\nlinux /a", "/grub2/grub.cfg": "menuentry grub {linux /g}",
    ]
    #expect(try search(files)?.menu.chosenEntry?.title == "grub")
    files["/loader/loader.conf"] = ""
    #expect(try search(files)?.menu.chosenEntry?.title == "bls")
    files["/grub2/grub.cfg"] = nil
    files["/loader/loader.conf"] = nil
    #expect(try search(files)?.menu.chosenEntry?.title == "bls")
  }

  @Test func entriesOfTwoPartitionsAreOneMenu() throws {
    let volumes = TestVolumes([
      .init(partition: .test(1), files: ["/loader/loader.conf": "default b*", "/loader/entries/a.conf": "linux /a"]),
      .init(partition: .test(2), files: ["/loader/entries/b.conf": "linux /b"]),
    ])
    let found = try #require(try ConfigurationSearch(volumes).run())
    #expect(found.menu.entries.count == 2)
    #expect(found.menu.chosenEntry?.kernel == BootPath("/b", on: 1))
    #expect(found.source == "/loader/entries on partition 1 and /loader/entries on partition 2")
  }

  @Test func whereBootIsADirectoryPathsStartThere() throws {
    let found = try search([
      "/boot/loader/entries/a.conf": "linux /vmlinuz\ninitrd /initrd", "/boot/vmlinuz": "", "/boot/initrd": "",
    ])
    #expect(found?.menu.chosenEntry?.kernel?.path == "/boot/vmlinuz")
    #expect(found?.menu.chosenEntry?.ramdisks.map { $0.path.pathNames } == [["boot", "initrd"]])
  }
}

@Suite struct LegacyTests {
  private static let menuList = """
    # a comment
    default 1
    timeout=5
    color cyan/blue white/blue
    title Other systems:
    root
    title  Linux 2
    root (hd0,1)
    kernel /boot/vmlinuz-2 root=/dev/xvda1 ro
    initrd /boot/initrd-2
    savedefault
    title=Linux 1
    uuid 1111-AAAA
    kernel --no-mem-option /boot/vmlinuz-1 ro
    title Xen
    kernel (hd0,0)/xen.gz dom0_mem=1G
    module /vmlinuz root=/dev/sda1
    module /initrd
    title Elsewhere
    root (hd1,0)
    kernel /k
    """

  private let volumes = TestVolumes([
    .init(partition: .test(1), uuid: "1111-aaaa", files: [:]), .init(partition: .test(2), files: [:]),
  ])

  @Test func entries() throws {
    let menu = try GRUBLegacy.menu(Array(Self.menuList.utf8), on: 0, savedDefault: nil, volumes)
    #expect(menu.entries.map(\.title) == ["Linux 2", "Linux 1", "Xen"])
    let entry = try #require(menu.chosenEntry)
    #expect(entry.kernel == BootPath("/boot/vmlinuz-2", on: 1))
    #expect(entry.ramdisks == [BootPath("/boot/initrd-2", on: 1)])
    #expect(entry.arguments == "root=/dev/xvda1 ro")
    #expect(menu.entries[1].kernel == BootPath("/boot/vmlinuz-1", on: 0))
    #expect(menu.entries[2].kernel == BootPath("/vmlinuz", on: 0))
    #expect(menu.entries[2].ramdisks == [BootPath("/initrd", on: 0)])
  }

  @Test(arguments: [("2", 2), ("saved", 2), ("99", 0), ("-1", 0), ("x", 0)])
  func theDefault(value: String, index: Int) throws {
    let text = Self.menuList.replacing("default 1", with: "default \(value)")
    let saved = Array("2\n#\n#\n".utf8)
    let menu = try GRUBLegacy.menu(Array(text.utf8), on: 0, savedDefault: saved, volumes)
    #expect(menu.chosen == [index])
  }

  @Test func aDiskWithoutATable() throws {
    let menu = try GRUBLegacy.menu(
      Array("title a\nroot (hd0)\nkernel /boot/vmlinuz".utf8), on: 0, savedDefault: nil, volumes)
    #expect(menu.chosenEntry?.kernel == BootPath("/boot/vmlinuz", on: 0))
  }
}

@Suite struct SyslinuxTests {
  private func menu(_ files: [String: String], _ path: String = "/boot/extlinux/extlinux.conf") throws -> BootMenu {
    let volumes = TestVolumes(files)
    let path = BootPath(path, on: 0)
    return try Syslinux.menu(path, try #require(try volumes.contents(path)), volumes)
  }

  @Test func labels() throws {
    let menu = try menu([
      "/boot/extlinux/extlinux.conf": """
      DEFAULT menu.c32
      PROMPT 0
      append quiet
      MENU TITLE Boot
      LABEL lts
        MENU LABEL ^Linux lts
        LINUX vmlinuz-lts
        INITRD initramfs-lts,/ucode.img
        APPEND root=UUID=1 modules=sd-mod
      label virt
        menu default
        kernel /boot/vmlinuz-virt
        append initrd=../initramfs-virt root=/dev/vda1
      LABEL plain
        KERNEL k
      LABEL none
        KERNEL k
        APPEND -
      LABEL memtest
        KERNEL memtest.bin
      INCLUDE more.conf
      """,
      "/boot/extlinux/more.conf": "LABEL more\r\n  LINUX /more\r\n",
    ])
    #expect(menu.entries.map(\.title) == ["Linux lts", "virt", "plain", "none", "more"])
    #expect(menu.chosenEntry?.title == "virt")
    #expect(menu.chosenEntry?.ramdisks.map(\.path) == ["/boot/initramfs-virt"])
    #expect(menu.chosenEntry?.arguments == "root=/dev/vda1")
    #expect(menu.entries[0].kernel?.path == "/boot/extlinux/vmlinuz-lts")
    #expect(menu.entries[0].ramdisks.map(\.path) == ["/boot/extlinux/initramfs-lts", "/ucode.img"])
    #expect(menu.entries[0].arguments == "root=UUID=1 modules=sd-mod")
    #expect(menu.entries[2].arguments == "quiet")
    #expect(menu.entries[3].arguments == "")
  }

  @Test(arguments: [
    ("DEFAULT b\nLABEL a\nKERNEL a\nLABEL B\nKERNEL b", "B"), ("LABEL a\nKERNEL a", "a"),
    ("DEFAULT vmlinuz root=/dev/vda1 ro", "vmlinuz"),
    ("DEFAULT vesamenu.c32\nLABEL a\nKERNEL x.c32\nLABEL b\nLINUX b", "b"),
  ])
  func theDefault(text: String, title: String) throws {
    #expect(try menu(["/boot/extlinux/extlinux.conf": text]).chosenEntry?.title == title)
  }

  @Test func filesThatIncludeOneAnotherEnd() throws {
    #expect { _ = try menu(["/boot/extlinux/extlinux.conf": "INCLUDE extlinux.conf"]) } throws: {
      ($0 as? BootImageError)?.kind == .limit
    }
  }
}

@Suite struct KernelSearchTests {
  @Test func theNewestKernelOfTheOnlySystem() throws {
    let found = try #require(
      try ConfigurationSearch(
        TestVolumes([
          "/boot/vmlinuz-6.1.0-9": "", "/boot/vmlinuz-6.1.0-10": "", "/boot/initrd.img-6.1.0-10": "",
          "/boot/vmlinuz-0-rescue-1": "", "/etc/fstab": "",
        ])
      ).run())
    #expect(found.menu.chosenEntry?.kernel?.path == "/boot/vmlinuz-6.1.0-10")
    #expect(found.menu.chosenEntry?.ramdisks.map(\.path) == ["/boot/initrd.img-6.1.0-10"])
    #expect(found.menu.chosenEntry?.arguments == "root=UUID=1111-aaaa ro")
    #expect(found.menu.entries.last?.arguments == "root=PARTUUID=01020304-01 ro")
  }

  @Test func aBootPartitionAndARoot() throws {
    let volumes = TestVolumes([
      .init(partition: .test(1), uuid: "b", files: ["/vmlinuz-6": "", "/initramfs-6.img": ""]),
      .init(partition: .test(2), uuid: "r", files: ["/usr/lib/os-release": ""]),
    ])
    let entry = try ConfigurationSearch(volumes).run()?.menu.chosenEntry
    #expect(entry?.kernel == BootPath("/vmlinuz-6", on: 0))
    #expect(entry?.arguments == "root=UUID=r ro")
  }

  @Test func severalSystemsAreNotGuessedAt() throws {
    let system = ["/boot/vmlinuz-6": "", "/etc/fstab": ""]
    let two = TestVolumes([.init(partition: .test(1), files: system), .init(partition: .test(2), files: system)])
    #expect(throws: BootImageError.self) { _ = try ConfigurationSearch(two).run() }
    #expect(throws: BootImageError.self) { _ = try ConfigurationSearch(TestVolumes(["/vmlinuz-6": ""])).run() }
    #expect(try ConfigurationSearch(TestVolumes(["/x": ""])).run() == nil)
  }
}

@Suite struct KernelConsoleTests {
  @Test(arguments: [
    ("root=/dev/vda1 ro", "root=/dev/vda1 ro console=hvc0"), ("", "console=hvc0"),
    ("console=tty0", "console=tty0 console=hvc0"),
    ("console=tty0 console=ttyS0,115200", "console=tty0 console=ttyS0,115200"),
    ("console=hvc0 quiet", "console=hvc0 quiet"), ("console=ttyS1", "console=ttyS1 console=hvc0"),
  ])
  func aConsoleThatTheMachineHas(arguments: String, result: String) {
    #expect(argumentsWithConsole(arguments, consoles: ["hvc0", "ttyS0"]) == result)
    #expect(argumentsWithConsole(arguments, consoles: []) == arguments)
  }
}
