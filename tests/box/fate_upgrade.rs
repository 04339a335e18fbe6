// SPDX-License-Identifier: MIT OR Apache-2.0
//! Another version of the package is installed, and nobody notices.

use crate::harness::{Test, TestBox, test};

pub const TESTS: &[Test] = &[test!(an_upgrade_of_the_package_loses_nothing)];

fn an_upgrade_of_the_package_loses_nothing(_b: &TestBox) {}
