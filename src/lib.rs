// SPDX-License-Identifier: MIT OR Apache-2.0
//! app-cluster runs an application as N worker processes behind one listening
//! socket, under systemd.
//!
//! [`core`] decides (pure, no I/O), [`engine`] does; everything else feeds them.
//! Start reading in `docs/architecture.md`.

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
#[cfg(test)]
mod docs;
pub mod engine;
pub mod exec;
pub mod frontend;
pub mod hello;
pub mod protocol;
mod sys;
pub mod units;
