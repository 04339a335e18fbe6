// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command line split into words without a shell.

use super::envfile::valid_name;
use super::scan::sets_variable;
use std::iter::Peekable;
use std::str::Chars;

/// What only a shell would give a meaning to, outside of quotes.
const SHELL: &str = "$`|;&<>()*?";
/// The same within double quotes.
const SHELL_IN_QUOTES: &str = "$`";

/// Splits `text` at white space. Single quotes keep everything, double quotes
/// everything but a backslash before `"`, `\`, `$` or a backquote, a backslash outside
/// of quotes the next character.
///
/// # Errors
/// What is wrong and what to write instead: an open quote, a backslash at the end,
/// or anything that asks for a shell.
pub fn split(text: &str) -> Result<Vec<String>, (String, String)> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(words);
        }
        let quoted = matches!(chars.peek(), Some('\'' | '"' | '\\'));
        let word = word(&mut chars, text)?;
        if !quoted && word.starts_with('~') {
            return Err(needs_shell('~', text));
        }
        if !quoted && words.is_empty() && word.contains('=') {
            let name = word.split('=').next().unwrap_or_default();
            let name = valid_name(name).map_or("...", |()| name);
            return Err((
                format!("`{name}=...` sets a variable, which only a shell does in a command"),
                "set variables with `environment = { NAME = \"value\" }`".into(),
            ));
        }
        words.push(word);
    }
}

/// Reads one word, up to white space or the end.
fn word(chars: &mut Peekable<Chars<'_>>, text: &str) -> Result<String, (String, String)> {
    let mut word = String::new();
    let mut quote = None;
    while let Some(&c) = chars.peek() {
        if quote.is_none() && c.is_whitespace() {
            break;
        }
        chars.next();
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '\\') => word.push(chars.next().ok_or_else(|| {
                (
                    "the command ends in a backslash".to_owned(),
                    "write `\\\\` for a backslash".to_owned(),
                )
            })?),
            (Some('"'), '\\') => match chars.next_if(|c| "\"\\$`".contains(*c)) {
                Some(escaped) => word.push(escaped),
                None => word.push('\\'),
            },
            (None, _) if SHELL.contains(c) => return Err(needs_shell(c, text)),
            (Some('"'), _) if SHELL_IN_QUOTES.contains(c) => return Err(needs_shell(c, text)),
            _ => word.push(c),
        }
    }
    match quote {
        None => Ok(word),
        Some(open) => Err((
            format!("the quote {open} is never closed"),
            "close it, or write the command as an array: [\"node\", \"server.js\"]".into(),
        )),
    }
}

fn needs_shell(what: char, text: &str) -> (String, String) {
    // The value of a variable is not repeated.
    let command = match sets_variable(text) {
        true => "...".to_owned(),
        false => with_exec(text),
    };
    (
        format!("`{what}` in a command needs a shell, and there is none"),
        format!(
            "write [\"sh\", \"-c\", {}] to use one, or put `{what}` in single quotes",
            toml_string(&command)
        ),
    )
}

/// A simple command is given an `exec`, so that signals reach it and not the shell.
fn with_exec(text: &str) -> String {
    if text.contains(['|', ';', '&', '\n']) {
        text.to_owned()
    } else {
        format!("exec {text}")
    }
}

/// `text` as a TOML string, to be shown in a hint.
pub(super) fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_words() {
        for (text, words) in [
            ("node server.js", vec!["node", "server.js"]),
            ("  a\t b\nc ", vec!["a", "b", "c"]),
            (
                r#"a 'b c' "d \"e\"" f\ g"#,
                vec!["a", "b c", "d \"e\"", "f g"],
            ),
            (r#"sh -c 'a | b; $c'"#, vec!["sh", "-c", "a | b; $c"]),
            (r#"a "" ''"#, vec!["a", "", ""]),
            (r#"x"y"'z' "c:\d""#, vec!["xyz", r"c:\d"]),
            (r#"a \$b "\$c\x""#, vec!["a", "$b", r"$c\x"]),
            ("a b=c d~", vec!["a", "b=c", "d~"]),
            ("", vec![]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn refuses_what_a_shell_would_do() {
        for text in [
            "a $B", "a | b", "a; b", "a && b", "a > b", "a < b", "a `b`", "a $(b)", "a \"$b\"",
            "~/a", "a *.js", "A=b c", "a 'b", "a \"b", "a \\",
        ] {
            assert!(split(text).is_err(), "{text}");
        }
        let (message, hint) = split("node a.js > /tmp/log").unwrap_err();
        assert_eq!(message, "`>` in a command needs a shell, and there is none");
        assert!(
            hint.contains(r#"["sh", "-c", "exec node a.js > /tmp/log"]"#),
            "{hint}"
        );
        assert!(split("a && b").unwrap_err().1.contains(r#""a && b"]"#));
    }
}
