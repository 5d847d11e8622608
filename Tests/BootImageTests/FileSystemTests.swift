import Testing

@testable import BootImage

@Suite struct ExtTests {
  /// What all of them hold.
  static let tree = """
    mkdir -p t/boot/grub t/loop; printf 'hello\\n' >t/boot/grub/x.cfg
    ln -s boot/grub t/relative; ln -s /boot/grub/x.cfg t/boot/absolute; ln -s ../../../../../boot/grub/x.cfg t/boot/up
    ln -s b t/loop/a; ln -s a t/loop/b; ln -s /nowhere t/dangling
    long=$(printf '%0200d' 0); mkdir t/$long; printf long >t/$long/f; ln -s /$long/f t/longlink
    seq 1 400000 >t/big; truncate -s 3M t/sparse; printf end | dd of=t/sparse bs=1 seek=3145725 conv=notrunc
    """

  static func image(_ options: String) async throws -> [UInt8] {
    try await makeImage("\(tree)\nmkfs.\(options) -q -d t -L name -U 76d0c1e4-5f0e-4d62-9b1a-766d72756e31 disk 16M")
  }

  static func fileSystem(_ bytes: [UInt8]) throws -> ExtFileSystem {
    try #require(try ExtFileSystem(DiskRange(Disk(MemoryDisk(bytes)))))
  }

  @Test(arguments: [
    ("ext2 -b 1024", "ext2"), ("ext2 -b 4096", "ext2"), ("ext3 -b 2048", "ext3"), ("ext4", "ext4"),
    ("ext4 -b 1024 -O ^extent,^64bit,^flex_bg,^metadata_csum", "ext3"), ("ext4 -I 256 -O inline_data", "ext4"),
    ("ext4 -O bigalloc,meta_bg,^resize_inode", "ext4"),
  ])
  func filesDirectoriesAndLinks(options: String, name: String) async throws {
    let fs = try Self.fileSystem(try await Self.image(options))
    #expect(fs.name == name)
    #expect(fs.label == "name")
    #expect(fs.uuid == "76d0c1e4-5f0e-4d62-9b1a-766d72756e31")
    for path in [
      "/boot/grub/x.cfg", "boot//grub/./x.cfg", "/relative/x.cfg", "/boot/absolute", "/boot/up", "/relative/../x.cfg",
    ]
    where path != "/relative/../x.cfg" {
      #expect(try text(try fs.file(path)) == "hello\n", "\(path)")
    }
    #expect(try text(try fs.file("/longlink")) == "long")
    #expect(try fs.names(in: "/boot") == ["absolute", "grub", "up"])
    #expect(try fs.isDirectory("/relative"))
    let big = try fs.file("/big")
    #expect(big.count == 2_688_895)
    #expect(try big.bytes(limit: 4 << 20) == Array((1...400_000).map { "\($0)\n" }.joined().utf8))
    let sparse = try fs.file("/sparse").bytes(limit: 4 << 20)
    #expect(sparse.count == 3 << 20)
    #expect(sparse[3_145_725..<3_145_728].elementsEqual("end".utf8))
    #expect(sparse.count { $0 != 0 } == 3)
  }

  @Test func whatIsNotThereIsNotFound() async throws {
    let fs = try Self.fileSystem(try await Self.image("ext4"))
    for path in ["/no", "/big/file", "/dangling", "/boot", "/", "/" + String(repeating: "x", count: 300)] {
      #expect { _ = try fs.file(path) } throws: { ($0 as? BootImageError)?.kind == .notFound }
    }
    #expect { _ = try fs.names(in: "/big") } throws: { ($0 as? BootImageError)?.kind == .notFound }
  }

  @Test func linksThatLeadToOneAnotherEnd() async throws {
    let fs = try Self.fileSystem(try await Self.image("ext2"))
    #expect { _ = try fs.file("/loop/a") } throws: { ($0 as? BootImageError)?.kind == .damaged }
    #expect { _ = try fs.file(String(repeating: "/boot/..", count: 200)) } throws: {
      ($0 as? BootImageError)?.kind == .limit
    }
  }

  @Test func partsOfFilesAcrossPieces() async throws {
    let bytes = try await Self.image("ext2 -b 1024")
    let file = try Self.fileSystem(bytes).file("/big")
    let whole = try file.bytes(limit: 4 << 20)
    var generator = SeededGenerator(seed: 3)
    for _ in 0..<200 {
      let start = Int.random(in: 0..<whole.count, using: &generator)
      let count = Int.random(in: 0...min(20_000, whole.count - start), using: &generator)
      var part = [UInt8](repeating: 0xFF, count: count)
      try part.withUnsafeMutableBytes { try file.read(at: UInt64(start), into: $0) }
      #expect(part[...] == whole[start..<start + count])
    }
    var more = [UInt8](repeating: 0, count: 2)
    #expect(throws: BootImageError.self) {
      try more.withUnsafeMutableBytes { try file.read(at: file.count - 1, into: $0) }
    }
  }

  @Test func blocksThatWereNeverWrittenAreZeroes() async throws {
    // debugfs makes an extent that is reserved and not written, over blocks that held something.
    let bytes = try await makeImage(
      """
      mkfs.ext4 -q disk 8M; yes | head -c 5000000 >fill
      debugfs -w -R 'write fill fill' disk; debugfs -w -R 'rm fill' disk
      : >empty; debugfs -w -R 'write empty file' disk; debugfs -w -R 'fallocate file 0 15' disk
      debugfs -w -R 'set_inode_field file size 65536' disk
      """)
    let content = try Self.fileSystem(bytes).file("/file").bytes(limit: 1 << 20)
    #expect(content == [UInt8](repeating: 0, count: 65536))
  }

  @Test func anOpenJournalIsNoticed() async throws {
    let bytes = try await makeImage("mkfs.ext4 -q disk 8M; debugfs -w -R 'feature needs_recovery' disk")
    #expect(try Self.fileSystem(bytes).needsRecovery)
    #expect(try !Self.fileSystem(try await makeImage("mkfs.ext4 -q disk 8M")).needsRecovery)
  }

  @Test func featuresThatAreUnknownAreSaid() async throws {
    var bytes = try await makeImage("mkfs.ext2 -q disk 4M")
    bytes[1024 + 0x63] = 0x80
    #expect { _ = try Self.fileSystem(bytes) } throws: { ($0 as? BootImageError)?.kind == .unsupported }
  }

  @Test func groupDescriptorsLargerThanMemoryAreRefused() async throws {
    var bytes = try await makeImage("mkfs.ext4 -q -O 64bit,^metadata_csum disk 8M")
    for byte in 0..<4 { bytes[1024 + 0x150 + byte] = 0x7F }
    #expect { _ = try Self.fileSystem(bytes) } throws: { ($0 as? BootImageError)?.kind == .damaged }
  }
}

