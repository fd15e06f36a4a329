//! Lines of an input, one at a time, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};

/// Bytes asked of the input at once.
const READ_BYTES: usize = 256 * 1024;

/// Reads lines that end with `\n`, `\r\n` or the input.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    bytes_max: usize,
    /// Number of the last line, from 1.
    pub number: u64,
    /// Bytes of all lines read so far, their ends included.
    pub bytes_read: u64,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub bytes: &'a [u8],
    /// Bytes of it beyond the largest length; they are not in `bytes`.
    pub cut_bytes: u64,
}

impl<R: Read> Lines<R> {
    /// Keeps at most `bytes_max` bytes of a line.
    pub(super) fn new(input: R, bytes_max: usize) -> Self {
        Self {
            input: BufReader::with_capacity(READ_BYTES, input),
            line: Vec::new(),
            bytes_max,
            number: 0,
            bytes_read: 0,
        }
    }

    /// Whether the next line may have to be waited for.
    pub(super) fn may_wait(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// The next line; `None` at the end of the input.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        // Two more, so that a line of exactly that many bytes is seen with its end.
        let limit = self.bytes_max as u64 + 2;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes_read += read as u64;
        let mut cut_bytes = 0;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if read as u64 == limit {
            let skipped = self.input.skip_until(b'\n')? as u64;
            self.bytes_read += skipped;
            cut_bytes = skipped;
        }
        if self.line.last() == Some(&b'\r') && cut_bytes == 0 {
            self.line.pop();
        }
        cut_bytes += self.line.len().saturating_sub(self.bytes_max) as u64;
        self.line.truncate(self.bytes_max);
        Ok(Some(Line { bytes: &self.line, cut_bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines, the bytes cut from each, and the bytes read in all.
    fn lines(input: impl Read, bytes_max: usize) -> (Vec<(Vec<u8>, bool)>, u64) {
        let mut lines = Lines::new(input, bytes_max);
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            seen.push((line.bytes.to_vec(), line.cut_bytes > 0));
        }
        assert_eq!(lines.number as usize, seen.len());
        (seen, lines.bytes_read)
    }

    fn texts(input: &str, bytes_max: usize) -> Vec<(String, bool)> {
        let (lines, bytes_read) = lines(input.as_bytes(), bytes_max);
        assert_eq!(bytes_read, input.len() as u64);
        lines.into_iter().map(|(bytes, cut)| (String::from_utf8(bytes).unwrap(), cut)).collect()
    }

    #[test]
    fn every_line_counts_the_last_one_too() {
        let whole = |lines: &[&str]| lines.iter().map(|line| (line.to_string(), false)).collect::<Vec<_>>();
        assert_eq!(texts("", 9), []);
        assert_eq!(texts("a", 9), whole(&["a"]));
        assert_eq!(texts("a\nb\n", 9), whole(&["a", "b"]));
        assert_eq!(texts("\n\na\r\n\r\nb\rc", 9), whole(&["", "", "a", "", "b\rc"]));
    }

    #[test]
    fn what_is_too_long_is_cut_and_said_so() {
        let line = |text: &str, cut| (text.to_owned(), cut);
        assert_eq!(texts("1234\r\n1234\n1234", 4), [line("1234", false), line("1234", false), line("1234", false)]);
        assert_eq!(texts("12345\n12345\r\n12345", 4), [line("1234", true), line("1234", true), line("1234", true)]);
        assert_eq!(texts("123456789\nb\n123456", 4), [line("1234", true), line("b", false), line("1234", true)]);
    }

    #[test]
    fn pieces_of_input_do_not_matter() {
        struct ByteByByte<'a>(&'a [u8]);
        impl Read for ByteByByte<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let len = out.len().min(1);
                self.0.read(&mut out[..len])
            }
        }
        let input = b"one\r\n\n1234567890\nthe last";
        assert_eq!(lines(ByteByByte(input), 5), lines(&input[..], 5));
    }
}
