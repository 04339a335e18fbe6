// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuration files followed line by line, as far as is needed to know what of a line may
//! be shown: also in one that is no TOML.

use super::keys::{self, Status};
use super::kind::Kind;

/// Stands for what is not shown.
pub(super) const DOTS: &str = "...";

/// What may stand at `name` of a table of this `kind` (none: of the whole file), if values
/// there may be shown: there is such a key, and it is no variable.
pub(super) fn inner(kind: Option<&'static Kind>, name: &str) -> Option<&'static Kind> {
    let of = |keys: &'static [keys::Key]| keys.iter().find(|key| key.name == name);
    match kind {
        None => keys::find(name)
            .filter(|key| key.status == Status::Implemented && key.kind != Kind::Variables)
            .map(|key| &key.kind),
        Some(Kind::Table(keys) | Kind::Section(keys)) => of(keys).map(|key| &key.kind),
        Some(Kind::Named(value)) => Some(value),
        Some(Kind::Any(kinds)) => kinds.iter().find_map(|kind| inner(Some(kind), name)),
        Some(_) => None,
    }
}

/// Whether `text` begins with what sets a variable in a shell.
pub(super) fn sets_variable(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-\"'".contains(c);
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && !name.starts_with('-') && name.chars().all(fits)
    })
}

/// Whose keys a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Top,
    Known(&'static Kind),
    /// Variables, or nobody knows what.
    Secret,
}

/// A string that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quote {
    mark: char,
    several_lines: bool,
}

/// Where a file has got to.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    section: Section,
    /// Of several lines.
    string: Option<Quote>,
    /// How many brackets and braces are open.
    depth: usize,
    /// Whether these belong to something that is not shown.
    secret: bool,
}

/// What a line has outside of strings.
#[derive(Debug, Default)]
struct Parts {
    /// Name, where what follows the `=` begins, and how deep in brackets.
    assignments: Vec<(String, usize, usize)>,
    /// Where the comment begins.
    comment: Option<usize>,
    /// Whether a string of one line has no end, and may have a comment in it.
    swallowed: bool,
}

impl Scan {
    /// At the start of a file.
    pub(super) fn new() -> Scan {
        Scan {
            section: Section::Top,
            string: None,
            depth: 0,
            secret: false,
        }
    }

    /// Goes past `line`. Where in it a comment begins that is not to be shown.
    pub(super) fn pass(&mut self, line: &str) -> Option<usize> {
        let fresh = self.string.is_none() && self.depth == 0;
        let mut after = self.clone();
        let parts = after.parts(line);
        if fresh && line.trim_start().starts_with('[') {
            let name = line.trim_start().trim_start_matches('[');
            let name = name.split([']', '#']).next().unwrap_or_default();
            after.section = match Scan::new().key(name) {
                Some(kind) => Section::Known(kind),
                None => Section::Secret,
            };
            after.secret = false;
        } else if let (true, Some((name, ..))) = (fresh, parts.assignments.first()) {
            after.secret = self.key(name).is_none();
        } else if fresh {
            after.secret = false;
        }
        let secret = after.secret || after.section == Section::Secret;
        *self = after;
        parts
            .comment
            .filter(|at| secret || !self.shows_comment(&line[*at..]))
    }

    /// `line`, which comes next, without what may be the value of a variable.
    pub(super) fn shown(&self, line: &str) -> String {
        if self.string.is_some() {
            return DOTS.to_owned();
        }
        if self.depth > 0 {
            return self.name_alone(line);
        }
        let parts = self.clone().parts(line);
        let code = &line[..parts.comment.unwrap_or(line.len())];
        // What looks like a comment may be a part of a value, where a quote is missing.
        match self.clone().pass(line) {
            _ if code.trim_start().starts_with('[') => header(code),
            _ if line.trim().is_empty() => line.to_owned(),
            _ if !self.shows(code, &parts) => self.name_alone(code),
            Some(_) => format!("{code}# {DOTS}"),
            None => line.to_owned(),
        }
    }