@Suite struct FATTests {
  static let tree = """
    mmd -i disk ::/loader ::/loader/entries ::/EFI
    printf 'hello\\n' >a; mcopy -i disk a '::/loader/entries/A long name with üml.conf'; mcopy -i disk a ::/SHORT.TXT
    seq 1 60000 >big; mcopy -i disk big ::/loader/vmlinuz-6.1
    for i in $(seq 1 100); do printf $i >f; mcopy -i disk f "::/EFI/a file with number $i"; done
    """

  static func image(_ size: String, _ options: String) async throws -> [UInt8] {
    try await makeImage("truncate -s \(size) disk; mkfs.vfat \(options) -i 1234abcd -n NAME disk\n\(tree)")
  }

  static func fileSystem(_ bytes: [UInt8]) throws -> FATFileSystem {
    try #require(try FATFileSystem(DiskRange(Disk(MemoryDisk(bytes)))))
  }

  @Test(arguments: [
    ("2M", "-F 12", "FAT12"), ("16M", "-F 16", "FAT16"), ("40M", "-F 32 -s 1", "FAT32"),
    ("16M", "-F 12 -s 16", "FAT12"),
    ("40M", "-F 16 -S 1024", "FAT16"),
  ])
  func filesAndLongNames(size: String, options: String, name: String) async throws {
    let fs = try Self.fileSystem(try await Self.image(size, options))
    #expect(fs.name == name)
    #expect(fs.uuid == "1234-ABCD")
    #expect(fs.label == "NAME")
    #expect(try fs.names(in: "/loader/entries") == ["A long name with üml.conf"])
    #expect(try text(try fs.file("/LOADER/entries/a LONG name with üml.CONF")) == "hello\n")
    #expect(try text(try fs.file("/loader/entries/../../short.txt")) == "hello\n")
    #expect(try text(try fs.file("/loader/entries/ALONGN~1.CON")) == "hello\n")
    #expect(try fs.names(in: "/EFI").count == 100)
    #expect(try text(try fs.file("/efi/a file with number 77")) == "77")
    #expect(
      try fs.file("/loader/vmlinuz-6.1").bytes(limit: 1 << 20) == Array((1...60_000).map { "\($0)\n" }.joined().utf8))
    #expect(try fs.isDirectory("/") && fs.isDirectory("/loader") && !fs.isDirectory("/short.txt"))
    for path in ["/no", "/short.txt/x", "/loader"] {
      #expect { _ = try fs.file(path) } throws: { ($0 as? BootImageError)?.kind == .notFound }
    }
  }

  @Test func chainsThatLeadBackEnd() async throws {
    var bytes = try await Self.image("16M", "-F 16")
    // The table follows the reserved sectors; each entry leads to the cluster before it, the second to itself.
    let reserved = Int(bytes[14]) * 512
    for cluster in 2..<4000 { (bytes[reserved + cluster * 2], bytes[reserved + cluster * 2 + 1]) = (2, 0) }
    let fs = try Self.fileSystem(bytes)
    // A directory in a loop is read up to its limit, a file up to its length.
    _ = try? fs.names(in: "/EFI")
    _ = try? fs.file("/loader/vmlinuz-6.1")
  }

  @Test func otherBootSectorsAreNoFAT() throws {
    var sector = [UInt8](repeating: 0, count: 1 << 20)
    (sector[510], sector[511]) = (0x55, 0xAA)
    #expect(try FATFileSystem(DiskRange(Disk(MemoryDisk(sector)))) == nil)
    sector[0] = 0xEB
    #expect(try FATFileSystem(DiskRange(Disk(MemoryDisk(sector)))) == nil)
    #expect(try FATFileSystem(DiskRange(Disk(MemoryDisk([])))) == nil)
  }
}
