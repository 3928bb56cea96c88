//! What datatrove does to a text before it looks for words.
//!
//! In order: lower case, Unicode's rule for the final sigma included · each decimal number, with
//! at most one separator inside (`3.14`, `1,000`, but `1.2.3` is two), becomes `0` · punctuation
//! and control characters become spaces, white space separates · canonical decomposition, of which
//! characters of category Mn are dropped. The result is used word by word, so white space is not
//! put back.
//!
//! Lower case is that of Rust's Unicode version, all else that of the Python which made `unicode`:
//! only characters newer than Unicode 14 can differ. Combining characters that are not Mn (some
//! musical and Hangul tone marks) are not reordered.
//! Source: datatrove 0.10, `utils/text.py`.

use std::sync::LazyLock;

use super::unicode::{
    CURRENCY, DIGITS, EDGES, FOLDS, ICONS, LONG_FOLDS, MARKS, PREFIXES, PUNCTUATION,
};

/// What must be looked at closely in a run of characters between spaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// Holds a `0`.
    pub number: bool,
    /// Holds a character at which words may be cut.
    pub cuts: bool,
}

/// Calls `each` with every run of characters between spaces, normalised, in order; never empty.
///
/// `scratch` is working memory, used again and again. Cost: a table look-up a character.
pub fn runs(text: &str, scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8], Traits)) {
    let bytes = text.as_bytes();
    let mut traits = Traits::default();
    let mut at = 0;
    scratch.clear();
    while at < bytes.len() {
        let byte = bytes[at];
        let fold = if byte < 128 {
            at += 1;
            let lower = ASCII[usize::from(byte)];
            if lower.is_ascii_lowercase() {
                scratch.push(lower);
                continue;
            }
            if lower == 0 { BREAK } else { DIGIT }
        } else {
            let character = text[at..].chars().next().unwrap_or_default();
            at += character.len_utf8();
            look_up(character)
        };
        match fold & KIND {
            0 => {
                traits.cuts |= fold & CUTS != 0;
                push(char::from_u32(fold & !CUTS).unwrap_or_default(), scratch);
            }
            DIGIT => {
                at = number_end(text, at);
                scratch.push(b'0');
                traits.number = true;
            }
            BREAK => {
                if !scratch.is_empty() {
                    each(scratch, traits);
                    scratch.clear();
                }
                traits = Traits::default();
            }
            LONG => {
                traits.cuts |= fold & CUTS != 0;
                let long = LONG_FOLDS[(fold & !(KIND | CUTS)) as usize];
                long.chars().skip(1).for_each(|character| push(character, scratch));
            }
            HANGUL => {
                let syllable = fold & !KIND;
                push_jamo(0x1100 + syllable / 588, scratch);
                push_jamo(0x1161 + syllable % 588 / 28, scratch);
                let last = syllable % 28;
                if last > 0 {
                    push_jamo(0x11a7 + last, scratch);
                }
            }
            SIGMA => push(if is_final(text, at) { 'ς' } else { 'σ' }, scratch),
            _ => {} // DROP
        }
    }
    if !scratch.is_empty() {
        each(scratch, traits);
    }
}

fn push(character: char, out: &mut Vec<u8>) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

fn push_jamo(jamo: u32, out: &mut Vec<u8>) {
    push(char::from_u32(jamo).unwrap_or_default(), out);
}

/// Where a number ends of which a digit stands before `at`: digits, and once a separator between
/// digits.
fn number_end(text: &str, at: usize) -> usize {
    let end = digits_end(text, at);
    let mut rest = text[end..].chars();
    if let Some(separator @ ('.' | ',' | '،' | '٫' | '⎖' | '⎗' | '⎘')) = rest.next()
        && rest.next().is_some_and(is_digit)
    {
        return digits_end(text, end + separator.len_utf8());
    }
    end
}

fn digits_end(text: &str, at: usize) -> usize {
    text[at..].find(|c| !is_digit(c)).map_or(text.len(), |length| at + length)
}

fn is_digit(character: char) -> bool {
    if character.is_ascii() { character.is_ascii_digit() } else { look_up(character) == DIGIT }
}

/// Is the capital sigma that ends at `at` the last letter of a word, and not the only one?
fn is_final(text: &str, at: usize) -> bool {
    let before = text[..at - 'Σ'.len_utf8()].chars().rev();
    has_letter(before) && !has_letter(text[at..].chars())
}

/// Does a letter come next, after characters that case ignores, such as an apostrophe?
fn has_letter(mut characters: impl Iterator<Item = char>) -> bool {
    // The standard library knows what is cased and what is ignored, but tells only through a sigma.
    let becomes_final = |before: &[char]| {
        let word: String = before.iter().chain(&['Σ']).collect();
        word.to_lowercase().ends_with('ς')
    };
    characters.find_map(|c| match (becomes_final(&[c]), becomes_final(&['A', c])) {
        (false, true) => None,
        (is_letter, _) => Some(is_letter),
    }) == Some(true)
}

/// What a character of ASCII becomes: a letter in lower case, `0`, or 0 for a break.
const ASCII: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        let character = byte as u8;
        if character.is_ascii_alphabetic() {
            table[byte] = character.to_ascii_lowercase();
        } else if character.is_ascii_digit() {
            table[byte] = b'0';
        }
        byte += 1;
    }
    table
};

// A fold is a kind and what belongs to it: for kind 0 a character, and whether it may cut words.
const KIND: u32 = 0x0f << 24;
const CUTS: u32 = 1 << 28;
const BREAK: u32 = 1 << 24;
const DROP: u32 = 2 << 24;
const DIGIT: u32 = 3 << 24;
/// And the place in `LONG_FOLDS`, and whether one of those characters may cut words.
const LONG: u32 = 4 << 24;
/// And the number of the syllable.
const HANGUL: u32 = 5 << 24;
const SIGMA: u32 = 6 << 24;

