//! Values that are written with a unit.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes, written `512MiB` or as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A share from 0 to 1, written `0.1%` or as a number.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share(pub f64);

/// A list, or what would be alone in it.
pub(super) fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMore;
    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_str<E: de::Error>(self, one: &str) -> Result<Vec<String>, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> Result<Vec<String>, A::Error> {
            let mut found = Vec::new();
            while let Some(one) = all.next_element()? {
                found.push(one);
            }
            Ok(found)
        }
    }
    from.deserialize_any(OneOrMore)
}

/// `8GiB`, `512M`, `1000` → bytes. Powers of 1024.
///
/// # Errors
/// What was expected, and what was found.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected a size such as 512MiB or 8GiB, found `{text}`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end();
    let shift = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    if !(1.0..9.0e18).contains(&bytes) {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bytes(text).map(Self)
    }
}

impl fmt::Display for Size {
    /// The largest unit that says it exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let exact = |&&(shift, _): &&(u32, &str)| self.0 > 0 && self.0.trailing_zeros() >= shift;
        match units.iter().find(exact) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, scale) = match text.strip_suffix('%') {
            Some(percent) => (percent, 100.0),
            None => (text, 1.0),
        };
        let share = number.trim().parse::<f64>().ok().map(|number| number / scale);
        let expected = "expected a share from 0% to 100%, or from 0 to 1";
        let share = share.filter(|share| (0.0..=1.0).contains(share)).ok_or(expected)?;
        Ok(Self(share))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// A number, or what [`FromStr`] takes.
struct Written<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a string with a unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written(std::marker::PhantomData))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(parse_bytes("8GiB"), Ok(8 << 30));
        assert_eq!(parse_bytes("1.5k"), Ok(1536));
        assert_eq!(parse_bytes("77"), Ok(77));
        for wrong in ["", "GiB", "0", "-1", "1 parsec", "1e30G"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        for size in [1, 1023, 1024, 1536, 256 << 20, 3 << 40, 12_345_678_901] {
            assert_eq!(Size(size).to_string().parse(), Ok(Size(size)));
        }
    }

    #[test]
    fn shares_are_percentages_or_numbers() {
        assert_eq!("0.1%".parse(), Ok(Share(0.001)));
        assert_eq!("1".parse(), Ok(Share(1.0)));
        assert!("101%".parse::<Share>().is_err() && "all".parse::<Share>().is_err());
    }
}
