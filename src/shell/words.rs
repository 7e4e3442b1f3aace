//! A line taken apart: statements between `;`, words between blanks, quotes round what must stay
//! together.
//!
//! `'…'` keeps everything as it is; in `"…"` a `\` lets a quote or itself through. What is quoted is
//! never taken for a keyword, so a key may be called `limit`. `#` begins a comment.

/// One word of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) is_quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(keyword)
    }
}

/// The statements of a line, those without words left out.
pub(super) fn statements(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut statements = vec![Vec::new()];
    let mut letters = line.chars().peekable();
    while let Some(&letter) = letters.peek() {
        match letter {
            '#' => break,
            ';' => {
                letters.next();
                statements.push(Vec::new());
            }
            letter if letter.is_whitespace() => {
                letters.next();
            }
            _ => {
                let word = word(&mut letters)?;
                statements.last_mut().expect("there is always one").push(word);
            }
        }
    }
    statements.retain(|words| !words.is_empty());
    Ok(statements)
}

fn word(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, String> {
    let mut text = String::new();
    let mut is_quoted = false;
    while let Some(&letter) = letters.peek() {
        match letter {
            '\'' | '"' => {
                letters.next();
                is_quoted = true;
                quoted(letters, letter, &mut text)?;
            }
            ';' => break,
            letter if letter.is_whitespace() => break,
            letter => {
                letters.next();
                text.push(letter);
            }
        }
    }
    Ok(Word { text, is_quoted })
}

fn quoted(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    quote: char,
    text: &mut String,
) -> Result<(), String> {
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter == quote => return Ok(()),
            '\\' if quote == '"' && matches!(letters.peek(), Some('"' | '\\')) => {
                text.extend(letters.next());
            }
            letter => text.push(letter),
        }
    }
    Err(format!("there is no closing {quote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let show = |word: &Word| {
            if word.is_quoted { format!("<{}>", word.text) } else { word.text.clone() }
        };
        let words = |words: &Vec<Word>| words.iter().map(show).collect::<Vec<_>>().join(" ");
        statements(line).unwrap().iter().map(words).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn a_line_is_statements_of_words() {
        assert_eq!(told("get a"), "get a");
        assert_eq!(told("  begin;put a 1 ; commit;; # done"), "begin | put a 1 | commit");
        assert_eq!(told("# nothing"), "");
        assert_eq!(told("get a#b"), "get a#b");
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(told("get k at '5s ago'"), "get k at <5s ago>");
        assert_eq!(told(r#"put "a;b" 'it''s'"#), "put <a;b> <its>");
        assert_eq!(told(r#"put k "say \"hi\" \\ \n""#), r#"put k <say "hi" \ \n>"#);
        assert_eq!(told("put k ''"), "put k <>");
        assert_eq!(told(r"put esc:a\x00 v"), r"put esc:a\x00 v");
        assert!(statements("put k 'open").is_err_and(|error| error.contains('\'')));
    }
}
