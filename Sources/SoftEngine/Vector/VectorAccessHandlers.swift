import CSoftCPU

// One line for each width and form; the bodies are in VectorAccess.swift.

@c func softLoadVectorFlat32(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Flat.self, Doubleword.self, softLoadVectorSlow32)
}
@c func softLoadVectorSegmented32(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Segmented.self, Doubleword.self, softLoadVectorSlow32)
}
@inline(never) @c func softLoadVectorSlow32(_ s: State, _ o: MicroOp) { return loadVectorSlow(s, o, Doubleword.self) }
@c func softStoreVectorFlat32(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Flat.self, Doubleword.self, softStoreVectorSlow32)
}
@c func softStoreVectorSegmented32(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Segmented.self, Doubleword.self, softStoreVectorSlow32)
}
@inline(never) @c func softStoreVectorSlow32(_ s: State, _ o: MicroOp) { return storeVectorSlow(s, o, Doubleword.self) }
@c func softLoadVectorFlat64(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Flat.self, Quadword.self, softLoadVectorSlow64)
}
@c func softLoadVectorSegmented64(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Segmented.self, Quadword.self, softLoadVectorSlow64)
}
@inline(never) @c func softLoadVectorSlow64(_ s: State, _ o: MicroOp) { return loadVectorSlow(s, o, Quadword.self) }
@c func softStoreVectorFlat64(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Flat.self, Quadword.self, softStoreVectorSlow64)
}
@c func softStoreVectorSegmented64(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Segmented.self, Quadword.self, softStoreVectorSlow64)
}
@inline(never) @c func softStoreVectorSlow64(_ s: State, _ o: MicroOp) { return storeVectorSlow(s, o, Quadword.self) }
@c func softLoadVectorFlat128(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Flat.self, DoubleQuadword.self, softLoadVectorSlow128)
}
@c func softLoadVectorSegmented128(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Segmented.self, DoubleQuadword.self, softLoadVectorSlow128)
}
@inline(never) @c func softLoadVectorSlow128(_ s: State, _ o: MicroOp) {
  return loadVectorSlow(s, o, DoubleQuadword.self)
}
@c func softStoreVectorFlat128(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Flat.self, DoubleQuadword.self, softStoreVectorSlow128)
}
@c func softStoreVectorSegmented128(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Segmented.self, DoubleQuadword.self, softStoreVectorSlow128)
}
@inline(never) @c func softStoreVectorSlow128(_ s: State, _ o: MicroOp) {
  return storeVectorSlow(s, o, DoubleQuadword.self)
}
@c func softLoadAlignedFlat(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Flat.self, AlignedDoubleQuadword.self, softLoadAlignedSlow)
}
@c func softLoadAlignedSegmented(_ s: State, _ o: MicroOp) {
  return loadVector(s, o, Segmented.self, AlignedDoubleQuadword.self, softLoadAlignedSlow)
}
@inline(never) @c func softLoadAlignedSlow(_ s: State, _ o: MicroOp) {
  return loadVectorSlow(s, o, AlignedDoubleQuadword.self)
}
@c func softStoreAlignedFlat(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Flat.self, AlignedDoubleQuadword.self, softStoreAlignedSlow)
}
@c func softStoreAlignedSegmented(_ s: State, _ o: MicroOp) {
  return storeVector(s, o, Segmented.self, AlignedDoubleQuadword.self, softStoreAlignedSlow)
}
@inline(never) @c func softStoreAlignedSlow(_ s: State, _ o: MicroOp) {
  return storeVectorSlow(s, o, AlignedDoubleQuadword.self)
}

/// Handlers that move a vector operand by its bytes in memory: 4, 8, 16.
struct VectorAccessHandlers {
  let flat: (soft_handler, soft_handler, soft_handler)
  let segmented: (soft_handler, soft_handler, soft_handler)

  func pick(_ size: UInt8, isFlat: Bool) -> soft_handler {
    let handlers = isFlat ? flat : segmented
    return size == 4 ? handlers.0 : size == 8 ? handlers.1 : handlers.2
  }

  static var load: VectorAccessHandlers {
    VectorAccessHandlers(
      flat: (softLoadVectorFlat32, softLoadVectorFlat64, softLoadVectorFlat128),
      segmented: (softLoadVectorSegmented32, softLoadVectorSegmented64, softLoadVectorSegmented128))
  }
  static var store: VectorAccessHandlers {
    VectorAccessHandlers(
      flat: (softStoreVectorFlat32, softStoreVectorFlat64, softStoreVectorFlat128),
      segmented: (softStoreVectorSegmented32, softStoreVectorSegmented64, softStoreVectorSegmented128))
  }
  static var loadAligned: VectorAccessHandlers {
    VectorAccessHandlers(
      flat: (softLoadVectorFlat32, softLoadVectorFlat64, softLoadAlignedFlat),
      segmented: (softLoadVectorSegmented32, softLoadVectorSegmented64, softLoadAlignedSegmented))
  }
  static var storeAligned: VectorAccessHandlers {
    VectorAccessHandlers(
      flat: (softStoreVectorFlat32, softStoreVectorFlat64, softStoreAlignedFlat),
      segmented: (softStoreVectorSegmented32, softStoreVectorSegmented64, softStoreAlignedSegmented))
  }
}
