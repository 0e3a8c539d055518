// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers as people read them.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `65536` is `65,536`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `268435456` is `256 MiB`: at most four digits, in the largest unit that leaves one before the
/// point.
pub(crate) fn bytes(number: u64) -> String {
    let unit = (number.max(1).ilog2() / 10) as usize;
    let whole = number as f64 / (1u64 << (10 * unit)) as f64;
    if whole.fract() == 0.0 {
        format!("{whole} {}", UNITS[unit])
    } else if whole < 10.0 {
        format!("{whole:.2} {}", UNITS[unit])
    } else {
        format!("{whole:.1} {}", UNITS[unit])
    }
}

/// `1500` nanoseconds are `1.50 us`.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { 1 };
    format!("{value:.digits$} {unit:>2}")
}

/// `0.125` is `12.5 %`; what is too little to show is not shown as nothing.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.05 {
        "< 0.1 %".into()
    } else {
        format!("{percent:.1} %")
    }
}
