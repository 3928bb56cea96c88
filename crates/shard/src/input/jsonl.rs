//! JSON lines: an object a line; strict JSON, at any depth; of equal keys the last one counts.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

use super::line::Line;
use super::output::Output;
use super::{Field, InputFile, Options};
use crate::Result;
use crate::document::{Document, Reason};
use crate::simd::find;

pub(super) fn parse(
    file: &InputFile,
    bytes: &[u8],
    offset: u64,
    out: &mut Output<'_>,
) -> Result<()> {
    let source = file.name();
    let mut record = Line::default();
    record.extra.resize(out.options.extra.len(), String::new());
    out.parsed.documents.texts.reserve(bytes.len());
    let mut start = 0;
    // Checked once for all lines; only a part with a bad byte is looked at line by line.
    let all = simdutf8::basic::from_utf8(bytes).ok();
    while start < bytes.len() {
        let end = find(&bytes[start..], b'\n').map_or(bytes.len(), |n| start + n);
        let position = offset + start as u64;
        let mut line = &bytes[start..end];
        let mut valid = all.map(|all| &all[start..end]);
        start = end + 1;
        if position == 0 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
            valid = valid.map(|line| line.strip_prefix('\u{feff}').unwrap_or(line));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let limit = out.options.max_record_bytes;
        if line.len() as u64 > limit {
            let detail = format!("line at byte {position}: longer than {limit} bytes");
            out.record(&source, position, Reason::TooLong, detail)?;
            continue;
        }
        let text;
        let line = match valid {
            Some(line) => line,
            None => match out.utf8(line) {
                Ok(valid) => {
                    text = valid;
                    &*text
                }
                Err(at) => {
                    let (byte, at) = (line[at], position + at as u64);
                    let detail = format!("byte {at}: expected UTF-8, found 0x{byte:02x}");
                    out.record(&source, position, Reason::InvalidUtf8, detail)?;
                    continue;
                }
            },
        };
        let (options, texts) = (out.options, &mut out.parsed.documents.texts);
        let read = match texts.push_with(|text| record.read(line, options, text)) {
            Some(()) => Ok(()),
            None => record.read_strictly(line, options).map(|()| texts.push(&record.text)),
        };
        match read {
            Ok(()) => {
                for (field, value) in options.extra.iter().zip(&mut record.extra) {
                    if field.name == options.text_field {
                        value.clear();
                        value.push_str(texts.get(texts.len() - 1));
                    } else if field.name == options.id_field && record.has_id {
                        value.clone_from(&record.id);
                    }
                }
                let id = record.has_id.then_some(record.id.as_str());
                let (source, file, text) = (&source, file.index, "");
                let document = Document { id, source, text, file, position, extra: &record.extra };
                out.parsed.documents.push_rest(&document);
            }
            Err((reason, what)) => {
                let detail = format!("line at byte {position}: {what}");
                out.record(&source, position, reason, detail)?;
            }
        }
    }
    Ok(())
}

impl Line {
    fn read_strictly(
        &mut self,
        line: &str,
        options: &Options,
    ) -> std::result::Result<(), (Reason, String)> {
        let Options { text_field, id_field, .. } = options;
        self.extra.iter_mut().for_each(String::clear);
        let (text, id, wrong) = (Found::Missing, Found::Missing, None);
        let mut fields = Fields { options, record: self, text, id, wrong };
        let mut json = serde_json::Deserializer::from_str(line);
        let read = (&mut fields).deserialize(&mut json).and_then(|()| json.end());
        let (text, id, wrong) = (fields.text, fields.id, fields.wrong);
        if let Err(error) = read {
            let what = error.to_string();
            let first = what.lines().next().unwrap_or_default();
            return Err((Reason::MalformedJson, format!("expected a JSON object, found: {first}")));
        }
        match text {
            Found::String => {}
            Found::Missing | Found::Other("null") => {
                return Err((
                    Reason::MissingField,
                    format!("expected a field `{text_field}`, found none"),
                ));
            }
            Found::Other(kind) => {
                let what = format!("expected a string in `{text_field}`, found {kind}");
                return Err((Reason::WrongType, what));
            }
        }
        if let Some((field, found)) = wrong {
            let Field { name, number } = field;
            let expected = if *number { "a number" } else { "a string or a number" };
            let what = format!("expected {expected} in `{name}`, found {found}");
            return Err((Reason::WrongType, what));
        }
        self.has_id = match id {
            Found::String => true,
            Found::Missing | Found::Other("null") => false,
            Found::Other(kind) => {
                let what = format!("expected a string or an integer in `{id_field}`, found {kind}");
                return Err((Reason::WrongType, what));
            }
        };
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Found {
    Missing,
    String,
    Other(&'static str),
}

struct Fields<'a> {
    options: &'a Options,
    record: &'a mut Line,
    text: Found,
    id: Found,
    /// A further field that holds what it should not.
    wrong: Option<(&'a Field, &'static str)>,
}

impl<'de> DeserializeSeed<'de> for &mut Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(self.options))? {
            match key {
                Place::Text => {
                    let value = Value { string: &mut self.record.text, numbers: Numbers::None };
                    self.text = map.next_value_seed(value)?;
                }
                Place::Id => {
                    let value = Value { string: &mut self.record.id, numbers: Numbers::Integers };
                    self.id = map.next_value_seed(value)?;
                }
                Place::Extra(at) => self.extra(at, &mut map)?,
                Place::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

impl Fields<'_> {
    fn extra<'de, A: MapAccess<'de>>(
        &mut self,
        at: usize,
        map: &mut A,
    ) -> std::result::Result<(), A::Error> {
        let field = &self.options.extra[at];
        let string = &mut self.record.extra[at];
        string.clear();
        match map.next_value_seed(Value { string, numbers: Numbers::All })? {
            Found::String if field.number && string.parse::<f64>().is_err() => {
                self.wrong = Some((field, "a string"));
            }
            Found::Missing | Found::Other("null") | Found::String => {}
            Found::Other(found) => self.wrong = Some((field, found)),
        }
        Ok(())
    }
}

enum Place {
    Text,
    Id,
    Extra(usize),
    Other,
}

struct Key<'a>(&'a Options);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Place;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Place, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<Place, E> {
        Ok(if key == self.0.text_field {
            Place::Text
        } else if key == self.0.id_field {
            Place::Id
        } else {
            let at = self.0.extra.iter().position(|field| field.name == key);
            at.map_or(Place::Other, Place::Extra)
        })
    }
}

