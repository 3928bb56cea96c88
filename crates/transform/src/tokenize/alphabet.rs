//! The 256 characters that stand for bytes in a byte-level vocabulary.

/// The character of each byte: printable ones stand for themselves, the others from U+0100 on.
///
/// Source: `bytes_to_unicode` of GPT-2's `encoder.py`.
pub(super) fn alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let stands = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let scalar = if stands { byte as u32 } else { next };
        next += u32::from(!stands);
        char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// The byte of each character of the alphabet; those are below U+0144.
pub(super) fn bytes_of_characters() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    for (byte, character) in (0..=255).zip(alphabet()) {
        bytes[character as usize] = Some(byte);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn it_is_the_alphabet_of_the_reference() {
        let mut expected: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        let mut found = alphabet().to_vec();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!((alphabet()[b' ' as usize], alphabet()[b'\n' as usize]), ('Ġ', 'Ċ'));
        let back = bytes_of_characters();
        assert!((0..=255).zip(alphabet()).all(|(byte, c)| back[c as usize] == Some(byte)));
    }
}
