import Glibc

/// errno values that the layers above tell apart.
public enum ErrorNumber {
  public static let accessDenied = EACCES
  public static let addressInUse = EADDRINUSE
  public static let addressNotAvailable = EADDRNOTAVAIL
  public static let again = EAGAIN
  public static let badDescriptorState = EBADFD
  public static let brokenPipe = EPIPE
  public static let busy = EBUSY
  public static let connectionRefused = ECONNREFUSED
  public static let exists = EEXIST
  public static let interrupted = EINTR
  public static let inputOutput = EIO
  public static let invalid = EINVAL
  public static let noDevice = ENODEV
  public static let noDeviceOrAddress = ENXIO
  public static let noSpace = ENOSPC
  public static let noSuchFile = ENOENT
  public static let notPermitted = EPERM
  public static let tooLarge = EFBIG
  public static let wrongProtocol = EPROTOTYPE
}
