// SPDX-License-Identifier: MIT OR Apache-2.0
//! x
use crate::Row;
pub const ROWS: &[Row] = &[];
