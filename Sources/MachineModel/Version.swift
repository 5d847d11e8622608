/// The version that `--version` prints (semver.org).
public let version = "0.1.0"
