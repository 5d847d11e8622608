import CSoftCPU

// One line for each width; the bodies are in Access.swift. Flat: 64-bit addresses without a segment base.

@c func softLoadFlat8(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt8.self) }
@c func softLoadFlat16(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt16.self) }
@c func softLoadFlat32(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt32.self) }
@c func softLoadFlat64(_ s: State, _ o: MicroOp) { return load(s, o, Flat.self, UInt64.self) }
@c func softLoadSegmented8(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt8.self) }
@c func softLoadSegmented16(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt16.self) }
@c func softLoadSegmented32(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt32.self) }
@c func softLoadSegmented64(_ s: State, _ o: MicroOp) { return load(s, o, Segmented.self, UInt64.self) }
@c func softLoadForWriteFlat8(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Flat.self, UInt8.self) }
@c func softLoadForWriteFlat16(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Flat.self, UInt16.self) }
@c func softLoadForWriteFlat32(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Flat.self, UInt32.self) }
@c func softLoadForWriteFlat64(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Flat.self, UInt64.self) }
@c func softLoadForWriteSegmented8(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Segmented.self, UInt8.self) }
@c func softLoadForWriteSegmented16(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Segmented.self, UInt16.self) }
@c func softLoadForWriteSegmented32(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Segmented.self, UInt32.self) }
@c func softLoadForWriteSegmented64(_ s: State, _ o: MicroOp) { return loadForWrite(s, o, Segmented.self, UInt64.self) }
@c func softStoreFlat8(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt8.self) }
@c func softStoreFlat16(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt16.self) }
@c func softStoreFlat32(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt32.self) }
@c func softStoreFlat64(_ s: State, _ o: MicroOp) { return store(s, o, Flat.self, UInt64.self) }
@c func softStoreSegmented8(_ s: State, _ o: MicroOp) { return store(s, o, Segmented.self, UInt8.self) }
@c func softStoreSegmented16(_ s: State, _ o: MicroOp) { return store(s, o, Segmented.self, UInt16.self) }
@c func softStoreSegmented32(_ s: State, _ o: MicroOp) { return store(s, o, Segmented.self, UInt32.self) }
@c func softStoreSegmented64(_ s: State, _ o: MicroOp) { return store(s, o, Segmented.self, UInt64.self) }

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
