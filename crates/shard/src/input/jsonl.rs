//! JSON lines: an object a line; strict JSON, at any depth; of equal keys the last one counts.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

use super::InputFile;
use super::output::Output;
use crate::Result;
use crate::document::{Document, Reason};

pub(super) fn parse(
    file: &InputFile,
    bytes: &[u8],
    offset: u64,
    out: &mut Output<'_>,
) -> Result<()> {
    let source = file.name();
    let mut record = Record::default();
    let mut start = 0;
    // Checked once for all lines; only a part with a bad byte is looked at line by line.
    let all_utf8 = std::str::from_utf8(bytes).is_ok();
    while start < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |n| start + n);
        let position = offset + start as u64;
        let mut line = &bytes[start..end];
        start = end + 1;
        if position == 0 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
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
        if !all_utf8 {
            text = match out.utf8(line) {
                Ok(text) => text,
                Err(at) => {
                    let (byte, at) = (line[at], position + at as u64);
                    let detail = format!("byte {at}: expected UTF-8, found 0x{byte:02x}");
                    out.record(&source, position, Reason::InvalidUtf8, detail)?;
                    continue;
                }
            };
            line = text.as_bytes();
        }
        match record.read(line, &out.options.text_field, &out.options.id_field) {
            Ok(()) => {
                let id = record.has_id.then_some(record.id.as_str());
                let text = &record.text;
                let document = Document { id, source: &source, text, file: file.index, position };
                out.parsed.documents.push(&document);
            }
            Err((reason, what)) => {
                let detail = format!("line at byte {position}: {what}");
                out.record(&source, position, reason, detail)?;
            }
        }
    }
    Ok(())
}

/// The two fields of interest of one line; buffers are used again and again.
#[derive(Default)]
struct Record {
    text: String,
    id: String,
    has_id: bool,
}

impl Record {
    fn read(
        &mut self,
        line: &[u8],
        text_field: &str,
        id_field: &str,
    ) -> std::result::Result<(), (Reason, String)> {
        let mut fields =
            Fields { text_field, id_field, record: self, text: Found::Missing, id: Found::Missing };
        let mut json = serde_json::Deserializer::from_slice(line);
        let read = (&mut fields).deserialize(&mut json).and_then(|()| json.end());
        let (text, id) = (fields.text, fields.id);
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
    text_field: &'a str,
    id_field: &'a str,
    record: &'a mut Record,
    text: Found,
    id: Found,
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
        while let Some(key) = map.next_key_seed(Key(self.text_field, self.id_field))? {
            match key {
                Field::Text => {
                    self.text = map.next_value_seed(Value(&mut self.record.text, false))?;
                }
                Field::Id => self.id = map.next_value_seed(Value(&mut self.record.id, true))?,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum Field {
    Text,
    Id,
    Other,
}

struct Key<'a>(&'a str, &'a str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Field, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> std::result::Result<Field, E> {
        Ok(if key == self.0 {
            Field::Text
        } else if key == self.1 {
            Field::Id
        } else {
            Field::Other
        })
    }
}

/// Puts a string into the buffer (and an integer, if allowed); tells what else it found.
struct Value<'a>(&'a mut String, bool);

impl Value<'_> {
    fn set(self, string: &str) -> Found {
        self.0.clear();
        self.0.push_str(string);
        Found::String
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
        Ok(if self.1 { self.set(&number.to_string()) } else { Found::Other("a number") })
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Found, E> {
        Ok(if self.1 { self.set(&number.to_string()) } else { Found::Other("a number") })
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Found, E> {
        Ok(Found::Other("a number"))
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
