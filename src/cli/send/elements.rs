//! JSON values of an input, one at a time, in bounded memory: the elements of arrays, and values that follow one
//! another.
//!
//! Only where a value ends is looked at here: brackets and texts. Whether it is an event, the decoder says.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use super::input::Peeked;
use super::lines::Line;
use super::looks_like_event;
use crate::limits::SEND_LINE_BYTES_MAX;

/// Bytes asked of the input at once.
const READ_BYTES: usize = 256 * 1024;

pub(super) struct Elements<R> {
    input: BufReader<R>,
    value: Vec<u8>,
    bytes_max: usize,
    /// Within an array of which elements are read.
    array: Array,
    /// Number of the line on which the last value begins, from 1.
    pub number: u64,
    /// Number of the line that is being read.
    line: u64,
    /// Bytes read so far.
    pub bytes_read: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Array {
    /// Between values that are not in an array.
    Outside,
    /// After `[`: an element or `]`.
    Begun,
    /// After a comma: an element.
    Next,
    /// After an element: a comma or `]`.
    Element,
}

impl<R: Read> Elements<R> {
    /// Keeps at most `bytes_max` bytes of a value.
    pub(super) fn new(input: R, bytes_max: usize) -> Self {
        Self {
            input: BufReader::with_capacity(READ_BYTES, input),
            value: Vec::new(),
            bytes_max,
            array: Array::Outside,
            number: 0,
            line: 1,
            bytes_read: 0,
        }
    }

    /// Whether the next value may have to be waited for.
    pub(super) fn may_wait(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// The next value, in one line; `None` at the end of the input.
    ///
    /// # Errors
    /// The input cannot be read, ends within a value or an array, or is not a sequence of values; `self.number` is the
    /// line then.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let next = self.next_after_space()?;
            self.number = self.line;
            match (self.array, next) {
                (Array::Outside, None) => return Ok(None),
                (_, None) => return Err(cut("array")),
                (Array::Outside, Some(b'[')) => self.array = Array::Begun,
                (Array::Begun | Array::Element, Some(b']')) => self.array = Array::Outside,
                (Array::Element, Some(b',')) => self.array = Array::Next,
                (Array::Element, Some(_)) => return Err(malformed("a comma or ] is missing after an element")),
                (_, Some(b',' | b']' | b'}')) => return Err(malformed("an element is missing")),
                (Array::Outside, Some(_)) => break,
                (Array::Begun | Array::Next, Some(_)) => {
                    self.array = Array::Element;
                    break;
                }
            }
            self.consume(1);
        }
        let read = self.value()?;
        let cut_bytes = read.saturating_sub(self.value.len() as u64);
        Ok(Some(Line { bytes: &self.value, cut_bytes }))
    }

    /// Leaves out white space, and returns the byte after it without taking it.
    fn next_after_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffered = self.fill()?;
            let Some(first) = buffered.first().copied() else { return Ok(None) };
            if !is_space(first) {
                return Ok(Some(first));
            }
            let spaces = buffered.iter().take_while(|byte| is_space(**byte)).count();
            let lines = buffered.iter().take(spaces).filter(|byte| **byte == b'\n').count();
            self.line += lines as u64;
            self.consume(spaces);
        }
    }

    /// Puts the value that begins here into `self.value`, and returns how many bytes it has.
    fn value(&mut self) -> io::Result<u64> {
        self.value.clear();
        let mut scan = Scan::default();
        let mut read = 0;
        loop {
            let bytes_max = self.bytes_max;
            // Not `self.fill`: the value is written while the buffer is borrowed.
            let buffered = fill(&mut self.input)?;
            if buffered.is_empty() {
                return if scan.may_end() { Ok(read) } else { Err(cut("value")) };
            }
            let (bytes, ended) = scan.piece(buffered);
            let piece = buffered.get(..bytes).unwrap_or_default();
            let kept = piece.get(..bytes_max.saturating_sub(self.value.len())).unwrap_or(piece);
            let begin = self.value.len();
            self.value.extend_from_slice(kept);
            self.line += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            if !scan.broken_text {
                // Between the parts of a value they are white space.
                self.value.iter_mut().skip(begin).filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
            }
            read += bytes as u64;
            self.consume(bytes);
            if ended {
                return Ok(read);
            }
        }
    }

    fn fill(&mut self) -> io::Result<&[u8]> {
        fill(&mut self.input)
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes_read += bytes as u64;
        self.input.consume(bytes);
    }
}

