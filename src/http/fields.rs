//! The header fields of one head, read once: grammar, and the values that the server looks at (RFC 9112, section 5).

use super::bytes::{self, TOKEN};
use super::response::Refusal;
use crate::limits::HTTP_HEADERS_MAX;

/// A field that the server looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Expect,
    Authorization,
    ContentType,
    ContentEncoding,
}

/// As they are written, in the order of [`Name`].
const NAMES: [&str; 7] =
    ["Host", "Content-Length", "Transfer-Encoding", "Expect", "Authorization", "Content-Type", "Content-Encoding"];

/// What was found of one field.
#[derive(Debug, Clone, Copy, Default)]
struct Found<'a> {
    value: Option<&'a [u8]>,
    is_repeated: bool,
}

/// The header fields of one request.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    found: [Found<'a>; NAMES.len()],
    /// `Connection` has the option `close`.
    pub closes: bool,
}

impl<'a> Fields<'a> {
    /// Reads lines up to the empty one. Each ends with CRLF, and no other control byte but HTAB is in it.
    ///
    /// # Errors
    /// 400: a line is not `name: value`; 431: there are too many.
    pub(super) fn read(mut lines: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut count = 0;
        loop {
            let name_end = lines.iter().position(|&byte| !bytes::is(byte, TOKEN)).unwrap_or(lines.len());
            let (name, rest) = lines.split_at(name_end);
            match (name, rest) {
                (b"", [b'\r', ..]) => return Ok(fields),
                ([_, ..], [b':', rest @ ..]) => {
                    let value_end = bytes::line_length(rest);
                    let (value, rest) = rest.split_at(value_end);
                    count += 1;
                    if count > HTTP_HEADERS_MAX {
                        return Err(Refusal::new(431, format!("more than {HTTP_HEADERS_MAX} header fields")));
                    }
                    fields.add(name, trimmed(value));
                    lines = rest.get(2..).unwrap_or_default();
                }
                _ => return Err(Refusal::malformed("a header field is not `name: value` (RFC 9112, section 5)")),
            }
        }
    }

    fn add(&mut self, name: &[u8], value: &'a [u8]) {
        let known = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if let Some(found) = known.and_then(|index| self.found.get_mut(index)) {
            found.is_repeated = found.value.is_some();
            found.value = found.value.or(Some(value));
        } else if name.eq_ignore_ascii_case(b"Connection") {
            let mut options = value.split(|&byte| byte == b',');
            self.closes |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }

    /// A field whose value must not come twice, and is ASCII.
    pub(super) fn once(&self, name: Name) -> Result<Option<&'a str>, Refusal> {
        let (Found { value, is_repeated }, name) = (self.found[name as usize], NAMES[name as usize]);
        let Some(value) = value else { return Ok(None) };
        if is_repeated {
            return Err(Refusal::malformed(format!("{name} is there more than once")));
        }
        match str::from_utf8(value) {
            Ok(text) if text.is_ascii() => Ok(Some(text)),
            _ => Err(Refusal::malformed(format!("{name} has bytes that are not ASCII"))),
        }
    }
}

/// Without the blanks around it.
fn trimmed(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn once(lines: &str, name: Name) -> Result<Option<String>, String> {
        let fields = Fields::read(lines.as_bytes()).map_err(|refusal| refusal.error.into_owned())?;
        let value = fields.once(name).map_err(|refusal| refusal.error.into_owned())?;
        Ok(value.map(str::to_owned))
    }

    #[test]
    fn values_are_without_the_blanks_around_them_and_come_once() {
        let lines = "host:\t a b \r\nX: y\r\nEXPECT:\r\n\r\n";
        assert_eq!(once(lines, Name::Host), Ok(Some("a b".to_owned())));
        assert_eq!(once(lines, Name::Expect), Ok(Some(String::new())));
        assert_eq!(once(lines, Name::ContentType), Ok(None));
        let twice = once("Host: a\r\nhost: a\r\nHost: a\r\n\r\n", Name::Host);
        assert_eq!(twice, Err("Host is there more than once".to_owned()));
        assert_eq!(once("Host: \u{e9}\r\n\r\n", Name::Host), Err("Host has bytes that are not ASCII".to_owned()));
        let closes = |value: &str| Fields::read(format!("Connection: {value}\r\n\r\n").as_bytes()).unwrap().closes;
        assert!(closes("keep-alive , Close") && !closes("closed"));
    }

    proptest! {
        /// `httparse` reads the same lines as the same fields, or refuses them too.
        #[test]
        fn lines_are_read_as_httparse_reads_them(lines in "([Hh]ost|X-\u{e9}|A|Expect| B|)( |)(:|)[ \ta:,\u{e9}]{0,9}(\r\n){0,2}") {
            let lines = lines + "\r\n\r\n";
            // What stands before the empty line.
            let head = &lines[..lines.find("\r\n\r\n").unwrap() + 4];
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let expected = match httparse::parse_headers(head.as_bytes(), &mut headers) {
                Ok(httparse::Status::Complete((_, headers))) => Some(headers),
                _ => None,
            };
            let fields = Fields::read(head.as_bytes());
            prop_assert_eq!(fields.is_ok(), expected.is_some(), "{:?}", head);
            for (name, known) in [(Name::Host, "Host"), (Name::Expect, "Expect")] {
                let value = |headers: &&[httparse::Header<'_>]| {
                    headers.iter().find(|field| field.name.eq_ignore_ascii_case(known)).map(|field| field.value.to_vec())
                };
                let found = fields.as_ref().ok().and_then(|fields| fields.found[name as usize].value);
                prop_assert_eq!(found.map(<[u8]>::to_vec), expected.as_ref().and_then(value));
            }
        }
    }
}
