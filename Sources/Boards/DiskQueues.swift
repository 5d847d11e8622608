import MachineModel

extension MachineSpec {
  /// Processors that ACPI lists beside the machine's own as not there. Linux schedules the requests of a disk with one
  /// queue, each by way of a thread, and those of one with several queues not at all; it takes no more queues than it
  /// counts processors, absent ones among them.
  var absentCPUs: Int { mode != .hvm && cpus == 1 ? 1 : 0 }

  /// Request queues of a virtio disk that the recipe makes: one for each CPU, so that none waits for another's.
  var diskQueues: Int { min(cpus + absentCPUs, Self.maximumDiskQueues) }
  private static var maximumDiskQueues: Int { 16 }
}
