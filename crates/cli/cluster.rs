//! A cluster, document by document, with the differences to the one that stays.

use std::path::Path;

use forebay_shard::{ClusterMember, Dataset, Origin, input, text_of};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use crate::format;
use crate::report::Report;

/// Words that are equal are shown up to so many on either side of a difference.
const CONTEXT_WORDS: usize = 8;
/// Of a document.
const SHOWN_DIFFERENCES: usize = 20;

/// Shows up to `samples` documents of a cluster beside the survivor.
pub fn show(path: &Path, number: u64, samples: usize, report: &mut Report) -> anyhow::Result<()> {
    let dataset = Dataset::open(path)?;
    let Some((survivor, members)) = dataset.cluster(number)? else {
        anyhow::bail!("{}: expected a cluster {number} in removed/, found none", path.display());
    };
    // As the run read them.
    let options = dataset.manifest().lineage.options.get("input").cloned().unwrap_or_default();
    let options: input::Options = serde_json::from_value(options).unwrap_or_default();
    let kept = text_of(&survivor, &options)?;
    let size = members.len() as u64 + 1;
    report.line(format!("cluster {number}: {} documents", format::count(size)));
    report.line(format!("keep  {}", describe(&survivor)));
    report.line(format!("      {}", format::line(&kept, 200)));
    let mut shown = Vec::new();
    for member in members.iter().take(samples) {
        let text = text_of(&member.origin, &options)?;
        let differences = differences(&kept, &text);
        report.line(format!("drop  {}: {}", describe(&member.origin), similarity(member)));
        let more = differences.len().saturating_sub(SHOWN_DIFFERENCES);
        for difference in differences.iter().take(SHOWN_DIFFERENCES) {
            report.line(format!("      {difference}"));
        }
        match (differences.len(), more) {
            (0, _) => report.line("      no word differs"),
            (_, 0) => {}
            _ => report.line(format!("      and {more} differences more")),
        }
        shown.push(json!({
            "id": member.origin.id,
            "file": member.origin.file,
            "position": member.origin.position,
            "reason": member.reason,
            "jaccard": member.jaccard,
            "jaccard_estimated": member.jaccard_estimated,
            "text": text,
            "differences": differences,
        }));
    }
    if let Some(more) = members.len().checked_sub(samples).filter(|&more| more > 0) {
        report
            .line(format!("      {} documents more: see `--samples`", format::count(more as u64)));
    }
    let keep = json!({
        "id": survivor.id, "file": survivor.file, "position": survivor.position, "text": kept,
    });
    let result: Value =
        json!({ "cluster": number, "size": size, "survivor": keep, "documents": shown });
    report.json(result);
    Ok(())
}

fn describe(origin: &Origin) -> String {
    format!("{} from {} at {}", origin.id, origin.file, origin.position)
}

fn similarity(member: &ClusterMember) -> String {
    let part = |name: &str, value: Option<f32>| {
        value.map_or(String::new(), |value| format!(", {name} {value:.3}"))
    };
    let (exact, estimated) = (member.jaccard, member.jaccard_estimated);
    format!("{}{}{}", member.reason, part("Jaccard", exact), part("estimated", estimated))
}

/// Each difference with some words around it: `[-only in the survivor-]`, `{+only here+}`.
fn differences(kept: &str, text: &str) -> Vec<String> {
    let diff =
        TextDiff::configure().timeout(std::time::Duration::from_secs(5)).diff_words(kept, text);
    let hunks = diff.grouped_ops(2 * CONTEXT_WORDS);
    let hunks = hunks.iter().map(|ops| {
        let mut line = String::new();
        let mut open: Option<ChangeTag> = None;
        let close = |open: Option<ChangeTag>| match open {
            Some(ChangeTag::Delete) => "-]",
            Some(ChangeTag::Insert) => "+}",
            _ => "",
        };
        for change in ops.iter().flat_map(|op| diff.iter_changes(op)) {
            let tag = Some(change.tag());
            if tag != open {
                line.push_str(close(open));
                line.push_str(match change.tag() {
                    ChangeTag::Delete => "[-",
                    ChangeTag::Insert => "{+",
                    ChangeTag::Equal => "",
                });
                open = tag;
            }
            line.push_str(change.value());
        }
        line.push_str(close(open));
        // A line each, so that many are read at a glance.
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    hunks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_marked_among_their_neighbours() {
        let kept = "one two three four five";
        assert_eq!(differences(kept, "one two 3 four five"), ["one two [-three-]{+3+} four five"]);
        assert!(differences(kept, kept).is_empty());
    }
}
