import Engines
import Glibc
import TestKit
import Testing

@testable import KVMEngine

@Suite struct KVMHostTests {
  private func failure(_ path: String) -> String {
    do throws(EngineFailure) {
      _ = try KVMHost(path: path)
      return "opened"
    } catch {
      return error.description
    }
  }

  @Test func aMissingDeviceSaysWhichModuleToLoadAndHowToPassItToAContainer() {
    let text = failure("/nowhere/kvm")
    #expect(text.hasPrefix("/nowhere/kvm does not exist"))
    #expect(text.contains("modprobe kvm_intel or kvm_amd"))
    #expect(text.contains("--device /nowhere/kvm"))
  }

  @Test func whatIsNotKVMIsNamed() throws {
    #expect(failure("/dev/null").hasPrefix("/dev/null: "))
    #expect(failure("/dev/null").contains("is this really KVM?"))
    let file = try TemporaryFile([1, 2, 3])
    #expect(failure(file.path).contains("is this really KVM?"))
    #expect(failure("/tmp") == "/tmp: Is a directory")
  }

  @Test(.enabled("root may open any file") { geteuid() != 0 })
  func aForbiddenDeviceSaysWhichGroupToJoin() throws {
    let file = try TemporaryFile([])
    chmod(file.path, 0)
    #expect(failure(file.path).contains("permission denied: add yourself to its group (sudo usermod -aG kvm $USER"))
  }
}