fn fill<R: Read>(input: &mut BufReader<R>) -> io::Result<&[u8]> {
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(input.buffer())
}

/// How an input begins that holds events as JSON over several lines: with an array, or with an object of which the first
/// line is not the whole. In both, the keys of the first object are all an event's, or there is none.
///
/// Waits for no byte more than it takes to tell; `objects`: an object is looked at, too.
pub(super) fn begins_with_events<R: Read>(text: &mut Peeked<R>, objects: bool) -> bool {
    let mut at = 0;
    let mut next_after_space = |at: &mut usize| {
        while *at < SEND_LINE_BYTES_MAX {
            let byte = *text.peek(*at + 1).get(*at)?;
            if !is_space(byte) {
                return Some(byte);
            }
            *at += 1;
        }
        None
    };
    let in_array = match next_after_space(&mut at) {
        Some(b'[') => {
            at += 1;
            match next_after_space(&mut at) {
                Some(b'{') => true,
                Some(b']') => {
                    at += 1;
                    // An empty one, and nothing after it.
                    return next_after_space(&mut at).is_none();
                }
                _ => return false,
            }
        }
        Some(b'{') if objects => false,
        _ => return false,
    };
    let begin = at;
    at += 1;
    // `{pid` is not JSON: no need to wait for its end.
    if !matches!(next_after_space(&mut at), Some(b'"' | b'}')) {
        return false;
    }
    let mut scan = Scan::default();
    for end in begin + 1..SEND_LINE_BYTES_MAX {
        let peeked = text.peek(end);
        let Some(object) = peeked.get(begin..end) else { return false };
        if scan.piece(object.get(end - begin - 1..).unwrap_or_default()).1 {
            return looks_like_event(object) && (in_array || object.contains(&b'\n'));
        }
    }
    false
}

/// Finds the end of one value, in pieces.
#[derive(Default)]
struct Scan {
    depth: u64,
    in_text: bool,
    after_backslash: bool,
    /// A text had a line end in it: the value is not JSON, and must stay so.
    broken_text: bool,
    /// The value is a number or a word, which ends before what follows it.
    bare: bool,
}

impl Scan {
    /// Returns how many bytes of `bytes` belong to the value, and whether it ends there.
    fn piece(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_text {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => {
                        self.in_text = false;
                        if self.depth == 0 {
                            return (at + 1, true);
                        }
                    }
                    b'\n' => self.broken_text = true,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' if !self.bare => self.in_text = true,
                b'{' | b'[' if !self.bare => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                b',' | b']' | b'}' if self.depth == 0 => return (at, true),
                byte if self.depth == 0 && is_space(*byte) => return (at, true),
                _ if self.depth == 0 => self.bare = true,
                _ => {}
            }
        }
        (bytes.len(), false)
    }

    /// Whether the end of the input may be that of the value.
    fn may_end(&self) -> bool {
        self.depth == 0 && !self.in_text
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("malformed JSON: {why}"))
}

