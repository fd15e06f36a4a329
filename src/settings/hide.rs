//! Secrets that a peer repeats: they are found and hidden in whatever form the peer writes them.
//!
//! A service that quotes the request may percent-encode it, put it into a JSON string or into HTML, once or several
//! times. So a secret is looked for in the text as it is, in the text decoded once, decoded twice, and so on; what is
//! hidden is the part of the original text that it was decoded from.

use std::ops::Range;

use super::url::{HIDDEN, decoded};
use crate::limits;
use crate::text::cut;

/// Secrets shorter than this are not looked for: they would be found in any text.
const SECRET_BYTES_MIN: usize = 4;

/// How often text is decoded: JSON in HTML that quotes a URL, and once more.
const DECODINGS_MAX: usize = 4;

/// The longest is a character of JSON in two parts, `\ud83d\ude00`.
const ESCAPE_BYTES_MAX: usize = 12;

/// A byte, as text is decoded, and where in the original text it comes from.
type Unit = (u8, Range<usize>);

/// Returns `text`, which a peer sent, with [`HIDDEN`] for each of `secrets` that it repeats, also where the end of the
/// text cuts it. Of the text, [`limits::PEER_TEXT_BYTES_MAX`] bytes are looked at, and the rest is left out. A secret that
/// is percent-encoded itself is looked for decoded, too.
pub fn hide<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    hide_in_all(cut(text, limits::PEER_TEXT_BYTES_MAX), secrets)
}

/// As [`hide`], for a text whose length the caller has bounded: nothing is left out. Where there are secrets, each byte of
/// the text takes some 50 bytes of memory meanwhile.
pub fn hide_in_all<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let secrets = forms(secrets);
    if secrets.is_empty() {
        return text.to_owned();
    }
    let mut found = Vec::new();
    let mut units: Vec<Unit> = text.bytes().enumerate().map(|(at, byte)| (byte, at..at + 1)).collect();
    secrets.iter().for_each(|secret| find(&units, secret, &mut found));
    for _ in 0..DECODINGS_MAX {
        let (decoded, whole) = decode(&units);
        secrets.iter().for_each(|secret| find(&decoded, secret, &mut found));
        if let Some(before_cut) = decoded.get(..whole).filter(|_| whole < decoded.len()) {
            secrets.iter().for_each(|secret| find_at_end(before_cut, secret, &mut found));
        }
        if decoded.len() == units.len() {
            break;
        }
        units = decoded;
    }
    replace(text, found)
}

/// The secrets as they may be repeated; those that are too short are left out.
fn forms<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for secret in secrets {
        let secret = secret.trim();
        let decoded = decoded(secret);
        // In a form, and in a query, a space is a plus sign.
        forms.push(secret.replace('+', " ").into_bytes());
        for form in [secret.as_bytes(), &decoded] {
            forms.push(form.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect());
            forms.push(form.to_vec());
        }
    }
    forms.retain(|form| form.len() >= SECRET_BYTES_MIN);
    forms.sort_unstable();
    forms.dedup();
    forms
}

/// Adds where `secret` is, or begins at the end of the text.
fn find(units: &[Unit], secret: &[u8], found: &mut Vec<Range<usize>>) {
    find_from(0, units, secret, found);
}

/// As [`find`], only where the end of the text cuts the secret.
fn find_at_end(units: &[Unit], secret: &[u8], found: &mut Vec<Range<usize>>) {
    find_from((units.len() + 1).saturating_sub(secret.len()), units, secret, found);
}

fn find_from(start: usize, units: &[Unit], secret: &[u8], found: &mut Vec<Range<usize>>) {
    for at in start..units.len() {
        let rest = units.get(at..).unwrap_or_default();
        let same = rest.iter().zip(secret).take_while(|(unit, byte)| unit.0 == **byte).count();
        let is_whole = same == secret.len() || (same == rest.len() && same >= SECRET_BYTES_MIN);
        if let (true, Some(first), Some(last)) = (is_whole, rest.first(), rest.get(same.saturating_sub(1))) {
            found.push(first.1.start..last.1.end);
        }
    }
}

/// Decodes every escape once: those of URLs (`%2F`), of JSON (`\"`, `\u002f`) and of HTML (`&amp;`, `&#39;`). Returns also
/// how many units stand before an escape that the end of the text may have cut; all, if there is none.
fn decode(units: &[Unit]) -> (Vec<Unit>, usize) {
    let mut decoded = Vec::with_capacity(units.len());
    let mut whole = None;
    let mut at = 0;
    while let Some((byte, range)) = units.get(at) {
        at += 1;
        if !b"%\\&".contains(byte) {
            decoded.push((*byte, range.clone()));
            continue;
        }
        let rest: Vec<u8> = units.iter().skip(at - 1).take(ESCAPE_BYTES_MAX).map(|unit| unit.0).collect();
        match escape_at(&rest) {
            Some((taken, bytes)) => {
                at += taken - 1;
                let end = units.get(at - 1).map_or(range.end, |last| last.1.end);
                decoded.extend(bytes.into_iter().map(|byte| (byte, range.start..end)));
            }
            None => {
                if whole.is_none() && is_cut(&rest) {
                    whole = Some(decoded.len());
                }
                decoded.push((*byte, range.clone()));
            }
        }
    }
    let whole = whole.unwrap_or(decoded.len());
    (decoded, whole)
}

