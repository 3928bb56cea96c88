//! The common JSON line, read fast: a flat object of strings, numbers and literals.
//!
//! Whatever else it meets (nesting, keys with escapes, any error) it leaves to the
//! strict parser: what is read here is read there to the same result, which a test asserts.

use super::Options;
use super::unescape::unescape;

/// What a line holds; buffers are used again and again.
#[derive(Default)]
pub(super) struct Line {
    /// Only if it was read strictly.
    pub(super) text: String,
    pub(super) id: String,
    pub(super) has_id: bool,
    /// Values of the further fields, empty where missing.
    pub(super) extra: Vec<String>,
}

impl Line {
    /// Reads a line; `None` leaves it to the strict parser.
    ///
    /// The text is appended to `text`, or something that the caller takes away again.
    pub(super) fn read(&mut self, line: &str, options: &Options, text: &mut String) -> Option<()> {
        self.has_id = false;
        self.extra.iter_mut().for_each(String::clear);
        let (start, mut has_text) = (text.len(), false);
        let mut rest = Rest(line);
        rest.take('{')?;
        loop {
            rest.take('"')?;
            let key = rest.plain_string()?;
            rest.take(':')?;
            if key == options.text_field {
                rest.take('"')?;
                text.truncate(start);
                rest.string(text)?;
                has_text = true;
            } else if key == options.id_field {
                self.id.clear();
                rest.value(&mut self.id)?;
                self.has_id = true;
            } else if let Some(at) = options.extra.iter().position(|field| field.name == key) {
                // What a field must hold is the strict parser's business.
                rest.take('"').filter(|()| !options.extra[at].number)?;
                self.extra[at].clear();
                rest.string(&mut self.extra[at])?;
            } else {
                rest.skip()?;
            }
            match rest.next()? {
                ',' => {}
                '}' => break,
                _ => return None,
            }
        }
        rest.0.trim_matches(SPACE).is_empty().then_some(()).filter(|()| has_text)
    }
}

const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// What of the line is not read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// The next character that is no white space.
    fn next(&mut self) -> Option<char> {
        self.0 = self.0.trim_start_matches(SPACE);
        let character = self.0.chars().next()?;
        self.0 = &self.0[character.len_utf8()..];
        Some(character)
    }

    fn take(&mut self, expected: char) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    /// The rest of a string without escapes.
    fn plain_string(&mut self) -> Option<&'a str> {
        let end = memchr::memchr2(b'"', b'\\', self.0.as_bytes())?;
        let string = &self.0[..end];
        let plain = self.0.as_bytes()[end] == b'"' && !has_control(string);
        self.0 = &self.0[end + 1..];
        plain.then_some(string)
    }

    /// The rest of a string, unescaped, appended.
    fn string(&mut self, to: &mut String) -> Option<()> {
        let end = unescape(self.0, to)?;
        self.0 = &self.0[end..];
        Some(())
    }

    /// A string or an integer that stands for itself.
    fn value(&mut self, to: &mut String) -> Option<()> {
        match self.next()? {
            '"' => self.string(to),
            first @ '1'..='9' => {
                let rest = self.0.trim_start_matches(|c: char| c.is_ascii_digit());
                let digits = &self.0[..self.0.len() - rest.len()];
                let ends = rest.starts_with([',', '}', ' ']);
                to.push(first);
                to.push_str(digits);
                self.0 = rest;
                // Up to here every integer is one for the strict parser too.
                (ends && digits.len() < 18).then_some(())
            }
            _ => None,
        }
    }

    /// Skips a string without escapes, a short number without exponent, or a literal.
    fn skip(&mut self) -> Option<()> {
        self.0 = self.0.trim_start_matches(SPACE);
        for literal in ["null", "true", "false"] {
            if let Some(rest) = self.0.strip_prefix(literal) {
                self.0 = rest;
                return Some(());
            }
        }
        if let Some(rest) = self.0.strip_prefix('"') {
            self.0 = rest;
            return self.plain_string().map(|_| ());
        }
        let end = self.0.find([',', '}', ' '])?;
        let number = self.0[..end].strip_prefix('-').unwrap_or(&self.0[..end]);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let plain = whole == "0" || !whole.starts_with('0');
        self.0 = &self.0[end..];
        (end < 20 && plain && digits(whole) && digits(fraction)).then_some(())
    }
}

fn has_control(text: &str) -> bool {
    // Without branches, so that many are compared at once.
    text.bytes().fold(false, |found, byte| found | (byte < b' '))
}
