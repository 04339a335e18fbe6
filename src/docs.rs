// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of the documentation that tests compare with the code, and write.

use std::path::Path;

/// Asserts that `file` has `expected` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
/// With UPDATE_DOCS=1 it is put there.
pub fn assert_section(file: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(&path).expect("the documentation");
    let (begin, end) = (
        format!("<!-- {name}:begin -->\n"),
        format!("<!-- {name}:end -->"),
    );
    let (head, rest) = text.split_once(&begin).expect("the section's begin");
    let (found, tail) = rest.split_once(&end).expect("the section's end");
    if found.trim() == expected.trim() {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        let expected = expected.trim();
        let text = format!("{head}{begin}\n{expected}\n\n{end}{tail}");
        std::fs::write(&path, text).expect("the documentation is writable");
        return;
    }
    let differing = |(a, b): &(&str, &str)| a != b;
    let lines = found.trim().lines().zip(expected.trim().lines());
    let first = { lines }.find(differing);
    panic!(
        "{file}, section {name}, is not what the code does; first difference (there, here): \
         {first:#?}\nlook at it, then: UPDATE_DOCS=1 cargo test --lib"
    );
}

/// Asserts that `file` consists of `expected`. With UPDATE_DOCS=1 it is written.
pub fn assert_file(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&path, expected).expect("the file is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
    assert!(
        found == expected,
        "{file} is not what the code says; first difference (there, here): {differing:#?}\n\
         look at it, then: UPDATE_DOCS=1 cargo test --lib"
    );
}
