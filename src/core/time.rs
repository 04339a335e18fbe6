// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time as the core sees it: handed in, never asked for.

use serde::{Deserialize, Serialize};
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment of CLOCK_MONOTONIC, in microseconds (clock_gettime(2)). It stands
/// still while the machine is suspended, so a suspend makes nothing late.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The first full second that is not before.
    pub(super) fn up_to_second(self) -> Time {
        const SECOND: u64 = 1_000_000;
        Time(self.0.div_ceil(SECOND).saturating_mul(SECOND))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(span))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, span: Duration) -> Time {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(span))
    }
}
