// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why this process may not use a file, in words that say what to do.

use nix::unistd::{AccessFlags, Uid, User, eaccess, geteuid};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is wrong and what helps, for a `path` that gave EACCES: a directory on the way
/// that is closed, or else the file itself, which is to be used for `purpose` ("read").
pub(super) fn denied(path: &Path, purpose: &str) -> (String, Option<String>) {
    let us = name(geteuid());
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let closed = way
        .into_iter()
        .find(|part| part.is_dir() && eaccess(*part, AccessFlags::X_OK).is_err());
    let Some(closed) = closed else {
        let message = format!("user `{us}` may not {purpose} it");
        let hint = format!(
            "give it to a group of that user: chgrp and chmod g+r {}",
            path.display()
        );
        return (message, (purpose == "read").then_some(hint));
    };
    let shown = closed.display();
    let open = format!("let others through: chmod o+x {shown}");
    let owner = std::fs::metadata(closed).map(|found| Uid::from_raw(found.uid()));
    let hint = match owner {
        Ok(owner) if !owner.is_root() => {
            let owner = name(owner);
            format!(
                "run the app as its owner (user = \"{owner}\", systemctl daemon-reload), or {open}"
            )
        }
        _ => open,
    };
    (format!("user `{us}` may not enter `{shown}`"), Some(hint))
}

fn name(uid: Uid) -> String {
    let known = User::from_uid(uid).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}
