// SPDX-License-Identifier: MIT OR Apache-2.0
//! How workers are spoken to, beyond sd_listen_fds(3) and sd_notify(3).

pub mod node;
