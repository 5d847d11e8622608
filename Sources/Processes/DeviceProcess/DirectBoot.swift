import Backends
import Boards
import Engines
import GuestMemory
import LinuxSystem

/// A kernel that is started without firmware: loaded at the start, and again at each reset.
struct DirectBoot: Sendable {
  private let loader: KernelLoader
  private let memory: GuestMemory

  init(_ loader: KernelLoader, memory: GuestMemory) {
    self.loader = loader
    self.memory = memory
  }

  /// Loads everything and tells the launcher where to begin.
  func load(isFresh: Bool, channel: Channel) throws {
    try channel.send(.startState, try loader.load(into: memory, isFresh: isFresh).encoded)
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
