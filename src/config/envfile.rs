// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of environment variables in the syntax of `EnvironmentFile=`, systemd.exec(5).

use super::diagnostic::{Diagnostic, Position};
use std::iter::Peekable;
use std::str::CharIndices;

/// Most errors shown of one file.
const MOST: usize = 20;

/// What a line is without a good name.
const NO_NAME: &str =
    "sets no variable: its name may have only letters, digits and `_`, not a digit first";
/// What to do about lines that are none.
const SEVERAL_LINES: &str =
    "put a value of several lines in double quotes; a comment starts with `#`";

/// Checks the name of a variable: letters, digits and `_`, not starting with a digit.
///
/// # Errors
/// A sentence that says what is wrong with `name`.
pub(super) fn valid_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits)
    {
        return Err(format!(
            "{name:?} cannot name a variable: letters, digits and `_`, not a digit first"
        ));
    }
    Ok(())
}

/// A name that is valid, and like `name`.
pub(super) fn like(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let chars = name.chars().take(64).map(|c| if fits(c) { c } else { '_' });
    let like: String = chars.collect();
    match like.starts_with(|c: char| !c.is_ascii_digit()) {
        true => like,
        false => format!("_{like}"),
    }
}

/// The variables set in `text`, in its order. `origin` is what errors call the file.
///
/// # Errors
/// Each line that systemd would ignore with a message in its log.
pub(super) fn parse(text: &str, origin: &str) -> Result<Vec<(String, String)>, Vec<Diagnostic>> {
    let (mut variables, mut errors) = (Vec::new(), Vec::new());
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(start, first)) = chars.peek() else {
            break;
        };
        if first == '#' || first == ';' {
            while chars.next_if(|&(_, c)| c != '\n').is_some() {}
            continue;
        }
        if let Err((message, hint)) = assignment(&mut chars, text, &mut variables)
            && errors.len() < MOST
        {
            let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
            let position = super::hide::in_file(Position::of(text, start..end));
            let message = match message.as_str() {
                NO_NAME => format!("line {} {NO_NAME}", position.line),
                _ => message,
            };
            errors.push(Diagnostic {
                position,
                ..Diagnostic::file(origin, message, hint)
            });
        }
    }
    if errors.is_empty() {
        Ok(variables)
    } else {
        Err(errors)
    }
}

/// Reads `NAME=VALUE` up to the end of its last line.
fn assignment(
    chars: &mut Peekable<CharIndices<'_>>,
    text: &str,
    variables: &mut Vec<(String, String)>,
) -> Result<(), (String, Option<String>)> {
    let start = chars.peek().map_or(text.len(), |&(at, _)| at);
    while chars.next_if(|&(_, c)| c != '=' && c != '\n').is_some() {}
    let end = chars.peek().map_or(text.len(), |&(at, _)| at);
    let name = text[start..end].trim_end();
    if chars.next_if(|&(_, c)| c == '=').is_none() {
        return Err(("expected NAME=VALUE".into(), Some(SEVERAL_LINES.into())));
    }
    let value = value(chars);
    if let Some(plain) = name.strip_prefix("export ") {
        let plain = plain.trim_start();
        let plain = valid_name(plain).map_or("NAME", |()| plain);
        let hint = format!("remove `export`: {plain}=...");
        return Err(("a file of variables is no shell script".into(), Some(hint)));
    }
    let hint = |text: &str| Some(text.to_owned());
    // Perhaps a part of a value, which is not repeated.
    valid_name(name).map_err(|_| (NO_NAME.to_owned(), hint(SEVERAL_LINES)))?;
    super::launch::settable(name).map_err(|why| (why, hint(super::launch::LEAVE_OUT)))?;
    let value = value.map_err(|why| (why, hint("close it, or put a backslash before it")))?;
    if value.contains('\0') {
        let why = "a variable cannot contain a NUL character";
        return Err((why.into(), hint("is it a text file?")));
    }
    variables.push((name.to_owned(), value));
    Ok(())
}