/// The names of HTML's escapes, and what they stand for.
const NAMES: [(&str, u8); 5] = [("amp", b'&'), ("lt", b'<'), ("gt", b'>'), ("quot", b'"'), ("apos", b'\'')];

/// Whether `rest`, the end of the text, is the beginning of an escape.
fn is_cut(rest: &[u8]) -> bool {
    let are_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    match rest {
        [b'%', digits @ ..] => digits.len() < 2 && are_hex(digits),
        [b'\\'] => true,
        [b'\\', b'u', digits @ ..] => match digits.split_at_checked(4) {
            None => are_hex(digits),
            // The second part of a pair.
            Some((first, next)) => {
                hex(first).is_some_and(|unit| HIGH_SURROGATES.contains(&unit))
                    && next.len() < 6
                    && (next.is_empty() || is_cut(next))
            }
        },
        [b'&', b'#', b'x' | b'X', digits @ ..] => digits.len() < ESCAPE_BYTES_MAX - 3 && are_hex(digits),
        [b'&', b'#', digits @ ..] => digits.len() < ESCAPE_BYTES_MAX - 2 && digits.iter().all(u8::is_ascii_digit),
        [b'&', name @ ..] => NAMES.iter().any(|(known, _)| known.as_bytes().starts_with(name)),
        _ => false,
    }
}

const HIGH_SURROGATES: Range<u32> = 0xD800..0xDC00;
const LOW_SURROGATES: Range<u32> = 0xDC00..0xE000;

