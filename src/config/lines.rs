// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many sockets a listener has, and who gets which.

use super::{Balance, Config, Cpus, ListenAddress, MAX_LINES, Runner, Workers};
use serde::{Deserialize, Serialize};

/// Most lines that a listener has without being told.
const USUAL_MOST: u32 = 64;

/// What [`Balance`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// All workers accept from the first socket.
    Shared,
    /// The worker of slot `i` accepts from socket `i` (modulo their number); the kernel
    /// picks one at random.
    Even,
    /// The same, picked by the client's address.
    Sticky,
    /// The supervisor accepts from the first socket and hands connections over.
    RoundRobin,
}

impl Spread {
    /// Whether each slot has a line.
    pub fn has_lines(self) -> bool {
        matches!(self, Spread::Even | Spread::Sticky)
    }
}

impl Config {
    /// Whether it says that its workers listen on nothing at all: `listen = []`.
    pub fn listens_nowhere(&self) -> bool {
        self.listen.is_empty() && self.slot_listen.is_none() && self.source.gives("listen")
    }

    /// How connections are spread.
    pub fn spread(&self) -> Spread {
        match self.balance {
            Balance::Auto => match self.runner_by_name() {
                Some(Runner::Node | Runner::Launcher) => Spread::Even,
                Some(Runner::Deno) => Spread::RoundRobin,
                None => Spread::Shared,
            },
            Balance::RoundRobin => Spread::RoundRobin,
            Balance::Shared => Spread::Shared,
            Balance::Even => Spread::Even,
            Balance::Sticky => Spread::Sticky,
        }
    }

    /// How many sockets a listener on `address` has: one for each slot that the app may have
    /// without two slots sharing one. By default twice the CPUs that are online, or the
    /// main file's `workers` if that is a larger number, at most 64.
    pub fn lines(&self, address: &ListenAddress) -> u32 {
        match address {
            // No SO_REUSEPORT for these (EOPNOTSUPP).
            ListenAddress::Unix(_) => 1,
            _ if !self.spread().has_lines() => 1,
            _ => self.slots_with_address(),
        }
    }

    /// How many slots have an address of their own in `slot_listen`; see [`Config::lines`].
    pub fn slots_with_address(&self) -> u32 {
        let usual = || {
            let workers = match self.main_workers {
                Workers::Count(count) => count,
                Workers::Max | Workers::MaxMinusOne => 1,
            };
            (2 * Cpus::online()).max(workers).min(USUAL_MOST)
        };
        self.max_workers.unwrap_or_else(usual).min(MAX_LINES)
    }
}
