// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boxes: throw-away containers in which a real systemd runs our real package.
//!
//! A test is a function `fn(&TestBox)` that panics when it is not satisfied. It
//! gets a booted box of its own and runs once in each [`SUITES`] suite, named
//! `bookworm::name`. When it fails, the report holds what it said, where, and
//! what the box knows (units, failed units, journal). The box is gone
//! afterwards in any case.

mod command;
mod host;
mod machine;
mod nspawn;
mod root;

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

use libtest_mimic::{Failed, Trial};

#[allow(unused_imports, reason = "named by tests that keep them")]
pub use command::{Output, Task, is_installed};
pub use host::Host;
pub use machine::TestBox;
pub use root::Root;

/// The Debian releases that each test runs in: systemd 252 and 257.
pub const SUITES: &[&str] = &["bookworm", "trixie"];

/// A test and what it wants to find in its box.
#[derive(Clone, Copy)]
pub struct Test {
    /// Its name without the suite.
    pub name: &'static str,
    /// Whether the package is installed before it begins.
    pub installed: bool,
    /// The test itself.
    pub run: fn(&TestBox),
}

/// `test!(name)` is the function `name` as a [`Test`] with the package
/// installed, `test!(bare name)` without.
macro_rules! test {
    (bare $name:ident) => {
        $crate::harness::Test {
            name: stringify!($name),
            installed: false,
            run: $name,
        }
    };
    ($name:ident) => {
        $crate::harness::Test {
            name: stringify!($name),
            installed: true,
            run: $name,
        }
    };
}
pub(crate) use test;

/// `full` when every requirement is to be met as written (`APPC_FULL=1`),
/// else `reduced`, which fits the time of an ordinary run.
pub fn scale(full: usize, reduced: usize) -> usize {
    if std::env::var_os("APPC_FULL").is_some_and(|v| v == "1") {
        full
    } else {
        reduced
    }
}

/// Makes a trial of `test` in `root`, to be run on `host`.
pub fn trial(host: &'static Host, root: Root, test: Test) -> Trial {
    let name = format!("{}::{}", root.suite(), test.name);
    Trial::test(name, move || run(host, &root, test))
}

/// A trial that is reported as ignored: the boxes cannot run here.
pub fn ignored(suite: &str, test: Test) -> Trial {
    let why = "boxes cannot run here, the reason is printed above";
    Trial::test(format!("{suite}::{}", test.name), move || Err(why.into())).with_ignored_flag(true)
}

thread_local! {
    /// The last panic of this thread with its place, if the thread runs a test.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the panics of tests for their reports (other threads': printed).
pub fn keep_panics_for_the_report() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let kept = PANIC.with_borrow_mut(|slot| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            slot.as_mut()
                .map(|text| *text = format!("{place}: {}", message(info.payload())))
        });
        if kept.is_none() {
            print(info);
        }
    }));
}

fn message(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".into())
}

fn run(host: &Host, root: &Root, test: Test) -> Result<(), Failed> {
    let machine = TestBox::boot(host, root).map_err(|e| Failed::from(format!("{e:#}")))?;
    PANIC.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        if test.installed {
            machine.install();
        }
        (test.run)(&machine);
    }));
    let said = PANIC.take().unwrap_or_default();
    result.map_err(|_| Failed::from(format!("{said}\n{}", machine.diagnosis())))
}
