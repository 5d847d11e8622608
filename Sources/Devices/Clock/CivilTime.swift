/// A date and time of the proleptic Gregorian calendar. Fields out of their range carry into the next one, so that
/// any register contents mean some time.
struct CivilTime: Sendable, Equatable {
  var year: Int64
  /// 1–12.
  var month: Int64
  /// 1–31.
  var day: Int64
  var hour: Int64
  var minute: Int64
  var second: Int64

  init(year: Int64, month: Int64, day: Int64, hour: Int64, minute: Int64, second: Int64) {
    self.year = year
    self.month = month
    self.day = day
    self.hour = hour
    self.minute = minute
    self.second = second
  }

  /// Seconds since 1970-01-01 00:00. Exact for years up to a few hundred thousand.
  init(secondsSince1970 seconds: Int64) {
    let days = Self.floorDivide(seconds, 86_400)
    let rest = seconds - days * 86_400
    // Years start on 1 March here, so that the leap day is a year's last. Day 0 is 0000-03-01.
    let shifted = days + 719_468
    let era = Self.floorDivide(shifted, 146_097)
    let dayOfEra = shifted - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let shiftedMonth = (5 * dayOfYear + 2) / 153
    month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
    day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
    year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    hour = rest / 3_600
    minute = rest / 60 % 60
    second = rest % 60
  }

  /// Whole days since 1970-01-01.
  private var days: Int64 {
    let months = month - 1
    let shiftedYear = year + Self.floorDivide(months, 12)
    let monthOfYear = months - Self.floorDivide(months, 12) * 12 + 1
    let marchYear = monthOfYear <= 2 ? shiftedYear - 1 : shiftedYear
    let era = Self.floorDivide(marchYear, 400)
    let yearOfEra = marchYear - era * 400
    let marchMonth = monthOfYear > 2 ? monthOfYear - 3 : monthOfYear + 9
    let dayOfYear = (153 * marchMonth + 2) / 5 + day - 1
    return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
  }

  var secondsSince1970: Int64 { days * 86_400 + hour * 3_600 + minute * 60 + second }

  /// 1 for Sunday to 7 for Saturday.
  var dayOfWeek: Int64 {
    let sinceSunday = days + 4
    return sinceSunday - Self.floorDivide(sinceSunday, 7) * 7 + 1
  }

  private static func floorDivide(_ value: Int64, _ divisor: Int64) -> Int64 {
    value >= 0 ? value / divisor : -((-value + divisor - 1) / divisor)
  }
}
