import CSandboxProbe
import CSeccomp
import Glibc
import LinuxSystem

/// Makes a system call by its name, past libc; a failure is minus its errno.
func call(_ name: String, _ arguments: Int...) -> Int {
  let a = arguments + [Int](repeating: 0, count: 6)
  return probe_call(Int(seccomp_syscall_resolve_name(name)), a[0], a[1], a[2], a[3], a[4], a[5])
}

/// What the probe can be told to do once it is locked down; each returns 0 or more where it was let through.
let calls: [String: @Sendable () -> Int] = [
  "nothing": { 0 },
  "clock_gettime": {
    var now = timespec()
    return withUnsafeMutablePointer(to: &now) { call("clock_gettime", 1, Int(bitPattern: $0)) }
  },
  "thread": {
    guard let thread = try? HostThread("probe", { _ = [UInt8](repeating: 1, count: 1 << 20).reduce(0, &+) }) else {
      return -1
    }
    thread.join()
    return 0
  },
  "memory": {
    var total = 0
    for size in [10, 1000, 100_000, 10_000_000] { total &+= [UInt8](repeating: 1, count: size).count }
    return total == 10_101_010 ? 0 : -1
  },
  "eventfd": { (try? EventDescriptor()) == nil ? -1 : 0 },
  "print": {
    print("to /dev/null")
    return Int(fflush(nil))
  },
  "localtime": {
    var now = time(nil)
    return localtime(&now) == nil ? -1 : 0
  },
  "open-read": { call("openat", -100, path("/etc/passwd")) },
  "open-write": { call("openat", -100, path("/tmp/x"), Int(O_RDWR | O_CREAT), 0o600) },
  "mmap-rw": { call("mmap", 0, 4096, 3, anonymous, -1) > 0 ? 0 : -1 },
  "mmap-exec": { call("mmap", 0, 4096, 7, anonymous, -1) },
  "mprotect-exec": { call("mprotect", page(), 4096, 5) },
  "mprotect-rw": { call("mprotect", page(), 4096, 3) },
  "clone-process": { call("clone", Int(SIGCHLD)) },
  "clone-thread-newns": { call("clone", 0x0001_0000 | 0x4000_0000) },
  "clone3": { call("clone3") },
  "fork": { call("fork") },
  "execve": { call("execve", path("/bin/true")) },
  "socket": { call("socket", 2, 1) },
  "sendto-null": { call("sendto", 4, path("x"), 1) },
  "sendto-address": { call("sendto", 4, path("x"), 1, 0, page(), 16) },
  "connect": { call("connect", 2, page(), 16) },
  "ptrace": { call("ptrace") },
  "kill": { call("kill", 1) },
  "tgkill-self": { call("tgkill", Int(getpid()), call("gettid")) },
  "tgkill-other": { call("tgkill", Int(getpid()) + 1, Int(getpid()) + 1) },
  "rt_sigaction-SIGSYS": { call("rt_sigaction", Int(SIGSYS), 0, 0, 8) },
  "rt_sigaction-SIGABRT": { call("rt_sigaction", Int(SIGABRT), 0, 0, 8) },
  "prctl-name": { call("prctl", 15, path("named")) },
  "prctl-dumpable": { call("prctl", 4, 1) },
  "fcntl-getfl": { call("fcntl", 2, 3) >= 0 ? 0 : -1 },
  "fcntl-setown": { call("fcntl", 2, 8, 1) },
  "fstat": { call("newfstatat", 2, path(""), page(), 0x1000) },
  "stat": { call("newfstatat", -100, path("/etc"), page()) },
  "ioctl-TCGETS": { call("ioctl", 2, 0x5401, page()) },
  "ioctl-TIOCSTI": { call("ioctl", 0, 0x5412, page()) },
  "ioctl-KVM_RUN": { call("ioctl", 0, 0xae80) },
  "ioctl-KVM_CREATE_VM": { call("ioctl", 0, 0xae01) },
  "seccomp": { call("seccomp") },
  "unshare": { call("unshare", 0x1000_0000) },
  "io_uring_setup": { call("io_uring_setup", 1, page()) },
  "bpf": { call("bpf") },
  "i386-getpid": { probe_call_i386(20) },
  "x32-getpid": { probe_call(0x4000_0000 | 39, 0, 0, 0, 0, 0, 0) },
  "blocked-SIGSYS": {
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, nil)
    return call("socket", 2, 1)
  },
  "abort": { abort() },
  "trap": { [Int]().randomElement()! },
]

// Safety: leaked on purpose; the process makes one call and ends.
func path(_ text: String) -> Int { Int(bitPattern: strdup(text)) }
func page() -> Int { call("mmap", 0, 4096, 3, anonymous, -1) }
private let anonymous = Int(MAP_PRIVATE | MAP_ANONYMOUS)
