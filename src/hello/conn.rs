// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection as a state machine: bytes and time in, bytes and [`Next`] out. No I/O, no clock.
//!
//! The rules of the drain live here: what is in flight is finished, the next answer of each
//! connection says `Connection: close`, and the end of a connection never destroys an answer.

use super::http::{Parser, Progress};
use super::site::{Answer, Framing, Site};
use std::time::{Duration, Instant};

/// Open and between requests, not draining. Long, since closing races with the next request.
const IDLE: Duration = Duration::from_secs(300);
/// In the middle of a request or of an answer without a byte moving.
const STALLED: Duration = Duration::from_secs(60);
/// Idle connections stay this long after the drain began, to carry one more request each.
const QUIET: Duration = Duration::from_secs(2);
/// After our FIN, this long for the client's (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);
/// Answers waiting for a slow reader, in bytes, above which no further request is looked at.
const MAX_OUT: usize = 64 * 1024;

/// What every call needs to know about the worker.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The answers.
    pub site: &'a Site,
    /// The time of this turn of the loop.
    pub now: Instant,
    /// When the drain began.
    pub draining: Option<Instant>,
}

/// What the connection waits for, or wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Bytes from the client.
    Read,
    /// Room for [`Conn::output`].
    Write,
    /// Its deadline only.
    Wait,
    /// Send FIN, then call [`Conn::was_shut_down`].
    ShutDown,
    /// Close the descriptor.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Delayed {
        until: Instant,
        answer: Answer,
        framing: Framing,
        body: bool,
    },
    Closing {
        linger: bool,
    },
    Lingering {
        until: Instant,
    },
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    parser: Parser,
    /// Received, and not to be looked at before the current answer is out.
    pending: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    phase: Phase,
    last: Instant,
    eof: bool,
}

impl Conn {
    /// A connection accepted at `now`.
    pub fn new(now: Instant) -> Conn {
        Conn {
            parser: Parser::default(),
            pending: Vec::new(),
            out: Vec::new(),
            sent: 0,
            phase: Phase::Open,
            last: now,
            eof: false,
        }
    }

    /// Bytes came in.
    pub fn received(&mut self, bytes: &[u8], ctx: Context<'_>) {
        self.last = ctx.now;
        match self.phase {
            Phase::Open if self.pending.is_empty() => self.advance(bytes, ctx),
            Phase::Open | Phase::Delayed { .. } => self.pending.extend_from_slice(bytes),
            Phase::Closing { .. } | Phase::Lingering { .. } => {}
        }
    }

    /// The client sent FIN. What it asked before is still answered.
    pub fn end_of_input(&mut self) {
        self.eof = true;
    }

    /// Answer bytes not sent yet.
    pub fn output(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// `n` bytes of [`Conn::output`] were sent.
    pub fn was_sent(&mut self, n: usize, ctx: Context<'_>) {
        self.last = ctx.now;
        self.sent += n;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            self.out.shrink_to(1024);
            self.resume(ctx);
        }
    }

    /// FIN was sent.
    pub fn was_shut_down(&mut self, ctx: Context<'_>) {
        self.phase = Phase::Lingering {
            until: ctx.now + LINGER,
        };
    }

    /// What to do or wait for.
    pub fn next(&self) -> Next {
        match self.phase {
            _ if !self.output().is_empty() => Next::Write,
            Phase::Closing { linger } if linger && !self.eof => Next::ShutDown,
            Phase::Closing { .. } => Next::Close,
            Phase::Delayed { .. } => Next::Wait,
            Phase::Open | Phase::Lingering { .. } if self.eof => Next::Close,
            Phase::Open | Phase::Lingering { .. } => Next::Read,
        }
    }

