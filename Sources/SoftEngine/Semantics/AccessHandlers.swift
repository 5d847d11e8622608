import CSoftCPU

// One line for each width; the bodies are in Access.swift. Flat: 64-bit addresses without a segment base.

@c func softLoadFlat8(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt8.self, softLoadSlow8) }
@c func softLoadSegmented8(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt8.self, softLoadSlow8) }
@c func softLoadSlow8(_ s: State, _ o: MicroOp) { return loadSlow(s, o, UInt8.self) }
@c func softLoadForWriteFlat8(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Flat.self, UInt8.self, softLoadForWriteSlow8)
}
@c func softLoadForWriteSegmented8(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Segmented.self, UInt8.self, softLoadForWriteSlow8)
}
@c func softLoadForWriteSlow8(_ s: State, _ o: MicroOp) { return loadForWriteSlow(s, o, UInt8.self) }
@c func softStoreFlat8(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt8.self, softStoreSlow8) }
@c func softStoreSegmented8(_ s: State, _ o: MicroOp) { return store(s, o, Segmented.self, UInt8.self, softStoreSlow8) }
@c func softStoreSlow8(_ s: State, _ o: MicroOp) { return storeSlow(s, o, UInt8.self) }
@c func softLoadFlat16(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt16.self, softLoadSlow16) }
@c func softLoadSegmented16(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt16.self, softLoadSlow16) }
@c func softLoadSlow16(_ s: State, _ o: MicroOp) { return loadSlow(s, o, UInt16.self) }
@c func softLoadForWriteFlat16(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Flat.self, UInt16.self, softLoadForWriteSlow16)
}
@c func softLoadForWriteSegmented16(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Segmented.self, UInt16.self, softLoadForWriteSlow16)
}
@c func softLoadForWriteSlow16(_ s: State, _ o: MicroOp) { return loadForWriteSlow(s, o, UInt16.self) }
@c func softStoreFlat16(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt16.self, softStoreSlow16) }
@c func softStoreSegmented16(_ s: State, _ o: MicroOp) {
  return store(s, o, Segmented.self, UInt16.self, softStoreSlow16)
}
@c func softStoreSlow16(_ s: State, _ o: MicroOp) { return storeSlow(s, o, UInt16.self) }
@c func softLoadFlat32(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt32.self, softLoadSlow32) }
@c func softLoadSegmented32(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt32.self, softLoadSlow32) }
@c func softLoadSlow32(_ s: State, _ o: MicroOp) { return loadSlow(s, o, UInt32.self) }
@c func softLoadForWriteFlat32(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Flat.self, UInt32.self, softLoadForWriteSlow32)
}
@c func softLoadForWriteSegmented32(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Segmented.self, UInt32.self, softLoadForWriteSlow32)
}
@c func softLoadForWriteSlow32(_ s: State, _ o: MicroOp) { return loadForWriteSlow(s, o, UInt32.self) }
@c func softStoreFlat32(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt32.self, softStoreSlow32) }
@c func softStoreSegmented32(_ s: State, _ o: MicroOp) {
  return store(s, o, Segmented.self, UInt32.self, softStoreSlow32)
}
@c func softStoreSlow32(_ s: State, _ o: MicroOp) { return storeSlow(s, o, UInt32.self) }
@c func softLoadFlat64(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt64.self, softLoadSlow64) }
@c func softLoadSegmented64(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt64.self, softLoadSlow64) }
@c func softLoadSlow64(_ s: State, _ o: MicroOp) { return loadSlow(s, o, UInt64.self) }
@c func softLoadForWriteFlat64(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Flat.self, UInt64.self, softLoadForWriteSlow64)
}
@c func softLoadForWriteSegmented64(_ s: State, _ o: MicroOp) {
  return loadForWrite(s, o, Segmented.self, UInt64.self, softLoadForWriteSlow64)
}
@c func softLoadForWriteSlow64(_ s: State, _ o: MicroOp) { return loadForWriteSlow(s, o, UInt64.self) }
@c func softStoreFlat64(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt64.self, softStoreSlow64) }
@c func softStoreSegmented64(_ s: State, _ o: MicroOp) {
  return store(s, o, Segmented.self, UInt64.self, softStoreSlow64)
}
@c func softStoreSlow64(_ s: State, _ o: MicroOp) { return storeSlow(s, o, UInt64.self) }

extension SizedHandlers {
  static var loadFlat: SizedHandlers {
    SizedHandlers(softLoadFlat8, softLoadFlat16, softLoadFlat32, softLoadFlat64)
  }
  static var loadSegmented: SizedHandlers {
    SizedHandlers(softLoadSegmented8, softLoadSegmented16, softLoadSegmented32, softLoadSegmented64)
  }
  static var loadForWriteFlat: SizedHandlers {
    SizedHandlers(softLoadForWriteFlat8, softLoadForWriteFlat16, softLoadForWriteFlat32, softLoadForWriteFlat64)
  }
  static var loadForWriteSegmented: SizedHandlers {
    SizedHandlers(
      softLoadForWriteSegmented8, softLoadForWriteSegmented16, softLoadForWriteSegmented32, softLoadForWriteSegmented64)
  }
  static var storeFlat: SizedHandlers {
    SizedHandlers(softStoreFlat8, softStoreFlat16, softStoreFlat32, softStoreFlat64)
  }
  static var storeSegmented: SizedHandlers {
    SizedHandlers(softStoreSegmented8, softStoreSegmented16, softStoreSegmented32, softStoreSegmented64)
  }
}