/// Puts a string into the buffer (and a number, if allowed); tells what else it found.
struct Value<'a> {
    string: &'a mut String,
    numbers: Numbers,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Numbers {
    None,
    Integers,
    All,
}

impl Value<'_> {
    fn set(self, string: &str) -> Found {
        self.string.clear();
        self.string.push_str(string);
        Found::String
    }

    fn set_number(self, number: &impl ToString, kind: Numbers) -> Found {
        if self.numbers >= kind { self.set(&number.to_string()) } else { Found::Other("a number") }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, string: &str) -> std::result::Result<Found, E> {
        Ok(self.set(string))
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Found, E> {
        Ok(self.set_number(&number, Numbers::Integers))
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Found, E> {
        Ok(self.set_number(&number, Numbers::Integers))
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Found, E> {
        Ok(self.set_number(&number, Numbers::All))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Found, E> {
        Ok(Found::Other("a boolean"))
    }

    fn visit_unit<E>(self) -> std::result::Result<Found, E> {
        Ok(Found::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options() -> Options {
        let extra = vec![
            Field { name: "url".into(), number: false },
            Field { name: "score".into(), number: true },
        ];
        Options { extra, ..Options::default() }
    }

    /// Nothing, or what both readings of a line give.
    fn both(line: &str) -> (bool, bool) {
        let options = options();
        let [mut fast, mut strict] = [(); 2].map(|()| Line::default());
        for line in [&mut fast, &mut strict] {
            line.extra.resize(2, String::new());
            // Left over from the line before.
            line.text.push_str("old");
            line.id.push_str("old");
        }
        let mut text = String::from("others");
        let is_fast = fast.read(line, &options, &mut text).is_some();
        let is_valid = strict.read_strictly(line, &options).is_ok();
        if is_fast {
            assert!(is_valid, "{line}");
            assert_eq!(text, format!("others{}", strict.text));
            assert_eq!((fast.has_id, &fast.extra), (strict.has_id, &strict.extra), "{line}");
            assert!(!fast.has_id || fast.id == strict.id, "{line}");
        }
        (is_fast, is_valid)
    }

    #[test]
    fn common_lines_are_read_fast_others_strictly() {
        for line in [
            r#"{"text":"a\n\"b\" \u00e9\ud83d\ude00","id":"x"}"#,
            r#" { "id" : 12 , "n" : 7, "ok": true, "text" : "a" } "#,
            r#"{"text":"a","text":"b","url":"u","none":null}"#,
        ] {
            assert_eq!(both(line), (true, true), "{line}");
        }
        for line in [
            r#"{"text":"a","meta":{"b":[1]}}"#,
            r#"{"text":"\ud83d"}"#,
            r#"{"text":"a","id":1e3x"#,
            r#"{"text":"a","id":18446744073709551616}"#,
            r#"{"text":"a","score":1.5}"#,
            r#"{"text":"a"} x"#,
            r#"{"text":"\u+123"}"#,
            "{\"text\":\"a\tb\"}",
            r#"{"te\u0078t":"a"}"#,
            r#"{"text":1}"#,
            r#"{"id":"x"}"#,
            r#"{"text":"a",}"#,
            r#"{"text":"a","n":01}"#,
            r#"{"text":"a","n":1.}"#,
            "",
        ] {
            assert!(!both(line).0, "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_fast_is_read_right(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "\"text\"", "\"id\"", "\"url\"", "\"score\"", "\"k\"", ":", ":", ",", "\"a\"",
                "\"\\n\\u0041é\"", "\"\\ud800\"", "12", "0", "-1", "1.5", "01", "null", "true", "nul", " ",
                "\t", "[", "]", "\"",
            ]), 0..16),
        ) {
            both(&pieces.concat());
        }

        #[test]
        fn so_are_flat_objects(
            fields in prop::collection::vec(
                (prop::sample::select(vec!["text", "id", "url", "score", "k", "\\u006b"]), prop::sample::select(vec![
                    "\"a\"", "\"\\n\\u0041é\"", "\"\\ud83d\\ude00\"", "12", "0", "-1", "1.5", "1e5", "null", "{}",
                ])), 0..5),
            space in prop::sample::select(vec!["", " ", "\t"]),
        ) {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("\"{key}\"{space}:{value}{space}")).collect();
            both(&format!("{{{}}}{space}", fields.join(",")));
        }
    }
}
