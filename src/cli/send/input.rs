//! Bytes of a file or of standard input as text: unpacked, without a byte order mark.
//!
//! ```text
//!  file, stdin ─▶ Watched (counts, ends at a signal) ─▶ Peeked ─▶ gzip? unpack ─▶ Peeked ─▶ lines or JSON
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use super::is_standard_input;
use super::stop::Stop;

/// Bytes that [`Peeked`] asks of its input at once.
const PEEK_BYTES: usize = 8 * 1024;
/// Bytes of packed data that are read at once.
const PACKED_BYTES: usize = 64 * 1024;

const GZIP: &[u8] = b"\x1f\x8b";
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
/// How files begin that this command cannot read, what they are, and what unpacks or converts them.
const UNREADABLE: [(&[u8], &str, &str); 6] = [
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc"),
    (b"BZh91AY&SY", "compressed by bzip2", "bzip2 -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
];

/// A text that is read from its begin.
pub(super) type Text = Peeked<Box<dyn Read>>;

/// Opens the file, or standard input. `read_bytes` counts what is read of it, before it is unpacked.
///
/// # Errors
/// The file cannot be read, or holds what is not UTF-8 text.
pub(super) fn open(path: &Path, stop: &Stop, read_bytes: &Rc<Cell<u64>>) -> io::Result<Text> {
    let raw: Box<dyn Read> = if is_standard_input(path) {
        Box::new(Watched { input: io::stdin(), stop: stop.clone(), read_bytes: read_bytes.clone() })
    } else {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        Box::new(Watched { input: file, stop: stop.clone(), read_bytes: read_bytes.clone() })
    };
    text(raw)
}

/// Checks that the path can be opened, and is not a directory.
///
/// # Errors
/// It is missing, may not be read, or is a directory.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    // Only a file may be opened twice: the writer of a FIFO would see its reader leave.
    if metadata.is_file() {
        File::open(path)?;
    }
    Ok(())
}

/// Unpacks what is packed, drops a byte order mark, and refuses what is not UTF-8.
fn text(raw: Box<dyn Read>) -> io::Result<Text> {
    let mut raw = Peeked::new(raw);
    if !raw.begins_with(GZIP) {
        return utf8(raw);
    }
    let packed = BufReader::with_capacity(PACKED_BYTES, raw);
    utf8(Peeked::new(Box::new(Unpacked(MultiGzDecoder::new(packed)))))
}

fn utf8(mut text: Text) -> io::Result<Text> {
    for (begin, name, converter) in UNREADABLE {
        if text.begins_with(begin) {
            let why = format!("is {name}, not UTF-8 text: convert it, as in `{converter} FILE | telemetryx send`");
            return Err(io::Error::new(ErrorKind::InvalidData, why));
        }
    }
    if text.begins_with(UTF8_MARK) {
        text.skip(UTF8_MARK.len());
    }
    // Without a mark: every other byte of what is ASCII in UTF-16 is 0.
    if half_zeros(text.peek(2), 2) && half_zeros(text.peek(4), 4) {
        let why =
            "looks like UTF-16, not UTF-8 text: convert it, as in `iconv -f UTF-16LE -t UTF-8 FILE | telemetryx send`";
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(text)
}

/// Whether there are so many bytes, and of each two one is 0, always the same one.
fn half_zeros(bytes: &[u8], count: usize) -> bool {
    let zero = |offset: usize| bytes.iter().skip(offset).step_by(2).all(|byte| *byte == 0);
    let none = |offset: usize| bytes.iter().skip(offset).step_by(2).all(|byte| *byte != 0);
    bytes.len() == count && ((zero(0) && none(1)) || (none(0) && zero(1)))
}

/// An input whose first bytes can be looked at.
pub(super) struct Peeked<R> {
    input: R,
    head: Vec<u8>,
    /// Bytes of `head` that were read.
    at: usize,
    /// Why the input could not be read while it was peeked at.
    failed: Option<io::Error>,
}

impl<R: Read> Peeked<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, head: Vec::new(), at: 0, failed: None }
    }

    /// The next `bytes` bytes, fewer at the end of the input, or where it cannot be read: reading comes to the error. Reads
    /// only until there are so many.
    pub(super) fn peek(&mut self, bytes: usize) -> &[u8] {
        while self.head.len() - self.at < bytes && self.failed.is_none() {
            let filled = self.head.len();
            self.head.resize(filled + PEEK_BYTES, 0);
            let read = self.input.read(self.head.get_mut(filled..).unwrap_or_default());
            self.head.truncate(filled + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => break,
                Err(error) if error.kind() != ErrorKind::Interrupted => self.failed = Some(error),
                _ => {}
            }
        }
        let peeked = self.head.get(self.at..).unwrap_or_default();
        peeked.get(..bytes).unwrap_or(peeked)
    }

    /// Whether the next bytes are these. Waits for no byte more than it takes to tell.
    fn begins_with(&mut self, begin: &[u8]) -> bool {
        (1..=begin.len()).all(|bytes| begin.get(..bytes) == Some(self.peek(bytes)))
    }

    /// Leaves out bytes that were peeked at.
    fn skip(&mut self, bytes: usize) {
        self.at = self.head.len().min(self.at + bytes);
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let peeked = self.head.get(self.at..).unwrap_or_default();
        if peeked.is_empty() {
            return match self.failed.take() {
                Some(error) => Err(error),
                None => self.input.read(out),
            };
        }
        let bytes = peeked.len().min(out.len());
        out.iter_mut().zip(peeked).for_each(|(to, from)| *to = *from);
        self.at += bytes;
        if self.at == self.head.len() {
            (self.head, self.at) = (Vec::new(), 0);
        }
        Ok(bytes)
    }
}

