/// Why a machine cannot be put together; says what to change.
public struct BoardError: Error, Equatable, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}
