// SPDX-License-Identifier: MIT OR Apache-2.0
//! hello
pub mod http;
/// x
pub fn run() -> anyhow::Result<()> {
    Ok(())
}
