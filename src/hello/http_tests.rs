// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parser, by example and by arbitrary bytes split at arbitrary points.

use super::*;
use proptest::prelude::*;

/// Feeds the pieces one after the other and collects all that is not [`Progress::More`].
fn parse_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Progress>, Parser) {
    let mut parser = Parser::default();
    let mut seen = Vec::new();
    for mut piece in pieces {
        loop {
            let (taken, progress) = parser.feed(piece);
            assert!(taken <= piece.len());
            piece = &piece[taken..];
            if progress == Progress::More {
                assert!(piece.is_empty(), "More leaves nothing behind");
                break;
            }
            seen.push(progress);
        }
    }
    (seen, parser)
}

fn parse(bytes: &[u8]) -> Vec<Progress> {
    parse_pieces([bytes]).0
}

fn one(bytes: &[u8]) -> Request {
    match parse(bytes).as_slice() {
        [Progress::Request(request)] => request.clone(),
        other => panic!("one request expected, got {other:?}"),
    }
}

fn rejected(bytes: &[u8]) -> Reject {
    match parse(bytes).last() {
        Some(Progress::Reject(reject)) => *reject,
        other => panic!("a refusal expected, got {other:?}"),
    }
}

#[test]
fn request_line_forms() {
    let request = one(b"GET /slow?ms=5&x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        request,
        Request {
            method: Method::Get,
            path: "/slow".into(),
            query: Some("ms=5&x".into()),
            keep_alive: true,
            http10: false,
            body: 0,
        }
    );
    assert_eq!(one(b"GET http://a:80/b?c HTTP/1.1\nHost: a\n\n").path, "/b");
    assert_eq!(one(b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
    assert_eq!(
        one(b"GET /?u=http://x/y HTTP/1.1\r\nHost: a\r\n\r\n").path,
        "/"
    );
    assert_eq!(
        one(b"\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n").method,
        Method::Head
    );
    assert_eq!(
        one(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").method,
        Method::Other
    );
}

#[test]
fn keep_alive_is_what_rfc_9112_says() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(one(head.as_bytes()).keep_alive, expected, "{head}");
    }
}

#[test]
fn bodies_are_counted_and_the_next_request_is_found() {
    let bytes = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/\
        POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;x=y\r\nabc\r\n1\r\n\n\r\n0\r\nTrailer: t\r\n\r\n\
        GET /c HTTP/1.1\r\nHost: a\r\n\r\n";
    let seen: Vec<_> = parse(bytes)
        .into_iter()
        .map(|progress| match progress {
            Progress::Request(request) => (request.path, request.body),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        seen,
        [("/a".into(), 11), ("/b".into(), 4), ("/c".into(), 0)]
    );
}

#[test]
fn continue_is_asked_for_once_and_only_with_a_body() {
    let (seen, parser) = parse_pieces([
        &b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"[..],
    ]);
    assert_eq!(seen, [Progress::Continue]);
    assert!(!parser.is_idle());
    one(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn idle_means_no_byte_of_the_next_request() {
    let (_, parser) = parse_pieces([&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]]);
    assert!(parser.is_idle());
    for begun in [&b"G"[..], b"GET / HTTP/1.1\r\n"] {
        assert!(!parse_pieces([begun]).1.is_idle(), "{begun:?}");
    }
}

#[test]
fn malformed_requests_are_refused() {
    for bad in [
        "GET /\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET x HTTP/1.1\r\n",
        "G:T / HTTP/1.1\r\n",
        "GET / http/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        "GET /\0 HTTP/1.1\r\n",
        "\x16\x03\x01",
        "\r\n\r\n\r\n\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ] {
        assert!(
            matches!(rejected(bad.as_bytes()), Reject::BadRequest(_)),
            "{bad:?}"
        );
    }
    assert_eq!(rejected(b"GET / HTTP/2.0\r\n"), Reject::UnknownVersion);
    assert_eq!(
        rejected(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        Reject::UnknownCoding
    );
}

#[test]
fn limits_hold() {
    let mut long = b"GET / HTTP/1.1\r\nHost: ".to_vec();
    long.resize(MAX_HEAD, b'a');
    assert_eq!(parse(&long), [], "exactly at the limit");
    long.push(b'a');
    assert_eq!(rejected(&long), Reject::HeadTooLarge);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "x: y\r\n".repeat(MAX_FIELDS)
    );
    assert_eq!(rejected(many.as_bytes()), Reject::HeadTooLarge);
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let body = format!("{head}Content-Length: {}\r\n\r\n", MAX_BODY + 1);
    assert_eq!(rejected(body.as_bytes()), Reject::BodyTooLarge);
    for size in ["1000001", "ffffffffffffffff"] {
        let chunk = format!("{head}Transfer-Encoding: chunked\r\n\r\n{size}\r\n");
        assert_eq!(rejected(chunk.as_bytes()), Reject::BodyTooLarge);
    }
}

#[test]
fn after_a_refusal_everything_is_thrown_away() {
    let seen = parse(b"bad\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        seen,
        [Progress::Reject(Reject::BadRequest(
            "malformed request line"
        ))]
    );
}

/// Pieces of HTTP, so that random input gets past the first line often.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /x?y HTTP/1.1\r\n", "HEAD / HTTP/1.0\n", "Host: a\r\n",
            "Host: a\r\n\r\n", "\r\n", "\n", "\r", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n", "Expect: 100-continue\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "abc", " ", ":",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => (0..MAX_HEAD + 2).prop_map(|n| vec![b'a'; n]),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT"]);
    let body = prop::collection::vec(any::<u8>(), 0..40);
    (method, "/[a-z]{0,8}(\\?[a-z=&]{0,8})?", body, any::<bool>()).prop_map(
        |(method, target, body, chunked)| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n").into_bytes();
            if chunked {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(7) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            } else {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(body);
            }
            bytes
        },
    )
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_bytes_split_anywhere_give_the_same(
        fragments in prop::collection::vec(fragment(), 0..24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = fragments.concat();
        let whole = parse(&bytes);
        let rejects = whole.iter().filter(|seen| matches!(seen, Progress::Reject(_))).count();
        prop_assert!(rejects <= 1);
        prop_assert_eq!(&parse_pieces(split(&bytes, &cuts)).0, &whole);
        prop_assert_eq!(&parse_pieces(bytes.chunks(1)).0, &whole);
    }

    #[test]
    fn well_formed_requests_all_come_out(
        requests in prop::collection::vec(request(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = requests.concat();
        let (seen, parser) = parse_pieces(split(&bytes, &cuts));
        prop_assert_eq!(seen.len(), requests.len());
        prop_assert!(seen.iter().all(|seen| matches!(seen, Progress::Request(_))));
        prop_assert!(parser.is_idle());
    }
}
