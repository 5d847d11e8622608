import CPU

/// Starts all processors but this one, and waits until `arrived` counts `others` of them.
func startProcessors(_ others: UInt32, arrived: () -> UInt32) {
  let trampoline: UInt64 = 0x8000
  for offset in 0..<trampoline_size() { store8(trampoline + offset, load8(trampoline_address() + offset)) }
  // SDM vol. 3, 9.4.4: INIT, 10 ms, start-up, 200 us, start-up, to all but this one.
  LocalAPIC.send(0xC4500)
  sleep(milliseconds: 10)
  LocalAPIC.send(0xC4600 | UInt32(trampoline >> 12))
  _ = eventually(200) { arrived() == others }
  if arrived() == 0 { LocalAPIC.send(0xC4600 | UInt32(trampoline >> 12)) }
  _ = eventually { arrived() >= others }
}
