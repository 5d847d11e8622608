/// This release of vmrun.
public enum Release {
  /// What `--version` prints (semver.org).
  public static let version = "0.1.0"
}
