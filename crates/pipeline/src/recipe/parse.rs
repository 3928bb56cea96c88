//! TOML to a recipe; errors that say where, and what was meant.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Table, Value};

use super::Recipe;
use crate::{Error, Result};

/// Parses `text`, the recipe called `name`, with `set` in place of what it says.
pub(super) fn recipe(name: &str, text: &str, set: &[String]) -> Result<Recipe> {
    // Also if something is set: what is wrong in the file is told with its place.
    let recipe = toml::from_str(text);
    if set.is_empty() || recipe.as_ref().is_err_and(|error| !is_missing(error.message())) {
        return recipe.map_err(|error| in_file(name, text, &error));
    }
    let mut table: Table = toml::from_str(text).map_err(|error| in_file(name, text, &error))?;
    for setting in set {
        apply(&mut table, setting)?;
        // After each, to know which one is wrong.
        Recipe::deserialize(table.clone())
            .map(drop)
            .or_else(|error| if is_missing(error.message()) { Ok(()) } else { Err(error) })
            .map_err(|error| wrong(format!("--set {setting}"), error.message()))?;
    }
    Recipe::deserialize(table).map_err(|error| wrong(name.to_owned(), error.message()))
}

/// It may be set yet.
fn is_missing(message: &str) -> bool {
    message.starts_with("missing field")
}

fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let place = || format!("--set {setting}");
    let (key, value) = setting
        .split_once('=')
        .ok_or_else(|| wrong(place(), "expected KEY=VALUE, found no `=`"))?;
    let (section, key) = key.trim().split_once('.').ok_or_else(|| {
        wrong(place(), "expected a key such as `dedup.threshold`, found one without a table")
    })?;
    // What is no TOML value is a string without its quotes.
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok();
    let parsed = parsed.and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let section = table.entry(section).or_insert_with(|| Table::new().into());
    let section = section
        .as_table_mut()
        .ok_or_else(|| wrong(place(), "expected a table, found a value of that name"))?;
    section.insert(key.to_owned(), value);
    Ok(())
}

fn in_file(name: &str, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text[..start].matches('\n').count();
    let written = text[start..].lines().next().unwrap_or("").trim();
    let message = &plain(error.message());
    let shown = !written.is_empty() && !message.contains(written);
    let what = if shown { format!("{message} (`{}`)", short(written)) } else { message.to_owned() };
    let place = if error.span().is_some() { format!("{name}, line {line}") } else { name.into() };
    Error::Recipe { place, what, hint: nearest(message) }
}

fn wrong(place: String, message: &str) -> Error {
    let what = plain(message);
    let hint = nearest(&what);
    Error::Recipe { place, what, hint }
}

/// In words of TOML, where the parser speaks of types.
fn plain(message: &str) -> String {
    let mut message = message.replace("expected f64", "expected a number");
    for number in ["u16", "u32", "u64", "usize", "a nonzero usize"] {
        message = message.replace(&format!("expected {number}"), "expected a whole number");
    }
    message.replace("expected a sequence", "expected a list")
}

/// What is shown of a line.
fn short(written: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = written.chars().take(MOST).collect();
    if shown.len() < written.len() {
        shown.push('…');
    }
    shown
}

/// Where a recipe says what: keys with the places that errors name.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, String>);

// Where a key stands is no part of what it says.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Keys that stand on lines of their own below the header of their table, or with its name; those
    /// of `set` stand there.
    pub(super) fn of(name: &str, text: &str, set: &[String]) -> Self {
        let (mut places, mut table) = (BTreeMap::new(), String::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                table = header.trim().to_owned();
            } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                let key = key.trim();
                let key = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
                places.insert(key, format!("{name}, line {number}"));
            }
        }
        for setting in set {
            if let Some((key, _)) = setting.split_once('=') {
                places.insert(key.trim().to_owned(), format!("--set {setting}"));
            }
        }
        Self(places)
    }

    /// An error about a key, with the place of the key.
    pub(super) fn told(&self, error: Error) -> Error {
        match error {
            Error::Recipe { place, what, hint } if self.0.contains_key(&place) => {
                let place = format!("{}: {place}", self.0[&place]);
                Error::Recipe { place, what, hint }
            }
            other => other,
        }
    }
}

/// Of "unknown field `x`, expected one of `a`, `b`": the name that was meant.
fn nearest(message: &str) -> Option<String> {
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let mut names = message.split('`').skip(1).step_by(2);
    let found = names.next().filter(|_| unknown)?;
    let near = |name: &&str| strsim::jaro_winkler(found, name);
    let best = names.max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(&best) > 0.7).then(|| format!("did you mean `{best}`?"))
}
