import Testing

@testable import BootImage

/// Whole disks, made by the tools that make real ones.
@Suite struct DiskTests {
  /// A system on one partition of 12 MiB, with what the script adds to `t`.
  private func system(_ script: String, table: String = "label: dos\n2048,,83,*") async throws -> BootImage {
    let bytes = try await makeImage(
      """
      mkdir -p t/boot t/etc; : >t/etc/fstab; echo kernel >t/boot/vmlinuz-6.1; echo ramdisk >t/boot/initrd.img-6.1
      ln -s boot/vmlinuz-6.1 t/vmlinuz
      \(script)
      mkfs.ext4 -q -d t -U 76d0c1e4-5f0e-4d62-9b1a-766d72756e31 fs 12M
      truncate -s 16M disk; printf '\(table)\\n' | sfdisk disk; dd if=fs of=disk bs=1M seek=1 conv=notrunc
      """)
    return try BootImage(MemoryDisk(bytes))
  }

  @Test func theDefaultEntrysFiles() async throws {
    let image = try await system(
      """
      mkdir t/boot/grub; cat >t/boot/grub/grub.cfg <<'END'
      search --fs-uuid --set=root 76d0c1e4-5f0e-4d62-9b1a-766d72756e31
      menuentry 'A' --id a { linux /vmlinuz root=/dev/vda1 ro; initrd /boot/initrd.img-6.1 /boot/initrd.img-6.1 }
      menuentry 'B' { linux /boot/gone }
      menuentry 'C' { chainloader +1 }
      END
      """)
    let configuration = try image.configuration()
    #expect(configuration.source == "/boot/grub/grub.cfg on partition 1")
    #expect(configuration.listing == "0*\ta\tA\n1\t\tB\n")
    let opened = try image.open(try configuration.entry(named: nil))
    #expect(try text(opened.kernel) == "kernel\n")
    #expect(try opened.ramdisks.map { try text($0) } == ["ramdisk\n", "ramdisk\n"])
    #expect(opened.arguments == "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro")
    for name in ["0", "a", "A"] { #expect(try configuration.entry(named: name).title == "A") }
    #expect(try configuration.entry(named: "1").title == "B")
    #expect {
      _ = try image.open(try configuration.entry(named: "B"))
    } throws: {
      "\($0)" == "entry 'B': /boot/gone on partition 1: not found"
    }
    #expect { _ = try configuration.entry(named: "D") } throws: { "\($0)".contains("no entry 'D'") }
  }

  @Test func aDefaultThatStartsNoKernel() async throws {
    let image = try await system(
      "mkdir t/boot/grub; echo 'set default=1; menuentry A { linux /vmlinuz }; menuentry W { chainloader +1 }' >t/boot/grub/grub.cfg"
    )
    #expect { _ = try image.configuration().entry(named: nil) } throws: { "\($0)".contains("starts no Linux kernel") }
  }

  @Test func withoutConfigurationTheOnlyKernel() async throws {
    let entry = try await system("").configuration().entry(named: nil)
    #expect(entry.arguments == "root=UUID=76d0c1e4-5f0e-4d62-9b1a-766d72756e31 ro")
    #expect(entry.id == "vmlinuz-6.1")
  }

