import CSandbox
import LinuxSystem

/// Replaces the root directory by one that nothing can be created in: an empty one, or one with a few files.
enum EmptyRoot {
  /// Makes a read-only tmpfs with these files, by their path, the root and detaches the old one. The calling process must be in a mount
  /// namespace that it alone uses, with CAP_SYS_ADMIN over it.
  static func pivot(files: [String: [UInt8]] = [:]) throws(SystemError) {
    // Any directory will do as the mount point; this one is known to exist.
    let place = "/proc"
    try retrying("mount", "/") { mount(nil, "/", nil, UInt(MS_REC | MS_PRIVATE), nil) }
    let flags = UInt(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if files.isEmpty {
      let readOnly = flags | UInt(MS_RDONLY)
      try retrying("mount", place) { mount("none", place, "tmpfs", readOnly, "size=4k,nr_inodes=1,mode=0555") }
      try retrying("chdir", place) { chdir(place) }
    } else {
      try retrying("mount", place) { mount("none", place, "tmpfs", flags, "size=128k,nr_inodes=16,mode=0755") }
      try retrying("chdir", place) { chdir(place) }
      for (path, bytes) in files { try write(bytes, to: path) }
      try retrying("mount(MS_REMOUNT)", place) {
        mount("none", ".", nil, flags | UInt(MS_REMOUNT | MS_BIND | MS_RDONLY), nil)
      }
    }
    if csandbox_pivot_root(".", ".") == 0 {
      // The old root lies on top of the new one now.
      try retrying("umount", "/") { umount2(".", CInt(MNT_DETACH)) }
    } else {
      // The root of an initial RAM disk cannot be pivoted away: the new one moves over it.
      try retrying("mount(MS_MOVE)", place) { mount(".", "/", nil, UInt(MS_MOVE), nil) }
      try retrying("chroot", place) { chroot(".") }
    }
    try retrying("chdir", "/") { chdir("/") }
  }

  /// Writes a file below the working directory, and the directories that its absolute path names.
  private static func write(_ bytes: [UInt8], to path: String) throws(SystemError) {
    let parts = path.split(separator: "/")
    for depth in 1..<max(parts.count, 1) {
      let directory = parts[..<depth].joined(separator: "/")
      guard mkdir(directory, 0o755) != 0 else { continue }
      guard currentErrno == EEXIST else { throw SystemError("mkdir", directory) }
    }
    try replaceFile(parts.joined(separator: "/"), with: bytes)
  }

  /// Without a mount namespace: chroot into a directory that is then removed. Needs CAP_SYS_CHROOT.
  static func chrootIntoRemovedDirectory() throws(SystemError) {
    var refusal = SystemError("mkdtemp", errno: ENOENT)
    for parent in ["/tmp", "/run", "/dev/shm", "/var/tmp"] {
      var template = Array("\(parent)/vmrun-XXXXXX".utf8CString)
      guard mkdtemp(&template) != nil else {
        refusal = SystemError("mkdtemp", parent)
        continue
      }
      let entered = chdir(template)
      let error = currentErrno
      // Nothing can be created in a directory without a name, and it needs no tidying up.
      let removed = rmdir(template)
      guard entered == 0, removed == 0 else {
        refusal = SystemError("chdir", parent, errno: entered == 0 ? currentErrno : error)
        continue
      }
      try retrying("chroot", parent) { chroot(".") }
      try retrying("chdir", "/") { chdir("/") }
      return
    }
    throw refusal
  }
}