/// The length of the escape that `text` begins with, and what it stands for.
fn escape_at(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    match text {
        [b'%', ..] => Some((3, vec![u8::try_from(hex(text.get(1..3)?)?).ok()?])),
        [b'\\', b'u', ..] => {
            let unit = hex(text.get(2..6)?)?;
            if !HIGH_SURROGATES.contains(&unit) {
                return Some((6, utf8(unit)?));
            }
            let low = hex(text.get(6..12)?.strip_prefix(b"\\u")?).filter(|low| LOW_SURROGATES.contains(low))?;
            Some((12, utf8(0x1_0000 + ((unit - HIGH_SURROGATES.start) << 10) + (low - LOW_SURROGATES.start))?))
        }
        [b'\\', escaped @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((2, vec![*escaped])),
        [b'\\', b't', ..] => Some((2, vec![b'\t'])),
        [b'&', ..] => {
            let end = text.iter().position(|byte| *byte == b';')?;
            let name = std::str::from_utf8(text.get(1..end)?).ok()?;
            let bytes = match NAMES.iter().find(|(known, _)| *known == name) {
                Some((_, byte)) => vec![*byte],
                None => {
                    let number = name.strip_prefix('#')?;
                    utf8(match number.strip_prefix(['x', 'X']) {
                        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                        None => number.parse().ok()?,
                    })?
                }
            };
            Some((end + 1, bytes))
        }
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

fn utf8(number: u32) -> Option<Vec<u8>> {
    char::from_u32(number).map(|c| c.to_string().into_bytes())
}

/// Puts [`HIDDEN`] into the places of `found`; those that overlap are one.
fn replace(text: &str, mut found: Vec<Range<usize>>) -> String {
    found.sort_unstable_by_key(|range| (range.start, range.end));
    let mut shown = String::with_capacity(text.len());
    let mut done = 0;
    for range in found {
        let (mut start, mut end) = (range.start, range.end);
        // Bytes of a secret that was decoded may be a part of a character.
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        while !text.is_char_boundary(end) {
            end += 1;
        }
        if start >= done {
            shown.push_str(text.get(done..start).unwrap_or_default());
            shown.push_str(HIDDEN);
        }
        done = done.max(end);
    }
    shown.push_str(text.get(done..).unwrap_or_default());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter@:/?#% \"&'zebra";

    #[test]
    fn secrets_that_a_peer_repeats_are_hidden() {
        let hidden = hide("no such token: hunter2hunter2 hunter2 a", ["hunter2", "hunter2hunter2\n", "", "a"]);
        assert_eq!(hidden, "no such token: *** *** a");
        assert_eq!(hide("hunter2zebra5", ["hunter2", "zebra5"]), "******");
        assert_eq!(hide("größer %C3%A9hunter2é", ["hunter2"]), "größer %C3%A9***é", "what is around it stays");
        assert_eq!(hide("\\u00 %4 %zz & &; &#; \\", ["hunter2"]), "\\u00 %4 %zz & &; &#; \\");
        assert_eq!(hide("", ["hunter2"]), "");
    }

    fn percent(text: &str, all: bool, upper: bool) -> String {
        let byte = |byte: u8| match byte {
            byte if !all && byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte if upper => format!("%{byte:02X}"),
            byte => format!("%{byte:02x}"),
        };
        text.bytes().map(byte).collect()
    }

    fn html(text: &str) -> String {
        text.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#x27;").replace('/', "&#47;")
    }

    #[test]
    fn an_encoded_secret_is_hidden() {
        let once = percent(SECRET, false, true);
        for repeated in [
            SECRET.to_owned(),
            once.clone(),
            percent(SECRET, false, false),
            percent(SECRET, true, true),
            percent(&once, false, true),
            once.replace("%20", "+"),
            html(SECRET),
            html(&once),
            serde_json::to_string(SECRET).unwrap().trim_matches('"').to_owned(),
            serde_json::to_string(SECRET).unwrap().trim_matches('"').replace('/', "\\/").replace('@', "\\u0040"),
            serde_json::to_string(&html(SECRET)).unwrap().trim_matches('"').to_owned(),
        ] {
            let text = format!("no key {repeated}, sorry");
            assert_eq!(hide(&text, [SECRET]), "no key ***, sorry", "{repeated}");
            // As it stands in the settings.
            assert_eq!(hide(&text, [once.as_str()]), "no key ***, sorry", "{repeated}");
        }
    }

    #[test]
    fn a_secret_that_the_end_cuts_is_hidden() {
        assert_eq!(hide("no token hunter%40%3", ["hunter@:zebra"]), "no token ***%3");
        assert_eq!(hide("no token hunt", ["hunter2"]), "no token ***");
        assert_eq!(hide("no token hun", ["hunter2"]), "no token hun");
    }

    #[test]
    fn a_character_that_json_writes_in_two_parts_is_decoded() {
        let secret = "pass😀word";
        for repeated in
            ["pass\\ud83d\\ude00word", "pass\\uD83D\\uDE00word", "pass\\\\ud83d\\\\ude00word", "pass&#x1F600;word"]
        {
            assert_eq!(hide(&format!("no key {repeated}, bye"), [secret]), "no key ***, bye", "{repeated}");
        }
        for cut in ["\\ud83d", "\\ud83d\\", "\\ud83d\\ude", "&#x1F"] {
            assert_eq!(hide(&format!("no key pass{cut}"), [secret]), format!("no key ***{cut}"));
        }
        assert_eq!(hide("\\ud83d \\ud83d\\u0041 \\ude00", [secret]), "\\ud83d \\ud83d\\u0041 \\ude00");
        assert_eq!(hide("no key a\\tbcd", ["a\tbcd"]), "no key ***");
    }

    #[test]
    fn what_follows_a_sign_that_begins_no_escape_is_decoded() {
        for (text, hidden) in [
            ("?a=1&t=%68ab1", "?a=1&t=***"),
            ("?a=1&%68ab1", "?a=1&***"),
            ("a \\ %68ab1", "a \\ ***"),
            ("50% %68ab1", "50% ***"),
            ("&%68ab1&", "&***&"),
            ("&am%68ab", "&am%68ab"),
            ("&am%68ab1", "&am***"),
            ("&#12%68ab1&q", "&#12***&q"),
            ("&%68ab1&am", "&***&am"),
        ] {
            assert_eq!(hide(text, ["hab1"]), hidden, "{text}");
        }
    }

    #[test]
    fn nothing_is_left_out_of_a_text_that_the_caller_has_bounded() {
        let long = "x".repeat(2 * limits::PEER_TEXT_BYTES_MAX);
        assert_eq!(hide_in_all(&long, [""]), long);
        assert_eq!(hide_in_all(&(long.clone() + "hunter2"), ["hunter2"]), long.clone() + HIDDEN);
    }

    #[test]
    fn long_text_is_cut_and_what_is_cut_of_a_secret_is_hidden() {
        let room = limits::PEER_TEXT_BYTES_MAX - 4;
        assert_eq!(hide(&("x".repeat(room) + "hunter2"), ["hunter2"]), "x".repeat(room) + HIDDEN);
        assert_eq!(hide(&"x".repeat(2 * room), [""]).len(), room + 4);
    }

    #[test]
    fn bytes_that_are_not_utf_8_hide_whole_characters() {
        assert_eq!(hide("xé1234y", ["%a91234"]), "x***y");
        assert_eq!(hide("x%A91234y", ["%a91234"]), "x***y");
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_lost_and_no_secret_is_left(before in "\\PC{0,20}", after in "\\PC{0,20}", all in "[01]") {
            let repeated = percent(SECRET, all == "1", true);
            let hidden = hide(&format!("{before}{repeated}{after}"), [SECRET]);
            proptest::prop_assert!(!hidden.contains("zebra") && !hidden.contains(&repeated));
            let start: String = before.chars().take_while(|c| c.is_alphanumeric()).collect();
            proptest::prop_assert!(hidden.starts_with(&start));
        }
    }
}
