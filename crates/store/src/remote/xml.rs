//! As much of XML as the answers of object stores need: elements without attributes, in order.

use std::time::{Duration, SystemTime};

/// What stands between every `<name>` and the `</name>` that follows it.
pub(super) fn elements<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(&open)? + open.len();
        let end = start + rest[start..].find(&close)?;
        let found = &rest[start..end];
        rest = &rest[end + close.len()..];
        Some(found)
    })
}

/// The text of the first such element.
pub(super) fn text(text: &str, name: &str) -> Option<String> {
    elements(text, name).next().map(unescaped)
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').map_or(rest.len(), |end| end + 1);
        match &rest[..end] {
            "&amp;" => out.push('&'),
            "&lt;" => out.push('<'),
            "&gt;" => out.push('>'),
            "&quot;" => out.push('"'),
            "&apos;" => out.push('\''),
            entity => {
                let number = entity.strip_prefix("&#").and_then(|n| n.strip_suffix(';'));
                let code = number.and_then(|n| match n.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => n.parse().ok(),
                });
                match code.and_then(char::from_u32) {
                    Some(c) => out.push(c),
                    None => out.push_str(entity),
                }
            }
        }
        rest = &rest[end..];
    }
    out + rest
}

/// `2026-11-28T17:25:40.324Z`, always of Greenwich.
pub(super) fn time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let seconds = days_since_1970(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Of a date of 1970 or later.
pub(super) fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is their last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    Some(365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_their_text_are_found() {
        let answer = "<L><T>false</T><Part><N>1</N><E>&quot;a&#34;&amp;&#x62;</E></Part><Part><N>2</N></Part></L>";
        let parts: Vec<_> = elements(answer, "Part").collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(text(parts[0], "E").as_deref(), Some("\"a\"&b"));
        assert_eq!((text(parts[1], "N").as_deref(), text(parts[1], "E")), (Some("2"), None));
        assert_eq!(elements("<Part>torn", "Part").count(), 0);
        assert_eq!(unescaped("a&b&unknown;c&"), "a&b&unknown;c&");
    }

    #[test]
    fn times_are_read() {
        let seconds =
            |text| time(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("2024-02-29T23:59:59.123Z"), Some(1_709_251_199));
        assert_eq!((seconds("yesterday"), seconds("2024-13-01T00:00:00Z")), (None, None));
    }
}
