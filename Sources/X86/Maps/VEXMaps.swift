extension OpcodeRow {
  /// VEX-encoded instructions of map 0F 38: those of BMI1 and BMI2 (SDM vol. 2, tables ).
  static let vex0F38: [OpcodeRow] = [
    row("VEX.LZ.NP.0F38 F2 /r", .andn, "Gy,By,Ey", [.bmi1, .protected]),
    row("VEX.LZ.NP.0F38 F3 /1", .blsr, "By,Ey", [.bmi1, .protected]),
    row("VEX.LZ.NP.0F38 F3 /2", .blsmsk, "By,Ey", [.bmi1, .protected]),
    row("VEX.LZ.NP.0F38 F3 /3", .blsi, "By,Ey", [.bmi1, .protected]),
    row("VEX.LZ.NP.0F38 F5 /r", .bzhi, "Gy,Ey,By", [.bmi2, .protected]),
    row("VEX.LZ.F3.0F38 F5 /r", .pext, "Gy,By,Ey", [.bmi2, .protected]),
    row("VEX.LZ.F2.0F38 F5 /r", .pdep, "Gy,By,Ey", [.bmi2, .protected]),
    row("VEX.LZ.F2.0F38 F6 /r", .mulx, "Gy,By,Ey", [.bmi2, .protected]),
    row("VEX.LZ.NP.0F38 F7 /r", .bextr, "Gy,Ey,By", [.bmi1, .protected]),
    row("VEX.LZ.66.0F38 F7 /r", .shlx, "Gy,Ey,By", [.bmi2, .protected]),
    row("VEX.LZ.F3.0F38 F7 /r", .sarx, "Gy,Ey,By", [.bmi2, .protected]),
    row("VEX.LZ.F2.0F38 F7 /r", .shrx, "Gy,Ey,By", [.bmi2, .protected]),
  ]

  /// VEX-encoded instructions of map 0F 3A: BMI2's (SDM vol. 2, table A-5).
  static let vex0F3A: [OpcodeRow] = [
    row("VEX.LZ.F2.0F3A F0 /r", .rorx, "Gy,Ey,Ib", [.bmi2, .protected])
  ]
}
