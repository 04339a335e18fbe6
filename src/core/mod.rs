// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor's decisions: pure, synchronous, no I/O.

mod policy;

pub use policy::{OnFailure, Policy, Ready, Restart};
