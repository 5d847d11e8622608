import Glibc

/// errno values that callers tell apart.
public enum ErrorNumber {
  public static let noEntry = ENOENT
  public static let accessDenied = EACCES
  public static let notPermitted = EPERM
  public static let noDevice = ENODEV
  public static let noDeviceOrAddress = ENXIO
  public static let interrupted = EINTR
  public static let again = EAGAIN
  public static let invalid = EINVAL
}
