import Testing

@testable import BootImage

@Suite struct GRUBTests {
  private func menu(_ files: [String: String], _ path: String = "/boot/grub/grub.cfg") throws -> BootMenu {
    try menu(TestVolumes(files), path)
  }

  private func menu(_ volumes: TestVolumes, _ path: String = "/boot/grub/grub.cfg", on volume: Int = 0) throws
    -> BootMenu
  {
    let path = BootPath(path, on: volume)
    let bytes = try #require(try volumes.contents(path))
    return try GRUBInterpreter.menu(path, bytes, on: volumes)
  }

  private func script(_ text: String) throws -> BootMenu { try menu(["/boot/grub/grub.cfg": text]) }

  /// The shape of what grub-mkconfig writes: the default from the environment block, entries in a menu of their own.
  static let generated = """
    if [ -s $prefix/grubenv ]; then
      set have_grubenv=true
      load_env
    fi
    if [ "${next_entry}" ] ; then
       set default="${next_entry}"
       set next_entry=
       save_env next_entry
       set boot_once=true
    else
       set default="${saved_entry}"
    fi
    if [ x"${feature_menuentry_id}" = xy ]; then
      menuentry_id_option="--id"
    else
      menuentry_id_option=""
    fi
    export menuentry_id_option
    if [ "${prev_saved_entry}" ]; then
      set saved_entry="${prev_saved_entry}"
    fi
    function savedefault {
      if [ -z "${boot_once}" ]; then
        saved_entry="${chosen}"
        save_env saved_entry
      fi
    }
    function load_video {
      if [ x$feature_all_video_module = xy ]; then
        insmod all_video
      else
        insmod efi_gop
      fi
    }
    set timeout=5
    menuentry 'System' --class system --class os $menuentry_id_option 'simple-1111' {
      load_video
      insmod gzio
      if [ x$grub_platform = xxen ]; then insmod xzio; fi
      set root='hd0,msdos1'
      if [ x$feature_platform_search_hint = xy ]; then
        search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1 --hint='hd0,msdos1'  1111-AAAA
      else
        search --no-floppy --fs-uuid --set=root 1111-aaaa
      fi
      echo 'Loading ...'
      linux  /boot/vmlinuz-2 root=UUID=1111-aaaa ro  quiet "a=b c"
      initrd /boot/ucode.img /boot/initrd-2
    }
    submenu 'Advanced options' $menuentry_id_option 'advanced-1111' {
      menuentry 'System, 2' --id 'v2' {
        linux /boot/vmlinuz-2 root=UUID=1111-aaaa ro
        initrd /boot/initrd-2
      }
      menuentry 'System, 1' $menuentry_id_option 'v1' {
        linux /boot/vmlinuz-1 root=UUID=1111-aaaa ro single
      }
    }
    menuentry "Memory test" { linux16 /boot/memtest86+.bin }
    menuentry 'Firmware' { fwsetup }
    if [ -f ${config_directory}/custom.cfg ]; then source ${config_directory}/custom.cfg; fi
    """

  private func generated(saved: String?) throws -> BootMenu {
    var files = ["/boot/grub/grub.cfg": Self.generated]
    files["/boot/grub/grubenv"] = saved.map { "# GRUB Environment Block\nsaved_entry=\($0)\n#####" }
    files["/boot/grub/custom.cfg"] = "menuentry Custom { linux /k }"
    return try menu(files)
  }