/// Reads a value: quoted parts with white space between them dropped, and plain
/// text up to the end of the line, in which a backslash keeps the next character
/// or joins the next line.
fn value(chars: &mut Peekable<CharIndices<'_>>) -> Result<String, String> {
    let mut value = String::new();
    loop {
        while chars
            .next_if(|&(_, c)| c != '\n' && c.is_whitespace())
            .is_some()
        {}
        match chars.next() {
            None | Some((_, '\n')) => return Ok(value),
            Some((_, quote @ ('\'' | '"'))) => quoted(chars, quote, &mut value)?,
            Some((_, first)) => {
                plain(chars, first, &mut value);
                return Ok(value);
            }
        }
    }
}

/// The rest of a quoted part. It may go over several lines.
fn quoted(
    chars: &mut Peekable<CharIndices<'_>>,
    quote: char,
    value: &mut String,
) -> Result<(), String> {
    while let Some((_, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok(()),
            '\\' if quote == '"' => match chars.next() {
                Some((_, '\n')) => {}
                Some((_, escaped @ ('"' | '\\' | '`' | '$'))) => value.push(escaped),
                Some((_, other)) => value.extend(['\\', other]),
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    Err(format!("the quote {quote} is never closed"))
}

/// Unquoted text up to the end of the line, without the white space before that.
fn plain(chars: &mut Peekable<CharIndices<'_>>, first: char, value: &mut String) {
    let mut keep = value.len();
    let mut next = Some(first);
    while let Some(c) = next {
        if c == '\n' {
            break;
        }
        if c != '\\' {
            value.push(c);
        } else if let Some((_, escaped)) = chars.next()
            && escaped != '\n'
        {
            value.push(escaped);
            keep = value.len();
        }
        if !c.is_whitespace() {
            keep = value.len();
        }
        next = chars.next().map(|(_, c)| c);
    }
    value.truncate(keep);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text, "env").unwrap()
    }

    #[test]
    fn reads_what_systemd_reads() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A=b # c", "b # c"),
            ("  A = b c  \r\n", "b c"),
            ("A='b \"$c\\'", "b \"$c\\"),
            ("A=\"b \\\"c\\\" \\$d \\n\"", "b \"c\" $d \\n"),
            ("A=b\\\n  c", "b  c"),
            ("A=b\\ \n", "b "),
            ("A=\"b\\\nc\"", "bc"),
            ("A='b\nc'", "b\nc"),
            ("A='b' \"c\"d ", "bcd"),
            ("# x\n; y\n\nA=it's\n", "it's"),
            ("A=b=c", "b=c"),
        ] {
            assert_eq!(read(text), [("A".to_owned(), value.to_owned())], "{text:?}");
        }
        assert_eq!(read("\n# only\\\n"), []);
        assert_eq!(read("A=1\nB=2").len(), 2);
    }

    #[test]
    fn reports_each_bad_line() {
        let text = "A=1\nexport B=2\nnonsense\n1C=3\nLISTEN_FDS=1\nD='x\n";
        let errors = parse(text, "/etc/default/web").unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|e| e.position.line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
        assert_eq!(errors[0].hint.as_deref(), Some("remove `export`: B=..."));
        assert_eq!(errors[4].message, "the quote ' is never closed");
    }

    #[test]
    fn no_part_of_a_value_is_taken_for_a_name() {
        let no_name = |line| {
            format!("line {line} sets no variable: its name may have only letters, digits and `_`")
        };
        for (text, message, shown) in [
            ("A=-----BEGIN\ns3c/AA==\n", no_name(2), "..."),
            ("A=b\ns3c", "expected NAME=VALUE".into(), "..."),
            ("A s3c=b", no_name(1), "..."),
            ("7s3c=b", no_name(1), "..."),
            ("=s3c", no_name(1), "..."),
            ("export s3c/A=b", "a file of variables is no".into(), "..."),
            (
                "export A=s3c",
                "a file of variables is no".into(),
                "export A=...",
            ),
            ("A='s3c", "the quote ' is never closed".into(), "A=..."),
            (
                "LISTEN_FDS=s3c",
                "`LISTEN_FDS` cannot be set".into(),
                "LISTEN_FDS=...",
            ),
        ] {
            let errors = parse(text, "env").unwrap_err();
            let [error] = errors.as_slice() else {
                panic!("{errors:?}");
            };
            assert!(error.message.starts_with(&message), "{error}");
            assert_eq!(error.position.text, shown);
            let all = format!("{error}{error:?}");
            assert!(!all.contains("s3c"), "{all}");
        }
    }
}
