//! Comma-separated values as Python's `csv` module writes them by default: quotes only where a
//! field needs them, doubled inside, lines ended by CR LF.

/// One line, its end included.
pub(super) fn line(fields: &[&str]) -> String {
    let mut out = String::new();
    for (place, field) in fields.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        if field.contains([',', '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&field.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(field);
        }
    }
    out.push_str("\r\n");
    out
}

/// The fields of each line. What stands after a closing quote belongs to its field.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Vec<String>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut fields = vec![String::new()];
        let mut quoted = false;
        let mut characters = rest.char_indices().peekable();
        let mut end = rest.len();
        while let Some((at, character)) = characters.next() {
            let next = characters.peek().map(|&(_, next)| next);
            let field = fields.last_mut()?;
            match character {
                '"' if quoted && next == Some('"') => {
                    characters.next();
                    field.push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                '\r' if !quoted && next == Some('\n') => {
                    end = at + 2;
                    break;
                }
                other => field.push(other),
            }
        }
        rest = &rest[end..];
        Some(fields)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_are_where_python_puts_them() {
        let fields = ["0", "a b", "a,b", "a\"b", "a\nb", "", "'", " "];
        assert_eq!(line(&fields), "0,a b,\"a,b\",\"a\"\"b\",\"a\nb\",,', \r\n");
    }

    proptest! {
        #[test]
        fn every_table_comes_back(
            table in prop::collection::vec(prop::collection::vec("[a,\"\r\n ü]{0,4}", 1..4), 0..5),
        ) {
            let text: String = table
                .iter()
                .map(|fields| line(&fields.iter().map(String::as_str).collect::<Vec<_>>()))
                .collect();
            prop_assert_eq!(lines(&text).collect::<Vec<_>>(), table);
        }
    }
}
