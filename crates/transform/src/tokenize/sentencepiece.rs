//! SentencePiece `.model` files, read as the `tokenizer.json` that stands for the same ids.
//!
//! Layout: `sentencepiece_model.proto` of the SentencePiece sources; only the fields that ids
//! depend on are read. Merges of a BPE model are all pairs of pieces that together are a piece,
//! best score first.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

const SPACE: &str = "▁";

/// Of a piece: what it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// A model, with the defaults of the format.
struct Model {
    pieces: Vec<Piece>,
    is_bpe: bool,
    byte_fallback: bool,
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

/// Does a file look like one? It starts with a piece: field 1, a message that starts with a string.
pub(super) fn is_model(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a) && Fields(bytes).next().is_some_and(|field| field.is_some())
}

/// The `tokenizer.json` of a model, or what is wrong with it.
pub(super) fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let model = Model::read(bytes)?;
    let ids: HashMap<&str, usize> =
        model.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
    let unknown = model.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
    let unknown = unknown.ok_or("no piece for what is unknown")?;

    let mut normalizers = Vec::new();
    if !model.charsmap.is_empty() {
        let map = BASE64_STANDARD.encode(&model.charsmap);
        normalizers.push(json!({ "type": "Precompiled", "precompiled_charsmap": map }));
    }
    if model.remove_extra_whitespaces {
        normalizers.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        let pattern = json!({ "Regex": " {2,}" });
        normalizers.push(json!({ "type": "Replace", "pattern": pattern, "content": " " }));
    }
    let added = added_tokens(&model);
    let (inner, pre_tokenizer, decoder);
    if model.is_bpe {
        if model.add_dummy_prefix {
            normalizers.push(json!({ "type": "Prepend", "prepend": SPACE }));
        }
        let pattern = json!({ "String": " " });
        normalizers.push(json!({ "type": "Replace", "pattern": pattern, "content": SPACE }));
        let vocabulary: Map<String, Value> =
            ids.iter().map(|(text, id)| ((*text).to_owned(), json!(id))).collect();
        inner = json!({
            "type": "BPE", "dropout": null, "unk_token": model.pieces[unknown].text,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": model.byte_fallback, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges(&model, &ids),
        });
        pre_tokenizer = Value::Null;
        let mut steps = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if model.add_dummy_prefix {
            steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        decoder = json!({ "type": "Sequence", "decoders": steps });
    } else {
        let vocabulary: Vec<Value> =
            model.pieces.iter().map(|piece| json!([piece.text, piece.score])).collect();
        inner = json!({
            "type": "Unigram", "unk_id": unknown, "vocab": vocabulary,
            "byte_fallback": model.byte_fallback,
        });
        let scheme = if model.add_dummy_prefix { "always" } else { "never" };
        pre_tokenizer = json!({
            "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": true,
        });
        decoder = pre_tokenizer.clone();
    }
    let normalizer = match normalizers.len() {
        0 => Value::Null,
        _ => json!({ "type": "Sequence", "normalizers": normalizers }),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": decoder, "model": inner,
    }))
}

fn added_tokens(model: &Model) -> Vec<Value> {
    let token = |(id, piece): (usize, &Piece)| {
        let special = matches!(piece.kind, Kind::Unknown | Kind::Control);
        (special || piece.kind == Kind::UserDefined).then(|| {
            json!({
                "id": id, "content": piece.text, "special": special, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
    };
    model.pieces.iter().enumerate().filter_map(token).collect()
}

/// Every pair of pieces that together are a piece, best score first.
fn merges(model: &Model, ids: &HashMap<&str, usize>) -> Vec<[String; 2]> {
    let mut merges = Vec::new();
    let joins = |kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
    for piece in model.pieces.iter().filter(|piece| piece.kind == Kind::Normal) {
        for (middle, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(middle);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right))
                && joins(model.pieces[left].kind)
                && joins(model.pieces[right].kind)
            {
                merges.push((piece.score, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let text = |id: usize| model.pieces[id].text.clone();
    merges.into_iter().map(|(_, left, right)| [text(left), text(right)]).collect()
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            is_bpe: false,
            byte_fallback: false,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        };
        for field in Fields(bytes) {
            match field.ok_or("a torn SentencePiece model")? {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Field::Bytes(spec)) => model.read_trainer(spec)?,
                (3, Field::Bytes(spec)) => model.read_normalizer(spec)?,
                _ => {}
            }
        }
        Ok(model)
    }

    fn read_trainer(&mut self, spec: &[u8]) -> Result<(), String> {
        for field in Fields(spec) {
            match field.ok_or("a torn trainer_spec")? {
                (3, Field::Number(1)) => self.is_bpe = false,
                (3, Field::Number(2)) => self.is_bpe = true,
                (3, Field::Number(kind)) => {
                    let kind = if kind == 3 { "WORD" } else { "CHAR" };
                    return Err(format!("trainer_spec.model_type {kind}, which is not supported"));
                }
                (24, Field::Number(1)) => {
                    return Err("treat_whitespace_as_suffix, which is not supported".into());
                }
                (35, Field::Number(yes)) => self.byte_fallback = yes != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, spec: &[u8]) -> Result<(), String> {
        for field in Fields(spec) {
            match field.ok_or("a torn normalizer_spec")? {
                (2, Field::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Field::Number(yes)) => self.add_dummy_prefix = yes != 0,
                (4, Field::Number(yes)) => self.remove_extra_whitespaces = yes != 0,
                (5, Field::Number(0)) => {
                    return Err("escape_whitespaces = false, which is not supported".into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Normal };
        for field in Fields(bytes) {
            match field.ok_or("a torn piece")? {
                (1, Field::Bytes(text)) => {
                    let text = std::str::from_utf8(text).map_err(|_| "a piece that is no UTF-8")?;
                    text.clone_into(&mut piece.text);
                }
                (2, Field::Fixed(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Number(kind)) => {
                    piece.kind = match kind {
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => Kind::Normal,
                    }
                }
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// The fields of a protocol buffers message: number and value; `None` where it is torn.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed(u32),
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, field))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}
