//! The header that a load balancer puts in front of a request where its PROXY protocol is on (HAProxy's `send-proxy`,
//! nginx' `proxy_protocol on`, AWS network load balancers). It is not supported; the answer names it.

use super::response::Refusal;

/// The first bytes of version 2's signature: no HTTP request begins so. The signature goes on, but what is decided by more
/// bytes than a first read may bring would depend on how they were split.
const SIGNATURE: &[u8] = b"\r\n\r\n\0";
/// Bytes of it that two empty lines have as well: the next one decides.
const UNDECIDED_BYTES: usize = 4;

/// Whether the next byte decides what `input` is: the answer must not depend on how the bytes were split.
pub(super) fn is_undecided(input: &[u8]) -> bool {
    input.len() == UNDECIDED_BYTES && SIGNATURE.starts_with(input)
}

/// The refusal of bytes that begin with a PROXY header; `None` where they do not.
pub(super) fn refusal(input: &[u8]) -> Option<Refusal> {
    let version = match input {
        [b'P', b'R', b'O', b'X', b'Y', b' ', family @ ..]
            if [&b"TCP4"[..], b"TCP6", b"UNKNOWN"].iter().any(|known| family.starts_with(known)) =>
        {
            1
        }
        _ if input.starts_with(SIGNATURE) => 2,
        _ => return None,
    };
    Some(Refusal::malformed(format!(
        "the connection begins with a PROXY protocol header (version {version}), which is not supported: turn it off in \
         the load balancer (HAProxy: send-proxy, nginx: proxy_protocol)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_recognised_and_nothing_else() {
        for (input, version) in [
            (&b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET / HTTP/1.1\r\n\r\n"[..], Some("(version 1)")),
            (b"PROXY TCP6 ::1 ::1 1 2\r\n", Some("(version 1)")),
            (b"PROXY UNKNOWN\r\n", Some("(version 1)")),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", Some("(version 2)")),
            (b"\r\n\r\n\0", Some("(version 2)")),
            (b"\r\n\r\n\0\0\0\0", Some("(version 2)")),
            (b"\r\n\r\n", None),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", None),
            (b"PROXY /v1/events HTTP/1.1\r\n", None),
            (b"PROXY", None),
            (b"", None),
        ] {
            let error = refusal(input).map(|refusal| refusal.error.into_owned());
            assert_eq!(error.is_some(), version.is_some(), "{input:?}");
            assert!(error.unwrap_or_default().contains(version.unwrap_or_default()), "{input:?}");
        }
    }
}