    /// Between requests, nothing owed.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Open && self.output().is_empty() && self.parser.is_idle()
    }

    /// When to call [`Conn::expire`]. Moves by itself as bytes move.
    pub fn deadline(&self, draining: Option<Instant>) -> Instant {
        match (self.phase, draining) {
            _ if !self.output().is_empty() => self.last + STALLED,
            (Phase::Delayed { until, .. } | Phase::Lingering { until }, _) => until,
            (_, Some(since)) if self.is_idle() => since + QUIET,
            (_, None) if self.is_idle() => self.last + IDLE,
            _ => self.last + STALLED,
        }
    }

    /// The deadline has passed: a delayed answer is due, or the connection has to end.
    pub fn expire(&mut self, ctx: Context<'_>) {
        match self.phase {
            Phase::Delayed {
                answer,
                framing,
                body,
                ..
            } => {
                self.phase = Phase::Open;
                self.answer(answer, framing, body, !self.pending.is_empty(), ctx);
                self.resume(ctx);
            }
            Phase::Open if self.is_idle() => self.phase = Phase::Closing { linger: true },
            _ => {
                // The client has stopped reading or writing: nothing can be saved.
                self.out.clear();
                self.sent = 0;
                self.phase = Phase::Closing { linger: false };
            }
        }
    }

    fn resume(&mut self, ctx: Context<'_>) {
        if !self.pending.is_empty() && self.phase == Phase::Open {
            let pending = std::mem::take(&mut self.pending);
            self.advance(&pending, ctx);
        }
    }

    fn advance(&mut self, bytes: &[u8], ctx: Context<'_>) {
        let mut at = 0;
        while self.phase == Phase::Open && self.output().len() < MAX_OUT {
            let (taken, progress) = self.parser.feed(&bytes[at..]);
            at += taken;
            match progress {
                Progress::More => break,
                Progress::Continue => self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"),
                Progress::Reject(reject) => {
                    let framing = Framing {
                        head_only: false,
                        close: true,
                        http10: false,
                    };
                    ctx.site.respond(reject.into(), framing, &mut self.out);
                    self.phase = Phase::Closing { linger: true };
                }
                Progress::Request(request) => {
                    let framing = Framing {
                        head_only: request.method == super::http::Method::Head,
                        close: !request.keep_alive,
                        http10: request.http10,
                    };
                    let body = request.body > 0;
                    match ctx.site.route(&request) {
                        answer @ Answer::Identity(delay) if !delay.is_zero() => {
                            let until = ctx.now + delay;
                            self.phase = Phase::Delayed {
                                until,
                                answer,
                                framing,
                                body,
                            };
                        }
                        answer => {
                            let more = bytes[at..].iter().any(|byte| !b"\r\n".contains(byte));
                            self.answer(answer, framing, body, more, ctx);
                        }
                    }
                }
            }
        }
        self.pending.extend_from_slice(&bytes[at..]);
    }

    /// `more`: the client has already sent (some of) its next request. When draining that one is in
    /// flight too, so the connection ends only after it.
    fn answer(
        &mut self,
        answer: Answer,
        mut framing: Framing,
        body: bool,
        more: bool,
        ctx: Context<'_>,
    ) {
        let asked = framing.close;
        framing.close |= ctx.draining.is_some() && !more;
        ctx.site.respond(answer, framing, &mut self.out);
        if framing.close {
            // A client that asked for the end sends nothing more, so no RST can hit the answer.
            let linger = !asked || body || more;
            self.phase = Phase::Closing { linger };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const SLOW: &[u8] = b"GET /slow?ms=100 HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Bench {
        site: Site,
        start: Instant,
        draining: Option<Instant>,
        conn: Conn,
    }

    impl Bench {
        fn new() -> Bench {
            let start = Instant::now();
            let site = Site::new(1, None, None, None);
            Bench {
                site,
                start,
                draining: None,
                conn: Conn::new(start),
            }
        }

        fn ctx(site: &Site, now: Instant, draining: Option<Instant>) -> Context<'_> {
            Context {
                site,
                now,
                draining,
            }
        }

        fn receive(&mut self, bytes: &[u8]) {
            self.conn
                .received(bytes, Self::ctx(&self.site, self.start, self.draining));
        }

        fn expire_at(&mut self, ms: u64) {
            let now = self.start + Duration::from_millis(ms);
            assert!(
                self.conn.deadline(self.draining) <= now,
                "deadline not reached"
            );
            self.conn.expire(Self::ctx(&self.site, now, self.draining));
        }

        /// Takes all output; how many answers, and how many said close.
        fn flush(&mut self) -> (usize, usize) {
            let text = String::from_utf8(self.conn.output().to_vec()).unwrap();
            let n = text.len();
            self.conn
                .was_sent(n, Self::ctx(&self.site, self.start, self.draining));
            (
                text.matches("HTTP/1.1 200").count(),
                text.matches("Connection: close").count(),
            )
        }
    }

    #[test]
    fn pipelined_requests_wait_for_the_slow_one() {
        let mut bench = Bench::new();
        bench.receive(&[GET, SLOW, GET, GET].concat());
        assert_eq!(bench.flush(), (1, 0));
        assert_eq!(bench.conn.next(), Next::Wait);
        bench.expire_at(100);
        assert_eq!(bench.flush(), (3, 0));
        assert_eq!(bench.conn.next(), Next::Read);
    }

    #[test]
    fn drain_ends_a_connection_after_the_last_request_in_flight() {
        let mut bench = Bench::new();
        bench.receive(&[SLOW, GET, &GET[..9]].concat());
        bench.draining = Some(bench.start);
        bench.expire_at(100);
        assert_eq!(bench.flush(), (2, 0), "the third request has begun");
        bench.receive(&GET[9..]);
        assert_eq!(bench.flush(), (1, 1));
        assert_eq!(bench.conn.next(), Next::ShutDown);
    }

    #[test]
    fn drain_gives_an_idle_connection_one_more_answer_or_two_quiet_seconds() {
        let mut bench = Bench::new();
        bench.draining = Some(bench.start);
        assert_eq!(bench.conn.deadline(bench.draining), bench.start + QUIET);
        bench.receive(GET);
        assert_eq!(bench.flush(), (1, 1));

        let mut bench = Bench::new();
        bench.draining = Some(bench.start);
        bench.expire_at(2000);
        assert_eq!(bench.conn.next(), Next::ShutDown);
    }

    #[test]
    fn an_end_by_the_server_lingers_and_one_by_the_client_need_not() {
        let close = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let mut bench = Bench::new();
        bench.receive(close);
        assert_eq!((bench.flush(), bench.conn.next()), ((1, 1), Next::Close));
        let mut bench = Bench::new();
        bench.receive(&[&close[..], b"x"].concat());
        assert_eq!((bench.flush(), bench.conn.next()), ((1, 1), Next::ShutDown));
        bench
            .conn
            .was_shut_down(Bench::ctx(&bench.site, bench.start, None));
        assert_eq!(bench.conn.next(), Next::Read);
        bench.conn.end_of_input();
        assert_eq!(bench.conn.next(), Next::Close);
    }

    #[test]
    fn a_half_closed_client_gets_its_answers() {
        let mut bench = Bench::new();
        bench.receive(&[GET, SLOW].concat());
        bench.conn.end_of_input();
        assert_eq!(bench.conn.next(), Next::Write);
        bench.flush();
        bench.expire_at(100);
        assert_eq!((bench.flush(), bench.conn.next()), ((1, 0), Next::Close));
    }

    #[test]
    fn a_reader_that_stops_bounds_the_output_and_is_dropped() {
        let mut bench = Bench::new();
        bench.receive(&GET.repeat(5000));
        assert!(bench.conn.output().len() < 2 * MAX_OUT);
        let mut answers = 0;
        while bench.conn.next() == Next::Write {
            answers += bench.flush().0;
        }
        assert_eq!(answers, 5000, "none is forgotten once it reads again");
        bench.receive(&GET.repeat(5000));
        bench.expire_at(60_000);
        assert_eq!(bench.conn.next(), Next::Close);
    }
}
