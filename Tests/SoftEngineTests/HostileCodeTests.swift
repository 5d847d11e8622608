import CSoftCPU
import Engines
import Glibc
import LinuxSystem
import Synchronization
import TestKit
import Testing

@testable import SoftEngine

/// Code that is no code: random bytes with random registers, tables and devices' answers.
@Suite(.serialized) struct HostileCodeTests {
  private static let size = 1 << 20
  private static let pageTables: UInt64 = 0xC_0000
  private static let interruptTable: UInt64 = 0xD_0000
  private static let descriptorTable: UInt64 = 0xE_0000

  /// Where the processor starts: as after reset, with segments and gates, and in 64-bit mode with paging.
  enum Mode: CaseIterable { case real, protected, long }

  /// It may hang, shut down or ask devices for anything, but vmrun goes on.
  @Test(arguments: Mode.allCases, [1, Block.hot])
  func randomBytesNeverStopTheEngine(_ mode: Mode, translatedAfter hot: UInt8) throws {
    let rounds = isLongRun ? 10_000 : 150
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed \(seed): \(rounds) rounds of random code, \(mode) mode")
    var random = SplitMix(state: seed)
    let memory = try Mapping(anonymous: Self.size)
    let start = monotonicNanoseconds()
    let machine = try SoftMachine(vcpus: 1, translateAfter: hot) { monotonicNanoseconds() &- start }
    #expect(
      machine.map(
        slot: 0,
        HostMapping(guestAddress: 0, size: UInt64(Self.size), host: memory.base, readOnly: false)))
    let cpu = try machine.makeVCPU(0)
    let isDone = Flag()
    // A thread of its own: those of tasks may all be at work.
    let kicks = try HostThread("kicks") {
      while !isDone.isSet {
        usleep(2000)
        cpu.kick()
      }
    }
    var ends = (kicked: 0, shutDown: 0)
    for _ in 0..<rounds {
      Self.fill(memory.base, &random)
      try cpu.reset()
      Self.enter(mode, cpu.state, &random)
      switch Self.run(cpu, &random) {
      case .interrupted: ends.kicked += 1
      case .tripleFault: ends.shutDown += 1
      case let end: Issue.record("seed \(seed): \(end)")
      }
    }
    isDone.set()
    kicks.join()
    print("kicked \(ends.kicked), shut down \(ends.shutDown)")
  }

  private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .relaxed) }
    func set() { value.store(true, ordering: .relaxed) }
  }

  /// Until the guest shuts down, is kicked, or has asked its devices often enough.
  private static func run(_ cpu: SoftVCPU, _ random: inout SplitMix) -> Exit {
    for _ in 0..<500 {
      let exit = cpu.run(.run)
      switch exit {
      case .portIn(_, let width, let count, let data):
        for index in 0..<width * count {
          data.storeBytes(of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: index, as: UInt8.self)
        }
      case .mmioRead(_, let width, let data):
        for index in 0..<width {
          data.storeBytes(of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: index, as: UInt8.self)
        }
      case .portOut, .mmioWrite: break
      default: return exit
      }
    }
    return .interrupted
  }

  private static func fill(_ memory: UnsafeMutableRawPointer, _ random: inout SplitMix) {
    for index in stride(from: 0, to: size, by: 8) {
      memory.storeBytes(of: random.next(), toByteOffset: index, as: UInt64.self)
    }
    // More of the second map, of prefixes and of REX than chance gives.
    let frequent: [UInt8] = [0x0F, 0x0F, 0x66, 0xF3, 0xF2, 0x48, 0x4C, 0xF0, 0xD9, 0xDD]
    for _ in 0..<size / 8 {
      let place = Int(random.next() % UInt64(size))
      memory.storeBytes(of: frequent[Int(random.next() % 10)], toByteOffset: place, as: UInt8.self)
    }
    // The first 2 MiB onto themselves, of which most is there.
    let table = memory + Int(pageTables)
    for (level, entry) in [pageTables + 0x1000 | 7, pageTables + 0x2000 | 7, pageTables + 0x3000 | 7].enumerated() {
      for index in 0..<(level == 0 ? 512 : 4) {
        table.storeBytes(of: entry, toByteOffset: level * 4096 + index * 8, as: UInt64.self)
      }
    }
    for index in 0..<512 {
      let rights = random.next()
      table.storeBytes(
        of: UInt64(index) << 12 % UInt64(size) | (rights % 16 == 0 ? rights & 0xFFF : 7 | rights & 0x100),
        toByteOffset: 0x3000 + index * 8, as: UInt64.self)
    }
    // Null, code of 64, 32 and 16 bits, data, and whatever chance brings.
    let descriptors: [UInt64] = [
      0, 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x008F_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF,
      0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF,
    ]
    for (index, descriptor) in descriptors.enumerated() {
      memory.storeBytes(of: descriptor, toByteOffset: Int(descriptorTable) + index * 8, as: UInt64.self)
    }
  }

  private static func fillGates(_ memory: UInt64, _ state: UnsafeMutablePointer<soft_cpu>, _ random: inout SplitMix) {
    let isLong = state.pointee.isLongMode
    for vector in 0..<UInt64(256) {
      let offset = random.next() & 0xF_FFFF
      let selector: UInt64 = isLong ? 8 : 16
      let type = 0x8E00 | random.next() & 0x0100 | (random.next() % 8 == 0 ? random.next() & 0x7F00 : 0)
      let low = offset & 0xFFFF | selector << 16 | type << 32 | (offset >> 16) << 48
      let place = memory + vector * (isLong ? 16 : 8)
      guard let host = state.context.pointee.map.host(place) else { return }
      host.storeBytes(of: low, as: UInt64.self)
      if isLong { host.storeBytes(of: 0, toByteOffset: 8, as: UInt64.self) }
    }
  }

  private static func enter(_ mode: Mode, _ state: UnsafeMutablePointer<soft_cpu>, _ random: inout SplitMix) {
    for number in 0..<UInt8(16) {
      register(state, Slot.general(number), as: UInt64.self).pointee =
        random.next() % 4 == 0 ? random.value() : random.next() & 0xF_FFFF
    }
    state.pointee.gdtr = soft_table(base: descriptorTable, limit: UInt32(random.next() & 0xFFFF) | 0x3F)
    if mode == .real {
      state.setSegment(SegmentRegister.cs, selector: 0, base: 0, limit: 0xFFFF, attributes: 0x93)
    } else {
      let isLong = mode == .long
      state.pointee.cr0 = CR0.pe | CR0.et | (random.next() & (CR0.wp | CR0.am | CR0.ne | CR0.ts | CR0.mp | CR0.em))
      state.pointee.cr4 = CR4.osfxsr | random.next() & (CR4.osxmmexcpt | CR4.pge | CR4.de | CR4.osxsave)
      if isLong {
        state.pointee.cr0 |= CR0.pg
        state.pointee.cr4 |= CR4.pae
        state.pointee.cr3 = pageTables
        state.pointee.efer = EFER.lme | EFER.lma | EFER.nxe | random.next() & EFER.sce
      }
      let data: UInt16 = 0xC093
      for segment in [SegmentRegister.ds, SegmentRegister.es, SegmentRegister.ss, SegmentRegister.fs] {
        state.setSegment(segment, selector: 32, base: 0, limit: .max, attributes: data)
      }
      state.setSegment(
        SegmentRegister.cs, selector: isLong ? 8 : 16, base: 0, limit: .max, attributes: isLong ? 0xA09B : 0xC09B)
      state.pointee.idtr = soft_table(base: interruptTable, limit: 0xFFF)
    }
    state.updateMode()
    state.updateSegments()
    TLB.flush(state)
    if mode != .real { fillGates(interruptTable, state, &random) }
    state.pointee.rip = random.next() & (mode == .real ? 0xFFFF : 0xF_FFFF)
  }
}
