// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of things. Numbers are never reused within one supervisor's life.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// One process (tree) in a slot. The identity of a worker: PIDs are shown, never used.
    WorkerId, u64, "w{}"
);
id!(
    /// A stable worker position, 0..N-1.
    SlotId, u32, "{}"
);
id!(
    /// One (configuration, code) version. The first is 1; each reload makes a new one.
    GenerationId, u64, "{}"
);
id!(
    /// Somebody who waits for the outcome of a request.
    RequestId, u64, "r{}"
);
