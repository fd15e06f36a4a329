//! Numbers for people: as short as they can be without jumping about.

/// With separators of thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate; `None`: it is not known.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate >= 999_500.0 => format!("{:.2} M", rate / 1e6),
        Some(rate) if rate >= 9_995.0 => format!("{:.1} k", rate / 1e3),
        Some(rate) if rate >= 99.5 || rate == 0.0 => count(rate.round() as u64),
        Some(rate) => format!("{rate:.1}"),
    }
}

/// Bytes with a binary unit.
pub(super) fn bytes(bytes: u64) -> String {
    let mut number = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if number < 1024.0 {
            return if unit == "B" || number >= 100.0 {
                format!("{number:.0} {unit}")
            } else {
                format!("{number:.1} {unit}")
            };
        }
        number /= 1024.0;
    }
    format!("{number:.1} TiB")
}

/// Seconds with the unit that fits.
pub(super) fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match seconds {
        s if s <= 0.0 => "0 s".to_owned(),
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 0.1 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 && s.fract() > 0.0 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6_000.0 => format!("{} min", whole / 60),
        s if s < 172_800.0 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// A share of a capacity; `-` where there is none.
pub(super) fn percent(used: u64, capacity: u64) -> String {
    match capacity {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", used as f64 * 100.0 / capacity as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_unit_that_fits() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let rates = [None, Some(0.0), Some(0.25), Some(99.4), Some(1_234.4), Some(12_345.0), Some(2_500_000.0)];
        assert_eq!(rates.map(rate), ["-", "0", "0.2", "99.4", "1,234", "12.3 k", "2.50 M"]);
        assert_eq!(
            [0, 1_023, 1_536, 128 << 20, 3 << 40].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "128 MiB", "3.0 TiB"]
        );
        let times = [0.0, 0.00032, 0.0017, 0.25, 3.21, 47.0, 200.0, 7_300.0, 300_000.0];
        let shown = ["0 s", "320 us", "1.7 ms", "250 ms", "3.2 s", "47 s", "3 min", "2 h 1 min", "3 d 11 h"];
        assert_eq!(times.map(time), shown);
        assert_eq!((percent(1, 8), percent(1, 0)), ("12.5 %".to_owned(), "-".to_owned()));
    }
}
