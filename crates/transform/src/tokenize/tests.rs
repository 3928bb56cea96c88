use serde_json::json;

use super::long::LONG;
use super::*;

fn gpt2(special_tokens: SpecialTokens) -> Tokenizer {
    let options = Options { eos: EosPolicy::Auto, special_tokens };
    Tokenizer::load(&Vocabulary::open(DEFAULT).unwrap(), &options).unwrap()
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    tokenizer.encode(text, &mut tokens).unwrap();
    tokens
}

#[test]
fn the_built_in_vocabulary_is_gpt2() {
    let tokenizer = gpt2(SpecialTokens::Parse);
    assert_eq!(ids(&tokenizer, "Hello, world!"), [15496, 11, 995, 0, 50256]);
    assert_eq!(tokenizer.decode(&[15496, 11, 995, 0]).unwrap(), "Hello, world!");
    assert_eq!(tokenizer.entry().vocab_size, 50_257);
    assert_eq!(tokenizer.note(), None);
    assert!(tokenizer.decode(&[50_257]).is_err());
}

#[test]
fn special_tokens_in_a_text_are_tokens_or_text_as_asked() {
    let text = "a<|endoftext|>b";
    assert_eq!(ids(&gpt2(SpecialTokens::Parse), text), [64, 50256, 65, 50256]);
    let as_text = ids(&gpt2(SpecialTokens::Text), text);
    assert_eq!(as_text.iter().filter(|&&id| id == 50256).count(), 1);
    assert_eq!(gpt2(SpecialTokens::Text).decode(&as_text).unwrap(), "a<|endoftext|>b<|endoftext|>");
}

/// Both engines read the same file; one is the oracle of the other.
#[test]
fn ids_equal_the_reference() {
    let json = Vocabulary::open(DEFAULT).unwrap().json().unwrap();
    let reference = Reference::load(&json, SpecialTokens::Parse).unwrap();
    let fast = gpt2(SpecialTokens::Parse);
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n\n  \t x",
        "don't WE'LL 'tis",
        "1234567890 12,345.67",
        "naïve café Ünïcödé",
        "日本語のテキスト",
        "สวัสดีชาวโลก",
        "שלום עולם",
        "👩‍👩‍👧‍👦 🏳️‍🌈",
        "a\r\nb\rc",
        "\u{a0}B\u{3000}C",
        "x<|endoftext|>y",
        "\u{11de0}\u{1e5f0} \u{16d70}",
        "e\u{301}\u{327}\u{fe0f}",
        "\0\u{1}\u{feff}",
    ]
    .map(String::from)
    .to_vec();
    texts.push("a".repeat(5_000));
    texts.push(" ".repeat(5_000) + "\n" + &"\t".repeat(300));
    // Every assigned plane of scripts, each scalar after a letter, a space and a digit.
    for block in (0x80..0x3_2000_u32).collect::<Vec<_>>().chunks(2_048) {
        let scalars = block.iter().filter_map(|&c| char::from_u32(c));
        texts.push(scalars.flat_map(|c| ['a', c, ' ', c, '1', c]).collect());
    }
    for text in texts {
        let mut expected = Vec::new();
        reference.encode(&text, &mut expected).unwrap();
        expected.push(50256);
        let found = ids(&fast, &text);
        let place = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert!(
            found == expected,
            "{:?}… differs at token {place:?}",
            text.chars().take(20).collect::<String>()
        );
    }
}