/// gzip, member after member, with errors that say what is wrong with the file.
struct Unpacked<R>(MultiGzDecoder<R>);

impl<R: io::BufRead> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "the gzip data ends early: the file is incomplete")
            }
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                io::Error::new(ErrorKind::InvalidData, format!("the gzip data is corrupt: {error}"))
            }
            _ => error,
        })
    }
}

/// Ends with an error once the command is to stop, also while it waits for bytes.
struct Watched<R> {
    input: R,
    stop: Stop,
    read_bytes: Rc<Cell<u64>>,
}

impl<R: Read + AsFd> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stop.wait_for(self.input.as_fd())?;
        let bytes = self.input.read(out)?;
        self.read_bytes.set(self.read_bytes.get() + bytes as u64);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    /// What is read up to the end or an error.
    fn read(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
        let mut read = Vec::new();
        let error = match text(Box::new(io::Cursor::new(bytes.to_vec()))) {
            Ok(mut text) => text.read_to_end(&mut read).err(),
            Err(error) => Some(error),
        };
        (read, error.map(|error| error.to_string()))
    }

    #[test]
    fn a_byte_order_mark_is_dropped_and_gzip_unpacked() {
        for (bytes, expected) in [
            (b"".to_vec(), &b""[..]),
            (b"a".to_vec(), b"a"),
            (b"\xef\xbb".to_vec(), b"\xef\xbb"),
            (b"\xef\xbb\xbf".to_vec(), b""),
            (b"\xef\xbb\xbfa\xef\xbb\xbf".to_vec(), b"a\xef\xbb\xbf"),
            (b"\x1f".to_vec(), b"\x1f"),
            (b"\0".to_vec(), b"\0"),
            (b"a\0b".to_vec(), b"a\0b"),
            (packed(b""), b""),
            (packed(b"\xef\xbb\xbfab"), b"ab"),
            ([packed(b"one "), packed(b""), packed(b"two")].concat(), b"one two"),
        ] {
            assert_eq!(read(&bytes), (expected.to_vec(), None), "{bytes:?}");
        }
        let long = vec![b'x'; 3 * PEEK_BYTES + 1];
        assert_eq!(read(&[UTF8_MARK, &long].concat()), (long, None));
    }

    #[test]
    fn what_is_not_utf8_is_refused_by_name() {
        for (bytes, name) in [
            (&b"\xff\xfea\0"[..], "UTF-16"),
            (b"\xfe\xff\0a", "UTF-16"),
            (b"a\0b\0", "UTF-16"),
            (b"\0a\0b", "UTF-16"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"BZh91AY&SY", "bzip2"),
            (b"PK\x03\x04", "zip"),
        ] {
            for bytes in [bytes.to_vec(), packed(bytes)] {
                let (read, error) = read(&bytes);
                assert_eq!(read, b"");
                assert!(error.as_ref().is_some_and(|error| error.contains(name)), "{name}: {error:?}");
            }
        }
    }

    #[test]
    fn cut_and_corrupt_gzip_gives_what_is_readable_then_an_error() {
        let lines: Vec<u8> = (0..50_000).flat_map(|line: u32| format!("line {line}\n").into_bytes()).collect();
        let whole = packed(&lines);
        for cut in [whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            let (read, error) = read(&whole[..cut]);
            assert_eq!(error.as_deref(), Some("the gzip data ends early: the file is incomplete"));
            assert!(!read.is_empty() && lines.starts_with(&read), "{cut}: {} bytes", read.len());
        }
        let mut wrong = whole.clone();
        let crc = wrong.len() - 8;
        wrong[crc] ^= 1;
        let (read_anyway, error) = read(&wrong);
        assert_eq!(read_anyway, lines);
        assert!(error.as_ref().is_some_and(|error| error.starts_with("the gzip data is corrupt: ")), "{error:?}");
    }

    #[test]
    fn no_byte_more_than_needed_is_waited_for() {
        /// Fails where it is read beyond its bytes, which come one at a time.
        struct OneByOne(Vec<u8>);
        impl Read for OneByOne {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                assert!(!self.0.is_empty(), "read on");
                out[0] = self.0.remove(0);
                Ok(1)
            }
        }
        for bytes in [&b"a\n"[..], b"\n\n", b"[2", b"\xef\xbb\xbfa\n", b"PKa", b"BZa"] {
            let mut text = text(Box::new(OneByOne(bytes.to_vec()))).unwrap();
            let mut first = [0];
            text.read_exact(&mut first).unwrap();
            assert_ne!(first, [0]);
        }
    }
}