fn cut(what: &str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, format!("the input ends within a JSON {what}: it is incomplete"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with their lines, and the error that ended them.
    fn elements(input: impl Read, bytes_max: usize) -> (Vec<(u64, String)>, Option<String>) {
        let mut elements = Elements::new(input, bytes_max);
        let mut found = Vec::new();
        loop {
            match elements.next().map(|line| line.map(|line| String::from_utf8(line.bytes.to_vec()).unwrap())) {
                Ok(Some(value)) => found.push((elements.number, value)),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }

    fn values(input: &str) -> (Vec<(u64, String)>, Option<String>) {
        struct ByteByByte<'a>(&'a [u8]);
        impl Read for ByteByByte<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let len = out.len().min(1);
                self.0.read(&mut out[..len])
            }
        }
        let whole = elements(input.as_bytes(), 1_000);
        assert_eq!(elements(ByteByByte(input.as_bytes()), 1_000), whole, "pieces do not matter: {input}");
        whole
    }

    #[test]
    fn elements_of_arrays_and_values_in_a_row() {
        for (input, expected) in [
            ("", &[][..]),
            (" \n ", &[]),
            ("[]", &[]),
            ("[\n]\n[ ]", &[]),
            ("[{}]", &[(1, "{}")]),
            (
                "[{\"a\":[1,{\"b\":\"]}\"}]} ,\n\n {\"c\":1}\r\n]",
                &[(1, "{\"a\":[1,{\"b\":\"]}\"}]}"), (3, "{\"c\":1}")],
            ),
            ("{\"a\":1}{\"b\":2}\n{\"c\":3}", &[(1, "{\"a\":1}"), (1, "{\"b\":2}"), (2, "{\"c\":3}")]),
            (
                "[\n  {\n    \"a\": 1\n  },\n  {\"b\": \"\\\"\\\\\"}\n]",
                &[(2, "{     \"a\": 1   }"), (5, "{\"b\": \"\\\"\\\\\"}")],
            ),
            ("[1, null,\"x\" ,[2]]", &[(1, "1"), (1, "null"), (1, "\"x\""), (1, "[2]")]),
            ("1 true\n\"a b\"", &[(1, "1"), (1, "true"), (2, "\"a b\"")]),
            ("[{\"a\":1}]\n[{\"b\":2}]", &[(1, "{\"a\":1}"), (2, "{\"b\":2}")]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(line, value)| (*line, (*value).to_owned())).collect();
            assert_eq!(values(input), (expected, None), "{input}");
        }
    }

    #[test]
    fn events_over_several_lines_are_told_by_the_first_one() {
        let begins = |text: &str, objects| begins_with_events(&mut Peeked::new(text.as_bytes()), objects);
        for text in ["[{\"name\":\"a\"}]", " \n[\n {\"name\":\"a\",\n\"body\":\"}\"}, 7", "[]", " [ \n] \n"] {
            assert!(begins(text, false), "{text}");
        }
        for text in [
            "",
            "[",
            "[1]",
            "[{}]",
            "[{\"msg\":1}]",
            "[{pid,1}]",
            "[info] x",
            "[] x",
            "{\n\"name\":\"a\"}",
            "[{\"name\":",
        ] {
            assert!(!begins(text, false), "{text}");
        }
        assert!(begins("{\n\"name\":\"a\"}", true));
        assert!(!begins("{\"name\":\"a\"}", true), "that is a line of NDJSON");
        assert!(!begins("{\n\"msg\":\"a\"}", true));
    }

    #[test]
    fn what_is_cut_or_malformed_is_an_error_after_what_was_whole() {
        for (input, count, why) in [
            ("[", 0, "ends within a JSON array"),
            ("[{\"a\":1},", 1, "ends within a JSON array"),
            ("[{\"a\":1}", 1, "ends within a JSON array"),
            ("[{\"a\":1},{\"b\":", 1, "ends within a JSON value"),
            ("{\"a\":\"x", 0, "ends within a JSON value"),
            ("[{\"a\":1} {\"b\":1}]", 1, "comma or ] is missing"),
            ("[{\"a\":1},]", 1, "element is missing"),
            ("[,]", 0, "element is missing"),
            ("{\"a\":1},{\"b\":1}", 1, "element is missing"),
            ("]", 0, "element is missing"),
            ("}", 0, "element is missing"),
            ("[}]", 0, "element is missing"),
        ] {
            let (found, error) = values(input);
            assert!(error.as_ref().is_some_and(|error| error.contains(why)), "{input}: {error:?}");
            assert_eq!(found.len(), count, "{input}");
        }
        let (found, _) = values("[{\"a\":\"x\ny\"}]");
        assert_eq!(found, [(1, "{\"a\":\"x\ny\"}".to_owned())], "a line end in a text stays wrong");
    }

    #[test]
    fn a_value_that_is_too_long_is_cut_and_counted() {
        let mut elements = Elements::new(&b"[\"123456789\",\"2\"]"[..], 5);
        assert_eq!(elements.next().unwrap(), Some(Line { bytes: b"\"1234", cut_bytes: 6 }));
        assert_eq!(elements.next().unwrap(), Some(Line { bytes: b"\"2\"", cut_bytes: 0 }));
        assert_eq!(elements.next().unwrap(), None);
    }
}
