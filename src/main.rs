// SPDX-License-Identifier: MIT OR Apache-2.0
//! `app-cluster`: parse, dispatch, map errors to exit codes.

fn main() {}