/// Beyond the table are ideographs, emoji aside, which stand for themselves or are in `FOLDS`.
const TABLE: u32 = 0x2_0000;

/// 512 KiB.
static FOLD: LazyLock<Box<[u32]>> = LazyLock::new(fill);

fn look_up(character: char) -> u32 {
    match FOLD.get(character as usize) {
        Some(&fold) => fold,
        None => beyond(character),
    }
}

/// The pairs of `FOLDS` are sorted by their first characters.
fn folds() -> impl Iterator<Item = (char, char)> {
    let mut characters = FOLDS.chars();
    std::iter::from_fn(move || Some((characters.next()?, characters.next()?)))
}

/// For what lies beyond the table.
fn beyond(character: char) -> u32 {
    static BEYOND: LazyLock<Vec<(char, char)>> =
        LazyLock::new(|| folds().filter(|(from, _)| *from as u32 >= TABLE).collect());
    let code = character as u32;
    let mut marks = MARKS.iter().rev().take_while(|(low, _)| *low >= TABLE);
    match BEYOND.binary_search_by_key(&character, |pair| pair.0) {
        Ok(found) => BEYOND[found].1 as u32,
        Err(_) if marks.any(|&(low, high)| (low..=high).contains(&code)) => DROP,
        Err(_) => code,
    }
}

fn fill() -> Box<[u32]> {
    let mut table: Box<[u32]> = (0..TABLE).collect();
    let place = |character: char| character as usize;
    let within = |ranges: &'static [(u32, u32)]| {
        ranges.iter().flat_map(|&(low, high)| low..=high.min(TABLE - 1)).map(|code| code as usize)
    };
    for (from, to) in folds().filter(|(from, _)| (*from as u32) < TABLE) {
        table[place(from)] = to as u32;
    }
    for (number, long) in (0..).zip(LONG_FOLDS) {
        table[long.chars().next().map_or(0, place)] = LONG | number;
    }
    for (number, code) in (0xac00..0xd7a4).enumerate() {
        table[code] = HANGUL | number as u32;
    }
    within(MARKS).for_each(|code| table[code] = DROP);
    PUNCTUATION.chars().for_each(|c| table[place(c)] = BREAK);
    let characters = || (0..TABLE).filter_map(char::from_u32);
    characters()
        .filter(|c| c.is_whitespace() || c.is_control())
        .for_each(|c| table[place(c)] = BREAK);
    // Last: a full-width 1 is in the list of punctuation too, but numbers are looked for first.
    within(DIGITS).for_each(|code| table[code] = DIGIT);

    let mut cuts = vec![false; TABLE as usize];
    within(ICONS).for_each(|code| cuts[code] = true);
    [EDGES, PREFIXES, CURRENCY].iter().for_each(|s| s.chars().for_each(|c| cuts[place(c)] = true));
    for fold in &mut table {
        let cuts = |c: u32| cuts.get(c as usize) == Some(&true);
        let long = || LONG_FOLDS[(*fold & !KIND) as usize].chars().skip(1);
        if match *fold & KIND {
            0 => cuts(*fold),
            LONG => long().any(|c| cuts(c as u32)),
            _ => false,
        } {
            *fold |= CUTS;
        }
    }
    for character in characters() {
        // `İ` alone becomes two characters, of which the second is a mark.
        let lower = character.to_lowercase().next().unwrap_or(character);
        if lower != character && (lower as u32) < TABLE {
            table[place(character)] = table[place(lower)];
        }
    }
    table[place('Σ')] = SIGMA;
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(text: &str) -> String {
        let mut words = Vec::new();
        runs(text, &mut Vec::new(), |run, _| words.push(String::from_utf8(run.to_vec()).unwrap()));
        words.join(" ")
    }

    /// All expected values were printed by datatrove's `simplify_text`.
    #[test]
    fn equals_datatrove() {
        let fox = "The quick brown fox, jumps over 3,141 lazy dogs!";
        for (text, expected) in [
            (fox, "the quick brown fox jumps over 0 lazy dogs"),
            ("1.2.3 1,000,000.5 ٣٫١٤ v2.10.1-rc3 １.5", "0 0 0 0 0 v0 0 rc0 0"),
            ("it's don’t ‘quoted’ “so”", "it s don t ‘quoted so"),
            ("Ångström naïve İSTANBUL ﬁn K µ Ǆ", "angstrom naive istanbul ﬁn k µ ǆ"),
            ("ΟΔΥΣΣΕΥΣ ΟΔΟΣ. Σ ΑΣ'Α ΑΣ' σ", "οδυσσευς οδος σ ασ α ας σ"),
            ("한글 ガ Й й", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af} カ и и"),
            ("a≠b ≮ x\u{338}", "a=b < x"),
            ("a \u{301} b\u{301}c\u{a0}d\u{200b}e\u{2028}f\u{85}g", "a bc d\u{200b}e f g"),
            ("豈 \u{2f800} \u{e0101}x ௌ ক\u{9cb}", "豈 丽 x \u{bc6}\u{bd7} ক\u{9c7}\u{9be}"),
            ("1\u{301}2 ½ x² Ⅷ", "00 ½ x² ⅷ"),
        ] {
            assert_eq!(normalise(text), expected, "{text}");
        }
    }

    #[test]
    fn runs_tell_what_they_hold() {
        let mut found = Vec::new();
        let text = "plain x86 5€ ©";
        runs(text, &mut Vec::new(), |_, traits| found.push((traits.number, traits.cuts)));
        assert_eq!(found, [(false, false), (true, false), (true, true), (false, true)]);
    }
}