    /// Whether all that `line`, with `parts`, sets are keys that may be shown.
    fn shows(&self, line: &str, parts: &Parts) -> bool {
        let Some((first, ..)) = parts.assignments.first() else {
            return false;
        };
        let Some(kind) = self.key(first) else {
            return false;
        };
        let mut all = parts.assignments.iter().enumerate();
        !parts.swallowed
            && all.all(|(n, (name, value, depth))| {
                let open = |c: char| c.is_whitespace() || "\"'[".contains(c);
                let value = line[*value..].trim_start_matches(open);
                let known = n == 0 || (*depth > 0 && inner(Some(kind), name).is_some());
                known && !sets_variable(value)
            })
    }

    /// Whether `comment` is prose, or a key that may be shown.
    fn shows_comment(&self, comment: &str) -> bool {
        let line = comment.trim_start_matches('#');
        let mut plain = Scan {
            section: self.section,
            ..Scan::new()
        };
        let parts = plain.parts(line);
        !line.contains('=') || plain.shows(line, &parts)
    }

    /// The name that `line` begins with.
    fn name_alone(&self, line: &str) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let line = line.trim_end();
        let indent = line.len() - line.trim_start().len();
        let rest = line.trim_start();
        let end = rest.find(|c| !bare(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        // A part of a value may have a `=` too, such as the end of something in base64.
        let sets = match rest.strip_prefix('=') {
            Some(value) => value.starts_with(['"', '\'', '[', '{']),
            None => rest.trim_start().starts_with('='),
        };
        match name.is_empty() || name.starts_with(['-', '.']) {
            false if sets => format!("{}{name} = {DOTS}", &line[..indent]),
            false if self.key(name).is_some() => format!("{}{name} {DOTS}", &line[..indent]),
            _ => DOTS.to_owned(),
        }
    }

    /// What may stand at the key `name`, dotted or not, if it may be shown.
    fn key(&self, name: &str) -> Option<&'static Kind> {
        let mut kind = match self.section {
            Section::Top => None,
            Section::Known(kind) => Some(kind),
            Section::Secret => return None,
        };
        for part in name.split('.') {
            kind = Some(inner(kind, part.trim().trim_matches(['"', '\'']))?);
        }
        kind
    }

    /// Goes past `line`, but for its section, and takes it apart.
    fn parts(&mut self, line: &str) -> Parts {
        let mut parts = Parts::default();
        let mut item = 0;
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let mut twice = |mark: char| {
                let both = line[at + c.len_utf8()..].starts_with([mark]) && {
                    let rest = &line[at + 2 * c.len_utf8()..];
                    rest.starts_with([mark])
                };
                if both {
                    chars.nth(1);
                }
                both
            };
            match self.string {
                Some(quote) if c == '\\' && quote.mark == '"' => {
                    chars.next();
                }
                Some(quote) if c == quote.mark => {
                    if !quote.several_lines {
                        self.string = None;
                    } else if twice(c) {
                        self.string = None;
                        // The last of five belong to the string.
                        while chars.next_if(|(_, next)| *next == c).is_some() {}
                    }
                }
                Some(_) => {}
                None => match c {
                    '"' | '\'' => {
                        let several_lines = twice(c);
                        self.string = Some(Quote {
                            mark: c,
                            several_lines,
                        });
                    }
                    '#' => {
                        parts.comment = Some(at);
                        break;
                    }
                    '=' => {
                        let name = line[item..at].trim().to_owned();
                        parts.assignments.push((name, at + 1, self.depth));
                    }
                    '[' | '{' => self.depth += 1,
                    ']' | '}' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                },
            }
            if self.string.is_none() && ",{".contains(c) {
                item = at + 1;
            }
        }
        if self.string.is_some_and(|quote| !quote.several_lines) {
            parts.swallowed = line.contains('#');
            self.string = None;
        }
        parts
    }
}

/// A line that begins with `[`, if it is the header of a section, without what follows that.
fn header(line: &str) -> String {
    let end = line.find(']').map_or(line.len(), |at| at + 1);
    let end = end + line[end..].len() - line[end..].trim_start_matches(']').len();
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.[] ".contains(c);
    match (line[..end].chars().all(fits), line[end..].trim()) {
        (true, "") => line.to_owned(),
        (true, _) => format!("{} {DOTS}", &line[..end]),
        (false, _) => DOTS.to_owned(),
    }
}
