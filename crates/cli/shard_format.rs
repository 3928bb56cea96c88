use clap::{Args, ValueEnum};
use forebay_shard::Format;

use crate::report::Usage;

/// Whose files the shards are.
#[derive(Args)]
pub struct ShardFormat {
    /// What the shards are: ours, or files that an existing training stack reads
    #[arg(long, default_value = "forebay")]
    format: Choice,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Choice {
    /// Parquet with an index: shard-N.parquet, documents.idx
    Forebay,
    /// Megatron-LM: shard-N.bin and .idx, u16 or i32
    Megatron,
    /// datatrove and nanotron: .ds, .ds.index and .ds.metadata, u16 or u32
    Datatrove,
    /// NumPy: shard-N.npy and shard-N.offsets.npy, u16 or u32
    Npy,
    /// OLMo, as dolma writes it: part-N.npy without a header and part-N.csv.gz, u16 or u32
    Olmo,
    /// What inputs are is said with `--input-format`
    #[value(name = "jsonl", aliases = ["auto", "parquet", "text"], hide = true)]
    Input,
}

impl ShardFormat {
    /// The format, if it can hold what is asked for.
    pub fn get(&self, keep_text: bool) -> Result<Format, Usage> {
        let format = match self.format {
            Choice::Forebay => Format::Forebay,
            Choice::Megatron => Format::Megatron,
            Choice::Datatrove => Format::Datatrove,
            Choice::Npy => Format::Npy,
            Choice::Olmo => Format::Olmo,
            Choice::Input => {
                let what = "expected forebay, megatron, datatrove, npy or olmo";
                return Err(Usage(format!(
                    "--format: {what}; what the inputs are is said with `--input-format`"
                )));
            }
        };
        if keep_text && !format.is_forebay() {
            let name = format.name();
            let what = format!("{name} shards hold tokens alone; expected `--format forebay`");
            return Err(Usage(format!("--keep-text: {what}")));
        }
        Ok(format)
    }
}
