//! JSON strings unescaped, 64 bytes at a time and without a branch for each escape.
//!
//! Which backslashes are escaped themselves is found by carrying additions (Langdale and Lemire,
//! "Parsing gigabytes of JSON per second", 2019, §3.1.1). Floor: the bytes, once over memory.

use crate::simd::{BLOCK, Isa, Work, block, lowest, run};

/// Appends what `json`, that follows a quote, stands for up to the next quote; returns the place
/// after that one. `None` where there is none, or something that no string may hold.
pub(super) fn unescape(json: &str, to: &mut String) -> Option<usize> {
    let start = to.len();
    let mut bytes = std::mem::take(to).into_bytes();
    let end = run(Unescape { json, to: &mut bytes });
    if end.is_none() {
        bytes.truncate(start);
    }
    // SAFETY: what was there before is a string; whole escapes, which are ASCII, were taken out of
    // another, and whole characters put in their place.
    *to = unsafe { String::from_utf8_unchecked(bytes) };
    end
}

struct Unescape<'a> {
    json: &'a str,
    to: &'a mut Vec<u8>,
}

impl Work for Unescape<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Option<usize> {
        let Self { json, to } = self;
        let json = json.as_bytes();
        let mut at = 0;
        // Whether the block before ended within an escape.
        let mut inside = 0;
        while at < json.len() {
            let length = (json.len() - at).min(BLOCK);
            let mut bytes = block(&json[at..], b' ');
            let slashes = isa.mask(&bytes, |byte| byte == b'\\');
            let quotes = isa.mask(&bytes, |byte| byte == b'"');
            let escaped = escaped(slashes, &mut inside);
            // Control characters and the escapes that are longer end the easy part as a quote does.
            let controls = isa.mask(&bytes, |byte| byte < b' ');
            let mut ends = quotes & !escaped | controls;
            if escaped != 0 {
                ends |= isa.mask(&bytes, |byte| byte == b'u') & escaped;
            }
            let easy = ends.trailing_zeros().min(length as u32);
            if escaped != 0 {
                let mut short = bytes;
                short.iter_mut().for_each(|byte| *byte = unescape_short(*byte));
                if isa.mask(&short, |byte| byte == 0) & escaped & lowest(easy) != 0 {
                    return None;
                }
                bytes = isa.select(escaped, &short, &bytes);
            }
            isa.append(&bytes, lowest(easy) & !(slashes & !escaped), to);
            at += easy as usize;
            if easy as usize == length {
                continue;
            }
            match json[at] {
                b'"' => return Some(at + 1),
                b'u' => at = long(json, at, to)?,
                _ => return None,
            }
            inside = 0;
        }
        None
    }
}

/// What a letter after a backslash stands for, 0 if for nothing.
#[inline(always)]
fn unescape_short(byte: u8) -> u8 {
    // Without branches, so that many are looked up at once.
    let pairs = [
        (b'"', b'"'),
        (b'\\', b'\\'),
        (b'/', b'/'),
        (b'b', 8),
        (b'f', 12),
        (b'n', 10),
        (b'r', 13),
        (b't', 9),
    ];
    pairs
        .iter()
        .fold(0, |found, &(letter, short)| found | u8::from(byte == letter).wrapping_neg() & short)
}

/// Bytes that follow a backslash that is not itself escaped.
#[inline(always)]
fn escaped(slashes: u64, inside: &mut u64) -> u64 {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    if slashes == 0 {
        return std::mem::take(inside);
    }
    let slashes = slashes & !*inside;
    let follow = slashes << 1 | *inside;
    // Runs that start at an odd place carry to the bit after their end.
    let starts = slashes & !EVEN & !follow;
    let (ends, carry) = starts.overflowing_add(slashes);
    *inside = u64::from(carry);
    (EVEN ^ ends << 1) & follow
}

/// Unescapes what starts with `uXXXX`, and what of that kind follows at once.
#[cold]
fn long(json: &[u8], mut at: usize, to: &mut Vec<u8>) -> Option<usize> {
    loop {
        let mut code = hex(json.get(at + 1..at + 5)?)?;
        at += 5;
        if let 0xd800..0xdc00 = code {
            let low = hex(json[at..].strip_prefix(b"\\u")?.get(..4)?)?;
            code = 0x1_0000
                + ((code - 0xd800) << 10)
                + low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            at += 6;
        }
        to.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        if !json[at..].starts_with(b"\\u") {
            return Some(at);
        }
        at += 1;
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, &digit| Some(code << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(json: &str) {
        let mut text = String::from("before");
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<String>();
        let expected = values.next().and_then(Result::ok);
        let end = unescape(&json[1..], &mut text);
        match expected {
            Some(expected) => {
                assert_eq!(text, format!("before{expected}"), "{json}");
                assert_eq!(end.map(|end| end + 1), Some(values.byte_offset()), "{json}");
            }
            None => assert_eq!((end, text.as_str()), (None, "before"), "{json}"),
        }
    }

    proptest! {
        #[test]
        fn equals_serde(pieces in prop::collection::vec(prop::sample::select(vec![
            "\\", "\\\\", "\\n", "\\\"", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\u12", "\\x",
            "a", "é", "😀", "u", "\n", "\u{1f}", "\\/\\b\\f\\r\\t", "\\\\\\\\\\\\\\\\\\\\\\",
            "sixteen letters.", "sixteen letters.sixteen letters.sixteen letters.",
        ]), 0..30), tail in prop::sample::select(vec!["", "\"", "\",\"more\"", "\\"])) {
            check(&format!("\"{}{tail}", pieces.concat()));
            let mild: String = pieces.iter().filter(|piece| {
                !matches!(**piece, "\\" | "\\ud83d" | "\\ude00" | "\\u12" | "\\x" | "\n" | "\u{1f}")
                    && !piece.ends_with("\\\\\\")
            }).copied().collect();
            check(&format!("\"{mild}\"{tail}"));
        }
    }
}
