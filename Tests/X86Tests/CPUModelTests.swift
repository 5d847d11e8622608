import Testing
import X86

@Suite struct CPUModelTests {
  @Test func aFeatureThatGoesTakesAlongWhatNeedsIt() throws {
    let model = try CPUModel(parsing: "v2,-sse3")
    for feature: CPUFeature in [.sse3, .ssse3, .sse41, .sse42] { #expect(!model.has(feature)) }
    #expect(model.has(.sse2) && model.has(.popcnt))
    #expect(model.instructions.isDisjoint(with: [.sse3, .ssse3, .sse41, .sse42]))
    #expect(model.instructions.contains(.sse2))
  }

  @Test func aFeatureThatComesBringsWhatItNeeds() throws {
    let model = try CPUModel(parsing: "v1,+sse4.2,+aes")
    for feature: CPUFeature in [.sse3, .ssse3, .sse41, .sse42, .aes] { #expect(model.has(feature)) }
    #expect(!model.has(.popcnt))
  }

  @Test func levelsGrow() {
    let (v1, v2) = (CPUModel(level: .v1), CPUModel(level: .v2))
    #expect(Set(v1.features).isStrictSubset(of: v2.features))
    #expect(Set(v2.features).isStrictSubset(of: CPUModel.max.features))
  }

  @Test func everyFeatureHasAPlaceOfItsOwn() {
    var places: Set<String> = []
    for feature in CPUFeature.allCases {
      // One without a row would have the first row's.
      let flag = feature.flag
      #expect(places.insert("\(flag.leaf) \(flag.subleaf) \(flag.register) \(flag.bit)").inserted, "\(feature)")
    }
  }

  @Test(arguments: ["", "v9", "v2,aes", "v2,+nothing", "v2,"])
  func whatIsNoModelIsRefused(_ text: String) {
    #expect(throws: CPUModel.ParseError.self) { try CPUModel(parsing: text) }
  }
}
