use super::*;

fn parse(text: &str, set: &[&str]) -> Result<Recipe> {
    let set: Vec<String> = set.iter().map(|&s| s.to_owned()).collect();
    super::parse::recipe("r.toml", text, &set)
}

/// The message and the hint of what must be wrong.
fn complaint(text: &str, set: &[&str]) -> (String, String) {
    let error = parse(text, set).and_then(|recipe| recipe.steps()).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

const LEAST: &str = "[input]\npaths = ['a']\n[output]\npath = 'o'\n";

#[test]
fn the_template_holds_every_key_with_its_default() {
    let template = parse(TEMPLATE, &[]).unwrap();
    // A line that is no sentence is a key behind `#`.
    let is_key = |line: &str| line.split(" = ").next().is_some_and(|key| !key.contains(' '));
    let open = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = ") && is_key(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let opened: String = TEMPLATE.lines().map(|line| open(line) + "\n").collect();
    let opened = parse(&opened, &[]).unwrap();

    // Keys without a default stand there with an example.
    let mut expected = template.clone();
    let dedup = expected.dedup.as_mut().unwrap();
    (dedup.threshold, dedup.preset) = (Some(0.8), Some(Preset::Fineweb));
    (dedup.ngram, dedup.bands, dedup.rows) = (Some(5), Some(14), Some(8));
    (dedup.lines, dedup.paragraphs, dedup.min_tokens) = (Some(6), Some(3), Some(50));
    (dedup.url_field, dedup.score_field) = (Some("url".into()), Some("score".into()));
    dedup.write_index = Some("index".into());
    expected.tokenize.as_mut().unwrap().eos = Some("<|endoftext|>".into());
    expected.execution.threads = NonZeroUsize::new(8);
    expected.execution.tmp_dir = Some("/tmp".into());
    assert_eq!(opened, expected);

    // What the template says of bands is what happens without them.
    let fuzzy = |recipe: &Recipe| recipe.steps().unwrap().fuzzy.unwrap();
    let mut plain = opened.clone();
    plain.dedup.as_mut().unwrap().preset = None;
    assert_eq!(fuzzy(&plain), fuzzy(&template));
}

#[test]
fn every_key_is_in_the_template() {
    let all = toml::Table::try_from(parse(TEMPLATE, &[]).unwrap()).unwrap();
    for (section, keys) in &all {
        assert!(TEMPLATE.contains(&format!("\n[{section}]\n")), "{section}");
        for key in keys.as_table().unwrap().keys() {
            let lines = [format!("\n# {key} = "), format!("\n{key} = ")];
            assert!(lines.iter().any(|line| TEMPLATE.contains(line)), "{section}.{key}");
        }
    }
}

#[test]
fn a_stage_without_a_table_does_not_run() {
    let recipe = parse(LEAST, &[]).unwrap();
    assert_eq!(recipe.steps().unwrap(), Steps::default());
    let recipe = parse(&format!("{LEAST}[shuffle]\n[dedup]\nfuzzy = false\n"), &[]).unwrap();
    let expected = Steps { exact: true, shuffle: Some(0), ..Steps::default() };
    assert_eq!(recipe.steps().unwrap(), expected);
}

#[test]
fn what_is_set_stands_for_what_is_written() {
    let text = format!("{LEAST}[dedup]\nthreshold = 0.7\n");
    let set = ["dedup.threshold=0.9", "tokenize.tokenizer=a b.json", "execution.memory=2GiB"];
    let recipe = parse(&text, &set).unwrap();
    assert_eq!(recipe.dedup.unwrap().threshold, Some(0.9));
    assert_eq!(recipe.tokenize.unwrap().tokenizer, "a b.json");
    assert_eq!(recipe.execution.memory, Size(2 << 30));
    // Also what is missing.
    let recipe = parse("[input]\npaths=['a']", &["output.path=here"]).unwrap();
    assert_eq!(recipe.output.path, Path::new("here"));
}

#[test]
fn paths_are_relative_to_the_recipe_and_uris_are_not() {
    let text = "[input]\npaths = ['a/*.jsonl', 's3://b/c/*', '/d', 'https://e/f', '-']\n\
                [output]\npath = 's3://b/out'\n[execution]\ntmp_dir = 'scratch'\n";
    let mut recipe = parse(text, &[]).unwrap();
    recipe.locate(Path::new("runs"));
    let expected = ["runs/a/*.jsonl", "s3://b/c/*", "/d", "https://e/f", "-"];
    assert_eq!(recipe.input.paths, expected);
    assert_eq!(recipe.output.path, Path::new("s3://b/out"));
    assert_eq!(recipe.execution.tmp_dir.as_deref(), Some(Path::new("runs/scratch")));
    // What machines share is a directory.
    let job = recipe.job().unwrap();
    let refused = job.perform(crate::Task::Find, &crate::Progress::default()).unwrap_err();
    assert!(refused.to_string().contains("output.path: tasks meet in a directory"), "{refused}");
    assert!(!Path::new("s3:").exists());
}

#[test]
fn a_wrong_key_is_told_with_its_line_and_the_nearest_name() {
    let (what, hint) = complaint(&format!("{LEAST}[dedup]\nthresold = 0.7\n"), &[]);
    assert!(what.starts_with("r.toml, line 6: unknown field `thresold`"), "{what}");
    assert_eq!(hint, "did you mean `threshold`?");

    let (what, hint) = complaint(&format!("{LEAST}[tokenise]\n"), &[]);
    assert!(what.starts_with("r.toml, line 5: unknown field `tokenise`"), "{what}");
    assert_eq!(hint, "did you mean `tokenize`?");

    let (what, hint) = complaint(LEAST, &["dedup.kep=first"]);
    assert!(what.starts_with("--set dedup.kep=first: unknown field `kep`"), "{what}");
    assert_eq!(hint, "did you mean `keep`?");
}

#[test]
fn a_wrong_value_is_told_with_its_line() {
    let of_line = [
        ("[dedup]\nkeep = 'frist'", "line 6: unknown variant `frist`"),
        ("[dedup]\nexact = 'yes'", "line 6: invalid type: string \"yes\", expected a boolean"),
        ("[execution]\nmemory = '8 parsec'", "line 6: expected a size"),
        ("[execution]\nthreads = 0", "line 6: "),
        ("[tokenize]\nverify_tokens = '200%'", "line 6: expected a share"),
        ("[shuffle]\nseed = 'a", "line 6: "),
    ];
    for (text, expected) in of_line {
        let (what, _) = complaint(&format!("{LEAST}{text}\n"), &[]);
        assert!(what.starts_with(&format!("r.toml, {expected}")), "{what}");
    }
    let (what, _) = complaint("", &[]);
    assert!(what.contains("missing field `input`"), "{what}");
}

#[test]
fn what_only_shows_when_all_is_looked_over_is_told_with_its_line_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.toml");
    let text = format!("{LEAST}[dedup]\n# threshold = 2\nthreshold = 7\n");
    std::fs::write(&path, text).unwrap();
    let complain =
        |set: &[String]| Recipe::read(&path, set).unwrap().job().unwrap_err().to_string();
    let line = format!("{}, line 7: dedup.threshold: expected a number", path.display());
    assert!(complain(&[]).starts_with(&line), "{}", complain(&[]));
    let set = ["dedup.threshold=0".to_owned()];
    assert!(complain(&set).starts_with("--set dedup.threshold=0: dedup.threshold: "));
}