fn open(bytes: &[u8], name: &str) -> Result<Vocabulary> {
    let directory = std::env::temp_dir().join(format!("forebay-tokenize-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    Vocabulary::open(&path.to_string_lossy())
}

/// Pre-tokens so long that they are merged by lists and not by the encoder.
#[test]
fn long_pre_tokens_equal_the_reference() {
    let json = Vocabulary::open(DEFAULT).unwrap().json().unwrap();
    for special in [SpecialTokens::Parse, SpecialTokens::Text] {
        let reference = Reference::load(&json, special).unwrap();
        let fast = gpt2(special);
        let letters: String = (0..3 * LONG as u64)
            .map(|n| {
                char::from(b'a' + (n.wrapping_mul(n).wrapping_mul(0x9e37_79b9) >> 7) as u8 % 26)
            })
            .collect();
        let runs = [
            "a".repeat(100_001),
            " ".repeat(20_000),
            "\n".repeat(9_999),
            "=".repeat(LONG),
            "7".repeat(3 * LONG + 1),
            "é".repeat(LONG),
            "漢字かな".repeat(LONG),
            letters,
        ];
        for run in &runs {
            for text in [
                run.clone(),
                format!("A text. {run} <|endoftext|>{run}{run}\n"),
                format!("{}{run}", "It goes on, and on. ".repeat(500)),
            ] {
                let mut expected = Vec::new();
                reference.encode(&text, &mut expected).unwrap();
                expected.push(50256);
                assert!(ids(&fast, &text) == expected, "{special:?}: {:?}…", &text[..9]);
            }
        }
    }
}

#[test]
fn a_tiktoken_file_gives_the_same_ids() {
    use base64::Engine as _;
    let json = Vocabulary::open(DEFAULT).unwrap().json().unwrap();
    let characters = alphabet::alphabet();
    let byte = |character: char| (0..=255).find(|&byte| characters[usize::from(byte)] == character);
    let mut ranks: Vec<(u64, Vec<u8>)> = Vec::new();
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        if token != "<|endoftext|>" {
            ranks.push((id.as_u64().unwrap(), token.chars().filter_map(byte).collect()));
        }
    }
    ranks.sort();
    let line = |(rank, bytes): &(u64, Vec<u8>)| {
        format!("{} {rank}\n", base64::prelude::BASE64_STANDARD.encode(bytes))
    };
    let file: String = ranks.iter().map(line).collect();
    let options = Options { eos: EosPolicy::Auto, special_tokens: SpecialTokens::Parse };
    let vocabulary = open(file.as_bytes(), "r50k_base.tiktoken").unwrap();
    let tiktoken = Tokenizer::load(&vocabulary, &options).unwrap();
    assert_eq!(tiktoken.note(), None);
    let gpt2 = gpt2(SpecialTokens::Parse);
    for text in
        ["Hello, world!", "naïve  café\n\n 日本語 x<|endoftext|>y", "don't 12345 aaaaaaaaaaaaaaaaa"]
    {
        assert_eq!(ids(&tiktoken, text), ids(&gpt2, text), "{text}");
    }
    let few: String = ranks[..300].iter().map(line).collect();
    let error = open(few.as_bytes(), "few.tiktoken").unwrap_err().to_string();
    assert!(error.contains("300 ranks, which is no published file"), "{error}");
}

/// A SentencePiece model, written field by field.
fn sentencepiece(kind: u8, pieces: &[(&str, f32, u8)]) -> Vec<u8> {
    let message = |field: u8, bytes: &[u8]| [&[field << 3 | 2, bytes.len() as u8], bytes].concat();
    let mut model = Vec::new();
    for (text, score, kind) in pieces {
        let score = [&[0x15], &score.to_le_bytes()[..]].concat();
        let piece = [message(1, text.as_bytes()), score, vec![0x18, *kind]].concat();
        model.extend(message(1, &piece));
    }
    // trainer_spec.model_type and byte_fallback; normalizer_spec.remove_extra_whitespaces = false.
    model.extend(message(2, &[0x18, kind, 0x98, 0x02, 1]));
    model.extend(message(3, &[0x20, 0]));
    model
}

#[test]
fn a_sentencepiece_model_gives_the_ids_of_its_definition() {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut pieces = vec![("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)];
    pieces.extend(bytes.iter().map(|byte| (byte.as_str(), 0.0, 6)));
    let options = Options { eos: EosPolicy::Auto, special_tokens: SpecialTokens::Parse };
    let load = |kind, more: &[(&'static str, f32, u8)]| {
        let model = sentencepiece(kind, &[&pieces[..], more].concat());
        Tokenizer::load(&open(&model, &format!("tokenizer-{kind}.model")).unwrap(), &options)
            .unwrap()
    };

    // BPE: the pair of the best score first; a byte falls back to <0xNN>.
    let merged = [("▁a", -1.0, 1), ("ab", 0.0, 1), ("▁", -9.0, 1), ("a", -9.0, 1), ("b", -9.0, 1)];
    let bpe = load(2, &merged);
    let id = |at: u32| 259 + at;
    assert_eq!(ids(&bpe, "ab a"), [id(2), id(1), id(0), 2]);
    assert_eq!(ids(&bpe, "b!"), [id(2), id(4), 3 + 0x21, 2]);
    assert_eq!(bpe.decode(&ids(&bpe, "ab a!")[..4]).unwrap(), "ab a!");

    // Unigram: the split of the best sum of scores.
    let unigram = load(
        1,
        &[("▁a", -4.0, 1), ("ab", -2.5, 1), ("▁", -1.0, 1), ("a", -2.0, 1), ("b", -3.0, 1)],
    );
    assert_eq!(ids(&unigram, "ab a"), [id(2), id(1), id(2), id(3), 2]);
    assert!(unigram.note().is_some_and(|note| note.contains("reference encoder")));
    let torn = &sentencepiece(2, &merged)[..40];
    assert!(open(torn, "torn.model").unwrap_err().to_string().contains("a torn"));
}

#[test]
fn a_difference_to_the_reference_is_named() {
    let options = Options { eos: EosPolicy::None, special_tokens: SpecialTokens::Parse };
    let verifier = Verifier::new(&Vocabulary::open(DEFAULT).unwrap(), &options, 0.5);
    assert!(verifier.picks(1 << 62) && !verifier.picks(u64::MAX));
    verifier.check("Hello, world!", &[15496, 11, 995, 0]).unwrap();
    let error = verifier.check("Hello, world!", &[15496, 11, 7, 8]).unwrap_err().to_string();
    assert_eq!(
        error,
        "token 2, after \"Hello,\": expected 995 0 as the reference encodes, found 7 8"
    );
    assert!(verifier.check("Hello", &[]).unwrap_err().to_string().contains("found the end"));
    assert!(verifier.note().contains(" 1 documents"));
}

/// Splits of other models over the built-in vocabulary, to the last character that there is.
#[test]
fn known_splits_equal_the_reference_on_every_character() {
    let gpt2 = Vocabulary::open(DEFAULT).unwrap().json().unwrap();
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let deepseek = [
        fastokens::tiktoken::DEEPSEEK_SPLIT1_PATTERN,
        fastokens::tiktoken::DEEPSEEK_SPLIT2_PATTERN,
        fastokens::tiktoken::DEEPSEEK_SPLIT3_PATTERN,
    ];
    for patterns in [&[tiktoken::CL100K][..], &[tiktoken::QWEN], &[tiktoken::O200K], &deepseek] {
        let mut json = gpt2.clone();
        let mut steps: Vec<_> = patterns.iter().map(|pattern| split(pattern)).collect();
        steps.push(bytes.clone());
        json["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": steps });
        let reference = Reference::load(&json, SpecialTokens::Parse).unwrap();
        let fast = Fast::load(json.clone(), SpecialTokens::Parse);
        let fast = fast.unwrap_or_else(|why| panic!("{why}"));
        let run = "x".repeat(LONG + 1);
        // Ideographs and syllables are all alike: some of them will do.
        let alike = |c: &u32| matches!(c, 0x3400..0xa000 | 0xac00..0xd800 | 0x1_7000..0x1_9000 | 0x2_0000..);
        let scalars: Vec<u32> = (0x80..0x3_2000).filter(|c| !alike(c) || c % 29 == 0).collect();
        for block in scalars.chunks(2_048) {
            let scalars = block.iter().filter_map(|&c| char::from_u32(c));
            let text: String = scalars.flat_map(|c| [' ', c, 'a', c, '1', c]).collect();
            // The second one goes step by step.
            for text in [text.clone(), text + &run] {
                let (mut expected, mut found) = (Vec::new(), Vec::new());
                reference.encode(&text, &mut expected).unwrap();
                fast.encode(&text, &mut found).unwrap();
                assert!(found == expected, "{patterns:?} from U+{:04X}", block[0]);
            }
        }
    }
    // Another one is left to the reference.
    let mut json = gpt2.clone();
    json["pre_tokenizer"] = split("\\s+|\\S+");
    assert!(Fast::load(json, SpecialTokens::Parse).is_err());
}
