//! Request line and header fields, read strictly (RFC 9112, sections 2 to 6).
//!
//! ```text
//!  bytes ─▶ HeadScan: line ends, control bytes, bounds ─▶ (whole head) ─▶ Head::parse: grammar, framing
//! ```
//!
//! [`HeadScan`] looks at every byte once, however the head was split, and refuses what two readers could read
//! differently: LF without CR, CR without LF, control bytes. What parses the head sees valid lines only.

use super::bytes::{self, HOST, TARGET, TOKEN};
use super::fields::{Fields, Name};
use super::response::Refusal;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_TARGET_BYTES_MAX};

/// A request line beside its target: the method, two spaces, the version. Generous for any registered method.
const REQUEST_LINE_EXTRA_BYTES: usize = 64;

/// Finds the end of a head in bytes that come in pieces; the caller offers the same bytes again with more after them.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// Bytes that were looked at.
    seen: usize,
    /// Bytes of the current line so far.
    line: usize,
    /// Lines that ended, an empty one before the request line not counted.
    lines: usize,
    /// The last byte was CR.
    cr: bool,
    /// Bytes of an empty line before the request line: 0 or 2.
    skip: usize,
}

impl HeadScan {
    /// Whether bytes of a head have come.
    pub(super) fn begun(&self) -> bool {
        self.seen > 0
    }

    /// Looks at what is new in `input`, which begins where the head does. `Some`: the range of the whole head, from
    /// the request line to the end of the empty line.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        while let Some(&byte) = input.get(self.seen) {
            if self.seen >= HTTP_HEAD_BYTES_MAX {
                return Err(Refusal::new(431, format!("the request head is larger than {HTTP_HEAD_BYTES_MAX} bytes")));
            }
            if !self.cr {
                let rest = input.get(self.seen..HTTP_HEAD_BYTES_MAX.min(input.len())).unwrap_or_default();
                let text = bytes::line_length(rest);
                self.seen += text;
                self.line += text;
                if self.lines == 0 && self.line > HTTP_TARGET_BYTES_MAX + REQUEST_LINE_EXTRA_BYTES {
                    return Err(target_too_long());
                }
                match rest.get(text) {
                    Some(b'\r') => (self.cr, self.seen) = (true, self.seen + 1),
                    Some(b'\n') => return Err(Refusal::malformed("LF without CR in the request head")),
                    Some(_) => return Err(Refusal::malformed("control byte in the request head")),
                    None => {}
                }
                continue;
            }
            if byte != b'\n' {
                return Err(Refusal::malformed("CR without LF in the request head"));
            }
            (self.cr, self.seen) = (false, self.seen + 1);
            if self.line > 0 {
                self.lines += 1;
                self.line = 0;
            } else if self.lines > 0 {
                return Ok(Some(self.skip..self.seen));
            } else if self.skip == 0 {
                // RFC 9112, section 2.2: some clients send a CRLF after a body. One is enough.
                self.skip = self.seen;
            } else {
                return Err(Refusal::malformed("empty lines before the request line"));
            }
        }
        Ok(None)
    }
}

fn target_too_long() -> Refusal {
    Refusal::new(414, format!("the request target is longer than {HTTP_TARGET_BYTES_MAX} bytes"))
}

/// How the body's end is found (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// Content-Length; 0 where neither field is there.
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A whole head that was found valid. Borrows from the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// As sent; case matters.
    pub method: &'a str,
    /// The path of the target, before `?`. Begins with `/`; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// Value of `Host`, which is valid; `None`: absent. Only pages for people look at it.
    pub host: Option<&'a str>,
    /// Of the target: what follows `?`.
    pub query: Option<&'a str>,
    /// How the end of the body is found.
    pub length: BodyLength,
    /// The peer wants the connection to end, or uses HTTP/1.0.
    pub close: bool,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Value of `Content-Type`; `None`: absent.
    pub content_type: Option<&'a str>,
    /// Value of `Content-Encoding`; `None`: absent.
    pub content_encoding: Option<&'a str>,
    /// The token of `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Parses a head that [`HeadScan`] found whole.
    ///
    /// # Errors
    /// 400, 414, 417, 431, 501 or 505. The framing of what follows is not known then: the connection must end.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let (line, fields) = bytes.split_at(bytes::line_length(bytes));
        let (method, target, http_1_0) = request_line(line)?;
        let (path, query) = split_target(method, target)?;
        let fields = Fields::read(fields.get(2..).unwrap_or_default())?;

        let host = fields.once(Name::Host)?;
        match host {
            Some(host) if !is_host(host) => return Err(Refusal::malformed("Host is not a host and port")),
            None if !http_1_0 => return Err(Refusal::malformed("Host is missing")),
            _ => {}
        }
        let length = body_length(&fields, http_1_0)?;
        let expects_continue = match fields.once(Name::Expect)? {
            // RFC 9110, section 10.1.1: HTTP/1.0 knows no interim answers.
            _ if http_1_0 => false,
            None => false,
            Some(expected) if expected.eq_ignore_ascii_case("100-continue") => true,
            Some(_) => return Err(Refusal::new(417, "only `Expect: 100-continue` is known")),
        };
        let bearer = fields.once(Name::Authorization)?.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start_matches(' '))
        });
        Ok(Self {
            method,
            path,
            host,
            query,
            length,
            close: http_1_0 || fields.closes,
            expects_continue,
            content_type: fields.once(Name::ContentType)?,
            content_encoding: fields.once(Name::ContentEncoding)?,
            bearer,
        })
    }
}

