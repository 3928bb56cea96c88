use divan::{Bencher, black_box};
use forebay_transform::tokenize::{
    DEFAULT, EosPolicy, Options, SpecialTokens, Tokenizer, Vocabulary,
};

use crate::{TEXTS, bytes};

#[divan::bench]
fn encode(bencher: Bencher) {
    let options = Options { eos: EosPolicy::Auto, special_tokens: SpecialTokens::Parse };
    let tokenizer = Tokenizer::load(&Vocabulary::open(DEFAULT).unwrap(), &options).unwrap();
    let mut tokens = Vec::new();
    bencher.counter(bytes()).bench_local(|| {
        tokens.clear();
        TEXTS.iter().for_each(|text| tokenizer.encode(text, &mut tokens).unwrap());
        black_box(&tokens);
    });
}
