//! The parts of one message, in place: RFC 5424, RFC 3164 and what programs make of it.

use super::time;
use crate::event::rfc3339;

/// Longest tag or host that is taken for one, bytes; RFC 5424 has 255 for a host.
const TOKEN_BYTES_MAX: usize = 255;

/// A message taken apart. Empty: it does not have this part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Facility and severity, 0 to 191; `None`: there is no `<…>`.
    pub priority: Option<u8>,
    /// Nanoseconds since 1970; 0: none.
    pub time_unix_nano: u64,
    /// HOSTNAME.
    pub host: &'a str,
    /// APP-NAME, or the tag.
    pub app: &'a str,
    /// PROCID, or what a tag has in brackets.
    pub process: &'a str,
    /// MSGID.
    pub message_id: &'a str,
    /// STRUCTURED-DATA with its brackets.
    pub structured: &'a str,
    /// MSG.
    pub body: &'a str,
    /// It is neither form, or breaks off within its header: the rest is in `body`.
    pub malformed: bool,
}

/// Takes a message apart. Never fails: what is not understood stays in `body`.
pub(super) fn read(text: &str, now_unix_nano: u64) -> Header<'_> {
    let text = text.trim_end_matches(['\n', '\r', '\0']);
    let (priority, rest) = match priority(text) {
        Some((priority, rest)) => (Some(priority), rest),
        None => (None, text),
    };
    let header = match rest.strip_prefix("1 ") {
        Some(rest) if priority.is_some() => rfc5424(rest),
        _ => bsd(rest, priority.is_some(), now_unix_nano),
    };
    Header { priority, ..header }
}

/// `<34>`: at most three digits, at most 191.
fn priority(text: &str) -> Option<(u8, &str)> {
    let (number, rest) = text.strip_prefix('<')?.split_once('>')?;
    let is_number = (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let priority = number.parse().ok().filter(|priority| is_number && *priority <= 191)?;
    Some((priority, rest))
}

fn rfc5424(text: &str) -> Header<'_> {
    let malformed = Header { body: text, malformed: true, ..Header::default() };
    let mut rest = text;
    let mut field = || {
        let (field, after) = rest.split_once(' ')?;
        rest = after;
        (!field.is_empty()).then_some(if field == "-" { "" } else { field })
    };
    let fields = (field(), field(), field(), field(), field());
    let (Some(time), Some(host), Some(app), Some(process), Some(message_id)) = fields else { return malformed };
    let time_unix_nano = match time {
        "" => 0,
        time => match rfc3339::parse(time) {
            Ok(time) => time,
            Err(_) => return malformed,
        },
    };
    let header = Header { time_unix_nano, host, app, process, message_id, ..Header::default() };
    let (structured, after) = match rest.strip_prefix('-') {
        Some(after) => ("", after),
        None => match structured_data_bytes(rest).and_then(|bytes| rest.split_at_checked(bytes)) {
            Some(parts) => parts,
            None => return Header { body: rest, malformed: true, ..header },
        },
    };
    match after.strip_prefix(' ') {
        Some(body) => Header { structured, body: body.strip_prefix('\u{feff}').unwrap_or(body), ..header },
        None if after.is_empty() => Header { structured, ..header },
        None => Header { body: rest, malformed: true, ..header },
    }
}

/// Bytes of the structured data that the text begins with; `None`: it has another form.
fn structured_data_bytes(text: &str) -> Option<usize> {
    let mut rest = text.strip_prefix('[')?;
    loop {
        let (_, after) = element(rest, &mut |_, _| {})?;
        match after.strip_prefix('[') {
            Some(next) => rest = next,
            None => return Some(text.len() - after.len()),
        }
    }
}

/// Reads one element after its `[`: calls `each` with every parameter and its value as it is escaped. Returns its id, and
/// what follows its `]`. `None`: it has another form.
fn element<'a>(text: &'a str, each: &mut dyn FnMut(&'a str, &'a str)) -> Option<(&'a str, &'a str)> {
    let end = text.find([' ', ']'])?;
    let (id, mut rest) = text.split_at_checked(end)?;
    if !is_name(id) {
        return None;
    }
    loop {
        if let Some(after) = rest.strip_prefix(']') {
            return Some((id, after));
        }
        let (name, after) = rest.strip_prefix(' ')?.trim_start_matches(' ').split_once("=\"")?;
        if !is_name(name) {
            return None;
        }
        let end = value_bytes(after)?;
        each(name, after.get(..end)?);
        rest = after.get(end + 1..)?;
    }
}

/// The bytes of a value up to its quote.
fn value_bytes(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '"', ']', ' '])
}

/// Calls `each` with the id of every element of well-formed structured data, and with each of its parameters and their
/// values as they are escaped; with none for an element without parameters.
pub(super) fn parameters<'a>(structured: &'a str, mut each: impl FnMut(&'a str, Option<(&'a str, &'a str)>)) {
    let mut rest = structured;
    while let Some(text) = rest.strip_prefix('[') {
        let id = text.find([' ', ']']).and_then(|end| text.get(..end)).unwrap_or_default();
        let mut is_empty = true;
        let read = element(text, &mut |name, value| {
            is_empty = false;
            each(id, Some((name, value)));
        });
        let Some((_, after)) = read else { return };
        if is_empty {
            each(id, None);
        }
        rest = after;
    }
}

fn bsd(text: &str, has_priority: bool, now_unix_nano: u64) -> Header<'_> {
    let Some((time_unix_nano, rest)) = time::leading(text, now_unix_nano) else {
        // Programs that write to a local socket leave time and host out.
        if !has_priority {
            return Header { body: text, malformed: true, ..Header::default() };
        }
        return tagged(Header::default(), text);
    };
    let header = Header { time_unix_nano, ..Header::default() };
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    if first.is_empty() || first.len() > TOKEN_BYTES_MAX || tag(first).is_some() || tag_before_text(first).is_some() {
        return tagged(header, rest);
    }
    tagged(Header { host: first, ..header }, after)
}

/// What follows time and host: a tag and the message, or only the message.
fn tagged<'a>(header: Header<'a>, text: &'a str) -> Header<'a> {
    let text = text.trim_start_matches(' ');
    let (first, after) = text.split_once(' ').unwrap_or((text, ""));
    if let Some((app, process)) = tag(first) {
        return Header { app, process, body: after, ..header };
    }
    match tag_before_text(first) {
        Some((app, process, bytes)) => Header { app, process, body: text.get(bytes..).unwrap_or_default(), ..header },
        None => Header { body: text, ..header },
    }
}

/// `sshd[812]:Accepted`, a tag without a space after it: name, process id, and the bytes of the tag. Without a process id it could be
/// anything else with a colon, such as a URL.
fn tag_before_text(token: &str) -> Option<(&str, &str, usize)> {
    let (name, rest) = token.split_once('[')?;
    let (process, text) = rest.split_once("]:")?;
    let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !name.is_empty() && token.len() <= TOKEN_BYTES_MAX).then_some((
        name,
        process,
        token.len() - text.len(),
    ))
}

/// `su:`, `sshd[812]:` or `sshd[812]`: name, and what is in brackets.
fn tag(token: &str) -> Option<(&str, &str)> {
    let inner = token.strip_suffix(':');
    let name = inner.unwrap_or(token);
    let parts = match name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) {
        Some((name, process)) => (name, process),
        None if inner.is_some() => (name, ""),
        None => return None,
    };
    (!parts.0.is_empty() && token.len() <= TOKEN_BYTES_MAX).then_some(parts)
}
