import X86

@testable import SoftEngine

/// Flags that the manual leaves undefined, with its words (SDM vol. 2). Nothing is compared there.
enum UndefinedFlags {
  struct Row {
    let operations: [Operation]
    let flags: UInt64
    let words: String
  }

  static let rows: [Row] = [
    Row(
      operations: [.and, .or, .xor, .test], flags: RFLAGS.af, words: "the state of the AF flag is undefined"),
    Row(
      operations: [.mul, .imul], flags: RFLAGS.sf | RFLAGS.zf | RFLAGS.af | RFLAGS.pf,
      words: "The SF, ZF, AF, and PF flags are undefined."),
    Row(
      operations: [.div, .idiv], flags: RFLAGS.arithmetic,
      words: "The CF, OF, SF, ZF, AF, and PF flags are undefined."),
    Row(
      operations: [.shl, .shr, .sar], flags: RFLAGS.af | RFLAGS.of | RFLAGS.cf,
      words: "CF ... is undefined for SHL and SHR instructions where the count is greater than or equal to the size; "
        + "OF ... is affected only for 1-bit shifts; AF is undefined for a non-zero count"),
    Row(
      operations: [.rol, .ror, .rcl, .rcr], flags: RFLAGS.of,
      words: "The OF flag is ... undefined for multi-bit rotates"),
    Row(
      operations: [.shld, .shrd], flags: RFLAGS.arithmetic,
      words:
        "for shifts greater than 1 bit, OF is undefined; AF is undefined; if the count is greater than the operand "
        + "size, the flags are undefined"),
    Row(
      operations: [.bt, .bts, .btr, .btc], flags: RFLAGS.of | RFLAGS.sf | RFLAGS.af | RFLAGS.pf,
      words: "The OF, SF, AF, and PF flags are undefined."),
    Row(
      operations: [.bsf, .bsr], flags: RFLAGS.cf | RFLAGS.of | RFLAGS.sf | RFLAGS.af | RFLAGS.pf,
      words: "The CF, OF, SF, AF, and PF flags are undefined."),
    Row(
      operations: [.tzcnt, .lzcnt], flags: RFLAGS.of | RFLAGS.sf | RFLAGS.af | RFLAGS.pf,
      words: "OF, SF, PF and AF flags are undefined."),
    Row(
      operations: [.bextr], flags: RFLAGS.af | RFLAGS.sf | RFLAGS.pf,
      words: "ZF is updated based on the result. AF, SF, and PF are undefined. All other flags are cleared."),
    Row(
      operations: [.andn, .blsr, .blsi, .blsmsk, .bzhi], flags: RFLAGS.af | RFLAGS.pf,
      words: "AF and PF flags are undefined."),
  ]

  static func mask(_ operation: Operation) -> UInt64 {
    rows.first { $0.operations.contains(operation) }?.flags ?? 0
  }
}
