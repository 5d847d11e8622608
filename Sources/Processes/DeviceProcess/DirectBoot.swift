import Backends
import Boards
import Engines
import GuestMemory
import LinuxSystem

/// A kernel that is started without firmware: loaded at the start, and again at each reset.
struct DirectBoot: Sendable {
  private let memory: GuestMemory
  private let loader: @Sendable () throws -> KernelLoader

  /// - Parameter loader: called for each start, as a disk may name another kernel then.
  init(memory: GuestMemory, loader: @escaping @Sendable () throws -> KernelLoader) {
    self.memory = memory
    self.loader = loader
  }

  /// Loads everything and tells the launcher where to begin.
  func load(isFresh: Bool, channel: Channel) throws {
    try channel.send(.startState, try loader().load(into: memory, isFresh: isFresh).encoded)
  }
}

extension KernelFile {
  /// A file that the launcher opened.
  init(_ descriptor: consuming Descriptor, name: String) throws(SystemError) {
    let size = try descriptor.imageSize()
    let file = SharedDescriptor(descriptor)
    self.init(name: name, count: size) { (offset, buffer) throws(BootError) in
      do throws(SystemError) {
        try file.descriptor.readFully([buffer], at: offset)
      } catch {
        throw BootError("the file cannot be read: \(error.reason)")
      }
    }
  }
}