#[test]
fn one_path_needs_no_brackets_and_a_type_is_told_in_words() {
    let recipe = parse("[input]\npaths = 'a'\n[output]\npath = 'o'\n", &["input.paths=b/*"]);
    assert_eq!(recipe.unwrap().input.paths, ["b/*"]);
    let (what, _) = complaint(&format!("{LEAST}[dedup]\nthreshold = '1'\n"), &[]);
    assert!(what.contains("expected a number") && !what.contains("f64"), "{what}");
    let (what, _) = complaint(&format!("{LEAST}[shuffle]\nseed = 'x'\n"), &[]);
    assert!(what.contains("expected a whole number"), "{what}");
    let (what, _) = complaint(&format!("{{\"text\": \"{}\"}}", "long ".repeat(1000)), &[]);
    assert!(what.len() < 400, "{what}");
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let of_keys = [
        ("[dedup]\nngram = 0", "dedup.ngram: expected 1 to 100, found 0"),
        ("[dedup]\nthreshold = 1.5", "dedup.threshold: expected a number above 0"),
        ("[dedup]\nbands = 3", "dedup.bands: expected rows"),
        ("[dedup]\nkeep = 'score'", "dedup.score_field: expected a field"),
        ("[dedup]\nkeep = 'none'\nlines = 3", "dedup.keep: "),
        ("[dedup]\nscope = ''", "dedup.scope: "),
        ("[dedup]\nexact = false\nfuzzy = false\nagainst = ['i']", "dedup.against: an index"),
        ("[dedup]\ncuts = 'mask'\nlines = 3\n[tokenize]", "dedup.cuts: "),
    ];
    for (text, expected) in of_keys {
        let (what, _) = complaint(&format!("{LEAST}{text}\n"), &[]);
        assert!(what.starts_with(expected), "{what}");
    }
}