  @Test func aGeneratedMenu() throws {
    let menu = try generated(saved: nil)
    #expect(
      menu.entries.map(\.titlePath) == [
        "System", "Advanced options>System, 2", "Advanced options>System, 1", "Memory test", "Custom",
      ])
    let entry = try #require(menu.chosenEntry)
    #expect(entry.id == "simple-1111")
    #expect(entry.kernel == BootPath("/boot/vmlinuz-2", on: 0))
    #expect(entry.ramdisks == [BootPath("/boot/ucode.img", on: 0), BootPath("/boot/initrd-2", on: 0)])
    #expect(entry.arguments == "BOOT_IMAGE=/boot/vmlinuz-2 root=UUID=1111-aaaa ro quiet \"a=b c\"")
  }

  @Test(arguments: [
    ("1>1", "v1"), ("advanced-1111>v1", "v1"), ("Advanced options>System, 1", "v1"), ("1>v2", "v2"), ("1", "v2"),
    ("advanced-1111", "v2"), ("simple-1111", "simple-1111"), ("0", "simple-1111"), ("no such", "simple-1111"),
    ("77", "simple-1111"), ("advanced-1111>no such", "v2"), ("", "simple-1111"),
  ])
  func theDefaultByNumberIdOrTitle(saved: String, id: String) throws {
    #expect(try generated(saved: saved).chosenEntry?.id == id)
  }

  @Test func anEntryThatStartsNoKernelCanBeTheDefault() throws {
    #expect(try generated(saved: "Firmware").chosenEntry?.title == "Firmware")
    #expect(try generated(saved: "Firmware").chosenEntry?.kernel == nil)
  }

  @Test func twoAnglesAreOneOfATitle() throws {
    #expect(try script("set default='a>>b'; menuentry x {linux /x}; menuentry 'a>b' {linux /y}").chosen == [1])
  }

  @Test func theNextEntryCountsBeforeTheSavedOne() throws {
    let block = "# GRUB Environment Block\nsaved_entry=v1\nnext_entry=Memory test\nother=a\\\\b\\\nc\n##"
    let menu = try menu(["/boot/grub/grub.cfg": Self.generated, "/boot/grub/grubenv": block])
    #expect(menu.chosenEntry?.title == "Memory test")
    #expect(GRUBEnvironmentBlock.variables(Array(block.utf8))?.last?.value == "a\\b\nc")
    #expect(GRUBEnvironmentBlock.variables(Array("saved_entry=1".utf8)) == nil)
  }

  @Test func aBootPartitionOfItsOwn() throws {
    let volumes = TestVolumes([
      .init(
        partition: .test(1), uuid: "b007", label: "boot",
        files: [
          "/grub2/grub.cfg": """
          search --no-floppy --label --set=root boot
          menuentry A { linux ($root)/vmlinuz root=/dev/vda2; initrd (hd0,msdos1)/initrd }
          menuentry B { search --file /usr/k --set; linux /usr/k }
          menuentry C { set root=(hd0,2); linux /usr/k }
          menuentry D { set root=(hd1,2); linux /usr/k }
          menuentry E { if search --fs-uuid --set=root nothing; then linux /no; else linux /yes; fi }
          """
        ]),
      .init(partition: .test(2), uuid: "0002", files: ["/usr/k": ""]),
    ])
    let menu = try menu(volumes, "/grub2/grub.cfg")
    let kernels = menu.entries.map { $0.kernel }
    #expect(
      kernels == [
        BootPath("/vmlinuz", on: 0), BootPath("/usr/k", on: 1), BootPath("/usr/k", on: 1), BootPath("/yes", on: 0),
      ])
    #expect(menu.entries.first?.ramdisks == [BootPath("/initrd", on: 0)])
    guard case .entry(let missing)? = menu.items.dropFirst(3).first else {
      Issue.record("no entry D")
      return
    }
    #expect(missing.problem?.contains("/usr/k") == true)
  }

  @Test func anEFIStubLeadsToTheConfiguration() throws {
    let volumes = TestVolumes([
      .init(
        partition: .test(1), uuid: "AAAA-BBBB",
        files: [
          "/EFI/system/grub.cfg":
            "search.fs_uuid 0002 root hd0,msdos2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg"
        ]),
      .init(
        partition: .test(2), uuid: "0002",
        files: [
          "/boot/grub/grub.cfg": "load_env\nset default=$saved_entry\nmenuentry a {linux /a}\nmenuentry b {linux /b}",
          "/boot/grub/grubenv": "# GRUB Environment Block\nsaved_entry=b\n",
        ]),
    ])
    let menu = try menu(volumes, "/EFI/system/grub.cfg")
    #expect(menu.chosenEntry?.kernel == BootPath("/b", on: 1))
  }

  @Test func loaderEntriesAsFedoraHasThem() throws {
    let volumes = TestVolumes([
      .init(
        partition: .test(1), uuid: "b007",
        files: [
          "/grub2/grub.cfg": """
          load_env -f ${config_directory}/grubenv
          if [ -n "${saved_entry}" ]; then set default="${saved_entry}"; fi
          insmod increment
          if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
            if [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then set default=1; set boot_counter=-1
            else decrement boot_counter; fi
          fi
          search --no-floppy --fs-uuid --set=boot b007
          if [ -z "${kernelopts}" ]; then set kernelopts="root=UUID=2222 ro "; fi
          insmod blscfg
          blscfg
          """,
          "/grub2/grubenv": "# GRUB Environment Block\nsaved_entry=m-6.9.0-1\nboot_success=0\n",
          "/loader/entries/m-6.9.0-1.conf":
            "title Old\nversion 6.9.0\nlinux /vmlinuz-6.9\ninitrd /initramfs-6.9.img $tuned_initrd\noptions $kernelopts rhgb\n",
          "/loader/entries/m-6.10.0-1.conf":
            "title New\nversion 6.10.0\nlinux /vmlinuz-6.10\ninitrd /initramfs-6.10.img\noptions root=UUID=2222 \"x\"\n",
          "/loader/entries/m-0-rescue.conf": "title Rescue\nlinux /vmlinuz-0\n",
        ])
    ])
    let menu = try menu(volumes, "/grub2/grub.cfg")
    #expect(menu.entries.map(\.title) == ["New", "Old", "Rescue"])
    let entry = try #require(menu.chosenEntry)
    #expect(entry.title == "Old")
    #expect(entry.ramdisks == [BootPath("/initramfs-6.9.img", on: 0)])
    #expect(entry.arguments == "BOOT_IMAGE=/vmlinuz-6.9 root=UUID=2222 ro  rhgb")
    #expect(menu.entries.first?.arguments == "BOOT_IMAGE=/vmlinuz-6.10 root=UUID=2222 \"x\"")
  }

  @Test func aXenHostsEntryStartsItsOwnKernel() throws {
    let menu = try script(
      "menuentry x { multiboot2 /boot/xen-4.17.gz placeholder dom0_mem=1G\nmodule2 /boot/vmlinuz placeholder root=/dev/vda1\nmodule2 --nounzip /boot/initrd }"
    )
    let entry = try #require(menu.chosenEntry)
    #expect(entry.kernel == BootPath("/boot/vmlinuz", on: 0))
    #expect(entry.ramdisks == [BootPath("/boot/initrd", on: 0)])
    #expect(entry.arguments == "placeholder root=/dev/vda1")
  }

  @Test(arguments: [
    ("[ a = a ]", true), ("[ a = b ]", false), ("[ a != b ]", true), ("[ ! a = b ]", true), ("! true", false),
    ("[ -z \"\" ]", true), ("[ -n \"$no\" ]", false), ("[ \"$no\" ]", false), ("[ x ]", true), ("[ ]", false),
    ("[ a = a -a b = c ]", false), ("[ a = b -o b = b ]", true), ("[ \\( a = b -o b = b \\) -a c = c ]", true),
    ("[ 10 -gt 9 ]", true), ("[ 10 -lt 9 ]", false), ("[ 3 -eq 03 ]", true), ("[ -f /boot/grub/grub.cfg ]", true),
    ("[ -f /boot/grub ]", false), ("[ -d /boot/grub ]", true), ("[ -e (hd0,1)/boot ]", true), ("[ -s /no ]", false),
    ("test a == a", true), ("[ a '<' b ]", true), ("false", false), ("unknown", false), ("[ vga2 -pgt vga1 ]", true),
    ("[ -a -o ! ( ]", true), ("keystatus --shift", false),
  ])
  func conditions(condition: String, holds: Bool) throws {
    let menu = try script("if \(condition); then set default=1; fi\nmenuentry a {linux /a}\nmenuentry b {linux /b}")
    #expect(menu.chosen == [holds ? 1 : 0])
  }

  @Test func quotingAndExpansion() throws {
    let menu = try script(
      #"""
      set a="1  2"; set b='$a'; c=x$a # a comment
      empty=
      menuentry "q \"$b\" \$a" { linux /k $a "$a" '$a' \$a ${a}z x$empty $empty "" $no a\
      b #not this
      }
      for i in 1 2 3; do if [ $i = 2 ]; then continue; fi; menuentry "m$i" {linux /m$i $1}; done
      function f { if [ "$1" = stop ]; then return; fi; menuentry "f$1 $# $2" {linux /f} ; }
      f A B; f stop
      i=0; while [ $i -lt 3 ]; do increment i; done
      until [ $i -gt 5 ]; do increment i; if [ $i = 5 ]; then break; fi; done
      menuentry "i$i" {linux /i}
      """#)
    #expect(menu.entries.map(\.title) == ["q \"$a\" $a", "m1", "m3", "fA 2 B", "i5"])
    #expect(menu.entries.first?.arguments == "BOOT_IMAGE=/k 1 2 \"1  2\" $a $a 1 2z x  ab")
    #expect(menu.entries[1].arguments == "BOOT_IMAGE=/m1 m1")
  }

  @Test func aScriptWithoutAMenu() throws {
    let menu = try script("linux /vmlinuz console=ttyS0\ninitrd /initrd\nboot")
    #expect(menu.chosenEntry?.kernel == BootPath("/vmlinuz", on: 0))
    #expect(menu.chosenEntry?.ramdisks.count == 1)
  }

  @Test(arguments: [
    "while true; do true; done", "a=1; while true; do a=$a$a; done", "function f { f; }; f",
    "source /boot/grub/grub.cfg",
    "i=0; while true; do menuentry x {linux /k}; done", String(repeating: "if true; then ", count: 5000),
    String(repeating: "submenu x { ", count: 5000), "function f { menuentry x { f; } }; f",
    "[ " + String(repeating: "! ", count: 5000) + "]", "[ " + String(repeating: "( ", count: 5000) + "]",
  ])
  func scriptsWithoutAnEndAreStopped(text: String) throws {
    #expect { _ = try script(text) } throws: { ($0 as? BootImageError)?.kind == .limit }
  }

  @Test(arguments: [
    "", "{", "}", "}}}} menuentry", "menuentry", "if", "fi", "then else fi", "for", "for x", "while", "function",
    "function f", "'", "\"", "\"$", "${", "$", "\\", "menuentry 'x' {", "set", "set =", "=", "[", "search",
    "load_env -f",
    "linux", "initrd", "module x", "source", "blscfg", "submenu x {", "menuentry --id",
    "if true; then menuentry x {linux /k",
    "probe -s", "search --hint", "linux (", "linux ()/x", "linux (hd0", "set root=(; linux /x",
  ])
  func brokenScriptsAreSurvived(text: String) throws {
    do { _ = try script(text) } catch let error as BootImageError { #expect(error.kind == .limit) }
  }

  @Test func randomScriptsAreSurvived() throws {
    var generator = SeededGenerator(seed: 7)
    let source = Array(Self.generated.utf8)
    for _ in 0..<(isLongTest ? 20_000 : 300) {
      var bytes = source
      for _ in 0..<Int.random(in: 1...20, using: &generator) {
        let place = Int.random(in: 0..<bytes.count, using: &generator)
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: bytes[place] = "{}[]'\"$;\n\\ >=".utf8.randomElement(using: &generator) ?? 0
        case 1: bytes.removeSubrange(place..<min(place + 8, bytes.count))
        default: bytes.insert(contentsOf: source[place / 2..<min(place / 2 + 40, source.count)], at: place)
        }
      }
      let volumes = TestVolumes(["/boot/grub/grub.cfg": ""])
      _ = try? GRUBInterpreter.menu(BootPath("/boot/grub/grub.cfg", on: 0), bytes, on: volumes)
    }
  }
}