  @Test func withoutAnythingTheErrorSaysWhatWasLookedFor() async throws {
    let image = try await system("rm -r t/boot t/vmlinuz", table: "label: dos\n2048,24576,83\n30720,1024,83")
    #expect { _ = try image.configuration() } throws: {
      "\($0)".contains("grub.cfg") && "\($0)".contains("partition 1 is ext4, partition 2 has no file system")
    }
  }

  @Test func entriesOnAnEFISystemPartition() async throws {
    let bytes = try await makeImage(
      """
      truncate -s 40M esp; mkfs.vfat -F 32 -i 12345678 esp; mmd -i esp ::/loader ::/loader/entries ::/abc ::/abc/6.1
      printf 'default abc*\\n' >f; mcopy -i esp f ::/loader/loader.conf; echo kernel >f; mcopy -i esp f ::/abc/6.1/linux
      printf 'title T\\nlinux /abc/6.1/linux\\noptions root=PARTLABEL=root\\n' >f; mcopy -i esp f ::/loader/entries/abc-6.1.conf
      truncate -s 44M disk; printf 'label: gpt\\nstart=2048,size=81920,type=U\\n' | sfdisk disk
      dd if=esp of=disk bs=1M seek=1 conv=notrunc
      """)
    let image = try BootImage(MemoryDisk(bytes))
    let entry = try image.configuration().entry(named: nil)
    #expect(entry.title == "T")
    #expect(try text(image.open(entry).kernel) == "kernel\n")
  }

  @Test func aFileSystemOnTheWholeDisk() async throws {
    let bytes = try await makeImage(
      """
      mkdir -p t/boot/grub; echo kernel >t/boot/k
      printf 'default 0\\ntitle T\\nroot (hd0)\\nkernel /boot/k root=/dev/xvda1\\n' >t/boot/grub/menu.lst
      mkfs.ext3 -q -d t disk 8M
      """)
    let image = try BootImage(MemoryDisk(bytes))
    #expect(try image.configuration().source == "/boot/grub/menu.lst on the unpartitioned disk")
    #expect(try text(image.open(image.configuration().entry(named: nil)).kernel) == "kernel\n")
  }

  @Test(arguments: [("xfs", "XFSB", 0), ("luks", "LUKS\\272\\276", 0), ("btrfs", "_BHRfS_M", 0x10040)])
  func whatIsNotReadIsNamed(name: String, mark: String, offset: Int) async throws {
    let bytes = try await makeImage(
      "truncate -s 1M disk; printf '\(mark)' | dd of=disk bs=1 seek=\(offset) conv=notrunc")
    #expect { _ = try BootImage(MemoryDisk(bytes)).configuration() } throws: {
      "\($0)".lowercased().contains(name) && "\($0)".contains("not read here")
    }
  }

  // MARK: Hostile disks

  /// Everything that a boot does, with its files read. What it throws does not matter.
  private func boot(_ bytes: [UInt8]) {
    guard let image = try? BootImage(Disk(MemoryDisk(bytes), workLimit: 1 << 14)),
      let configuration = try? image.configuration()
    else { return }
    for entry in configuration.entries.prefix(4) {
      guard let opened = try? image.open(entry) else { continue }
      for file in [opened.kernel] + opened.ramdisks { _ = try? file.bytes(limit: 1 << 16) }
    }
  }

  private static let content = """
    mkdir -p t/boot/grub t/etc; : >t/etc/fstab; seq 1 9000 >t/boot/vmlinuz; seq 1 5000 >t/boot/initrd
    for i in $(seq 1 200); do : >t/etc/a-name-of-some-length-$i; done; cat >t/boot/grub/grub.cfg <<'END'
    if [ -d /etc ]; then menuentry A { linux /vmlinuz root=/dev/vda ; initrd /boot/initrd }
    fi
    menuentry B { linux /long; initrd /boot/longer }
    END
    """

  private static let links = """
    ln -s boot/vmlinuz t/vmlinuz; long=$(printf '%0200d' 0); ln -s /boot/../boot/./././$long t/long; ln -s $long$long t/boot/longer
    """

  static let hostile: [(String, String)] = [
    ("ext4", "mkfs.ext4 -q -d t disk 4M"),
    ("ext4 without checksums", "mkfs.ext4 -q -b 1024 -O ^metadata_csum -d t disk 4M"),
    ("ext2", "mkfs.ext2 -q -b 1024 -N 400 -d t disk 3M"),
    ("inline data", "mkfs.ext4 -q -I 256 -O inline_data,^metadata_csum -d t disk 4M"),
    ("hashed", "mkfs.ext3 -q -b 1024 -d t disk 4M; e2fsck -fyD disk || [ $? = 1 ]"),
    (
      "FAT12",
      "truncate -s 2M disk; mkfs.vfat -F 12 disk; mcopy -i disk -s t/boot t/etc ::/; mcopy -i disk t/boot/vmlinuz ::/vmlinuz"
    ),
    (
      "FAT16",
      "truncate -s 5M disk; mkfs.vfat -F 16 -s 1 disk; mcopy -i disk -s t/boot t/etc ::/; mcopy -i disk t/boot/vmlinuz ::/vmlinuz"
    ),
  ]

  @Test(arguments: hostile) func damagedFileSystemsAreSurvivedInBoundedTime(name: String, make: String) async throws {
    let links = name.hasPrefix("FAT") ? "" : Self.links
    let original = try await makeImage("\(Self.content)\n\(links)\n\(make)")
    #expect(try !BootImage(MemoryDisk(original)).configuration().entries.isEmpty)
    // What is not zero is what decides; most of that is structure.
    let places = original.indices.filter { original[$0] != 0 }
    var generator = SeededGenerator(seed: UInt64(name.utf8.count))
    for _ in 0..<(isLongTest ? 5000 : 40) {
      var bytes = original
      for _ in 0..<Int.random(in: 1...200, using: &generator) {
        let place = (places.randomElement(using: &generator) ?? 0) &+ Int.random(in: 0...3, using: &generator)
        guard place < bytes.count else { continue }
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: bytes[place] ^= 1 << UInt8.random(in: 0...7, using: &generator)
        case 1: bytes[place] = .random(in: 0...255, using: &generator)
        default: bytes[place] = 0xFF
        }
      }
      boot(bytes)
    }
  }

  @Test func workIsBounded() async throws {
    let bytes = try await makeImage("\(Self.content)\nmkfs.ext4 -q -d t disk 4M")
    let disk = Disk(MemoryDisk(bytes), workLimit: 20)
    #expect { _ = try BootImage(disk).configuration() } throws: { ($0 as? BootImageError)?.kind == .limit }
  }
}