/// Method, target, and whether the version is 1.0.
fn request_line(line: &[u8]) -> Result<(&str, &str, bool), Refusal> {
    let malformed = || Refusal::malformed("the request line is not `METHOD target HTTP/1.1`");
    // Obsolete text in a target is refused below with everything else that is no ASCII.
    let line = str::from_utf8(line).map_err(|_| malformed())?;
    let (method, rest) = split(line, b' ').ok_or_else(malformed)?;
    let (target, version) = split(rest, b' ').ok_or_else(malformed)?;
    let http_1_0 = match version.as_bytes() {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Refusal::new(
                505,
                match method {
                    // The begin of every connection of HTTP/2 (RFC 9113, section 3.4).
                    "PRI" => "HTTP/2, and so gRPC, is not supported: use HTTP/1.1".to_owned(),
                    _ => format!("{version} is not supported: use HTTP/1.1"),
                },
            ));
        }
        _ => return Err(malformed()),
    };
    if !bytes::are(method.as_bytes(), TOKEN) {
        return Err(malformed());
    }
    if target.len() > HTTP_TARGET_BYTES_MAX {
        return Err(target_too_long());
    }
    if !bytes::are(target.as_bytes(), TARGET) || !is_percent_encoded(target.as_bytes()) {
        return Err(Refusal::malformed("the request target has a byte that must be percent-encoded"));
    }
    Ok((method, target, http_1_0))
}

/// What is before and after the first `byte`, which is ASCII. As `split_once`, which is slower for text of a few bytes.
fn split(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|other| other == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Path and query of a target in one of three forms of RFC 9112, section 3.2: a path, a URL (`http://host/path`, as
/// clients of a proxy send it), or `*` with OPTIONS. The fourth is CONNECT's, and no tunnel is offered.
///
/// The host of a URL must be valid and is then ignored, as Host is: every host names this server.
fn split_target<'a>(method: &str, target: &'a str) -> Result<(&'a str, Option<&'a str>), Refusal> {
    let (path, query) = match split(target, b'?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if path.starts_with('/') {
        return Ok((path, query));
    }
    if target == "*" && method == "OPTIONS" {
        return Ok((target, None));
    }
    let (_, path) = without_scheme(path)
        .map(|rest| rest.split_at(rest.find('/').unwrap_or(rest.len())))
        .filter(|(host, _)| is_host(host))
        .ok_or_else(|| {
            Refusal::malformed("the request target is neither a path nor an http:// or https:// URL with a host")
        })?;
    Ok(match (path, query) {
        ("", None) if method == "OPTIONS" => ("*", None),
        ("", query) => ("/", query),
        (path, query) => (path, query),
    })
}

/// What follows `http://` or `https://` of either case.
fn without_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// RFC 9112, section 6: whatever two readers could read as two lengths is refused.
fn body_length(fields: &Fields<'_>, http_1_0: bool) -> Result<BodyLength, Refusal> {
    let content_length = fields.once(Name::ContentLength)?;
    match (fields.once(Name::TransferEncoding)?, content_length) {
        (Some(_), Some(_)) => Err(Refusal::malformed("both Content-Length and Transfer-Encoding")),
        (Some(_), None) if http_1_0 => Err(Refusal::malformed("HTTP/1.0 has no Transfer-Encoding")),
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyLength::Chunked),
        (Some(codings), None) => {
            // Section 6.3: without `chunked` at the end (once) the length is unknowable; before it, it is only unknown.
            let mut codings = codings.rsplit(',').map(str::trim_ascii);
            let last = codings.next().unwrap_or_default();
            if last.eq_ignore_ascii_case("chunked")
                && codings.all(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("chunked"))
            {
                Err(Refusal::new(501, "the only Transfer-Encoding that is offered is `chunked`"))
            } else {
                Err(Refusal::malformed("Transfer-Encoding must be `chunked`"))
            }
        }
        (None, Some(digits)) => {
            // Leading zeros are octal to some readers, and a number beyond 64 bits becomes another one to others.
            let padded = digits.len() > 1 && digits.starts_with('0');
            let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            match digits.parse() {
                Ok(length) if all_digits && !padded => Ok(BodyLength::Known(length)),
                _ => Err(Refusal::malformed("Content-Length is not a number of plain digits below 2^64")),
            }
        }
        (None, None) => Ok(BodyLength::Known(0)),
    }
}

/// Whether two hexadecimal digits follow every `%`.
fn is_percent_encoded(target: &[u8]) -> bool {
    target
        .split(|&byte| byte == b'%')
        .skip(1)
        .all(|rest| matches!(rest, [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit()))
}

/// `host [ ":" port ]` (RFC 9110, section 7.2): a name, an IPv4 address, or an IPv6 address in brackets. Of what RFC 3986
/// allows in a name beyond that, nothing is known to be used: no user information, no list, nothing percent-encoded.
fn is_host(value: &str) -> bool {
    let (host_is_sound, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
        None => {
            let (name, port) = value.split_at(value.bytes().position(|byte| byte == b':').unwrap_or(value.len()));
            (bytes::are(name.as_bytes(), HOST), port)
        }
    };
    let port_is_sound = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || (!digits.starts_with('+') && digits.parse::<u16>().is_ok()),
        None => port.is_empty(),
    };
    host_is_sound && port_is_sound
}
