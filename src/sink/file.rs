//! NDJSON into a file or a FIFO; at least once.
//!
//! A file is rotated before a delivery that finds it large or old: it is renamed to `<path>.<UTC time>`, and a new one
//! begins. A file that was moved away is noticed and created again. Each delivery is synced before the router
//! saves its position. A delivery that fails is cut off the file again.
//!
//! A FIFO is opened by the first delivery, because that waits for its reader; a write waits for room. Neither spins
//! nor ends before the reader does its part: a server that drains gives up on it from outside. A server that ends meanwhile may
//! leave a part of a line in the FIFO. So the first delivery of each process begins with an empty line: otherwise the reader would
//! take that part and the first event as one line, and lose the event.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::ndjson::{LINE_START, Lines};
use super::{Failure, Identity, Kind, Output, Sink, SinkConfig, Unavailable};
use crate::batch::Delivery;
use crate::event::rfc3339;
use crate::limits;
use crate::settings::{Applies, Form, Setting, Value};
use crate::time::unix_nano;

/// What the settings know of it.
pub const KIND: Kind = Kind {
    name: "file",
    doc: "A file or FIFO with one JSON object per line. At least once. After each start of the server, a FIFO is first \
          sent an empty line, which ends a line that was left unfinished.",
    settings: &[
        Setting {
            key: "path",
            applies: Applies::OnRestart,
            default: Value::text("{data_dir}/events.ndjson"),
            form: Form::Path,
            doc: "File to append to; it and its directory are created if they are missing.",
        },
        Setting {
            key: "rotate_bytes",
            applies: Applies::OnRestart,
            default: Value::Bytes(256 * 1024 * 1024),
            form: Form::Bytes { min: 0, max: 1 << 40 },
            doc: "A file of this size is rotated before the next delivery; 0: never.",
        },
        Setting {
            key: "rotate_age",
            applies: Applies::OnRestart,
            default: Value::Duration(Duration::from_secs(24 * 3600)),
            form: Form::Duration { min: Duration::ZERO, max: Duration::from_secs(365 * 86_400) },
            doc: "A file of this age is rotated before the next delivery; 0s: never.",
        },
    ],
    parse: |values| Ok(Box::new(values.read::<FileSettings>()?)),
};

/// `kind = "file"`: one JSON object per line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSettings {
    /// File or FIFO to append to; a file and its directory are created if they are missing.
    pub path: PathBuf,
    /// A file of this size is rotated before the next delivery; 0: never.
    pub rotate_bytes: u64,
    /// A file of this age is rotated before the next delivery; 0: never.
    pub rotate_age: Duration,
}

impl SinkConfig for FileSettings {
    fn open(&self, _name: &str, identity: &Identity) -> Box<dyn Sink> {
        Box::new(File::new(self, identity))
    }

    fn output(&self) -> Option<Output> {
        Some(Output::file(&self.path))
    }
}

/// Bytes in which the start of a partial line is looked for: an event as JSON with every byte escaped, and more.
const TORN_LINE_BYTES_MAX: u64 = 8 * limits::EVENT_BYTES_MAX as u64;

/// The sink, with the file that it writes.
pub struct File {
    settings: FileSettings,
    lines: Lines,
    open: Option<Open>,
    /// An earlier process may have left a part of a line in the FIFO.
    may_follow_partial_line: bool,
}

struct Open {
    file: fs::File,
    is_fifo: bool,
    /// `None`: a FIFO or another device, which is neither cut, rotated nor synced.
    regular: Option<Regular>,
}

struct Regular {
    device: u64,
    inode: u64,
    /// End of the last whole delivery.
    end: u64,
    created: SystemTime,
}

impl File {
    /// A sink that has not opened its file.
    pub fn new(settings: &FileSettings, identity: &Identity) -> Self {
        let lines = Lines::new(identity);
        Self { settings: settings.clone(), lines, open: None, may_follow_partial_line: true }
    }

    fn path(&self) -> &Path {
        &self.settings.path
    }

    /// Opens the path; a FIFO waits for its reader here.
    fn open(&self) -> io::Result<Open> {
        let folder = match self.path().parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        let is_new = !self.path().exists();
        // Reading a FIFO as well would make its open not wait, and its reader never see the end.
        let readable = is_new || self.path().is_file();
        let mut file = OpenOptions::new().append(true).create(true).read(readable).open(self.path())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Open { file, is_fifo: metadata.file_type().is_fifo(), regular: None });
        }
        if is_new {
            fs::File::open(folder)?.sync_all()?;
        }
        let end = cut_torn_line(&mut file, metadata.len())?;
        let created = metadata.created().unwrap_or_else(|_| SystemTime::now());
        let regular = Regular { device: metadata.dev(), inode: metadata.ino(), end, created };
        Ok(Open { file, is_fifo: false, regular: Some(regular) })
    }

    fn write(&mut self, delivery: &Delivery) -> io::Result<()> {
        let now = SystemTime::now();
        // Taken: after an error it is closed at once. The next reader of a FIFO must not meet this end of it, and take
        // its end for ours.
        let mut open = match self.open.take().filter(|open| open.is_at(self.path())) {
            Some(open) if open.is_due_for_rotation(&self.settings, now) => {
                fs::rename(self.path(), rotated(self.path(), now))?;
                self.open()?
            }
            Some(open) => open,
            None => self.open()?,
        };
        if open.is_fifo && self.may_follow_partial_line {
            open.file.write_all(b"\n")?;
            self.may_follow_partial_line = false;
        }
        open.write(&mut self.lines, delivery)?;
        self.open = Some(open);
        Ok(())
    }

    fn unavailable(&self, error: &io::Error) -> Unavailable {
        let reason = format!("{}: {error}", self.path().display());
        match error.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ReadOnlyFilesystem => Unavailable::down(reason),
            _ => Unavailable::retry(reason),
        }
    }
}

impl Sink for File {
    fn probe(&mut self) -> Result<(), Unavailable> {
        match fs::metadata(self.path()) {
            // Without waiting for a reader.
            Ok(metadata) if metadata.file_type().is_fifo() => Ok(()),
            Ok(_) => {
                OpenOptions::new().append(true).open(self.path()).map(drop).map_err(|error| self.unavailable(&error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                super::creatable::check_file(self.path()).map_err(Unavailable::down)
            }
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.open = None;
        let waits = fs::metadata(self.path()).is_ok_and(|metadata| metadata.file_type().is_fifo());
        if !waits {
            self.open = Some(self.open().map_err(|error| self.unavailable(&error))?);
        }
        Ok(None)
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        self.write(delivery).map_err(|error| self.unavailable(&error).into())
    }
}

impl Open {
    /// Whether this is still what is at `path`.
    fn is_at(&self, path: &Path) -> bool {
        let Some(Regular { device, inode, .. }) = self.regular else { return true };
        fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (device, inode))
    }

    fn is_due_for_rotation(&self, settings: &FileSettings, now: SystemTime) -> bool {
        let Some(Regular { end, created, .. }) = self.regular else { return false };
        let is_large = settings.rotate_bytes > 0 && end >= settings.rotate_bytes;
        let is_old =
            !settings.rotate_age.is_zero() && now.duration_since(created).is_ok_and(|age| age >= settings.rotate_age);
        end > 0 && (is_large || is_old)
    }

    fn write(&mut self, lines: &mut Lines, delivery: &Delivery) -> io::Result<()> {
        let Some(regular) = &mut self.regular else { return lines.write(delivery, &mut self.file) };
        let written = lines.write(delivery, &mut self.file).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => regular.end = self.file.metadata()?.len(),
            // No part of it stays in front of the next attempt; a full disk still lets a file shrink.
            Err(_) => self.file.set_len(regular.end)?,
        }
        written
    }
}

/// The name that a file is rotated to: no two of them within a nanosecond.
fn rotated(path: &Path, now: SystemTime) -> PathBuf {
    let time = rfc3339::format(unix_nano(now));
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(time.iter().filter(|byte| !b"-:".contains(byte)).map(|byte| char::from(*byte)).collect::<String>());
    name.into()
}

/// Cuts off what a crash left of our last line, and returns the new length. What does not look like ours stays, ended.
fn cut_torn_line(file: &mut fs::File, len: u64) -> io::Result<u64> {
    let tail_bytes = len.min(TORN_LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(len - tail_bytes))?;
    let mut tail = Vec::new();
    Read::take(&mut *file, tail_bytes).read_to_end(&mut tail)?;
    let line_start = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let torn = tail.split_off(line_start);
    if torn.is_empty() {
        return Ok(len);
    }
    let starts_here = line_start > 0 || tail_bytes == len;
    if starts_here && (torn.starts_with(LINE_START) || LINE_START.starts_with(&torn)) {
        let end = len - torn.len() as u64;
        file.set_len(end)?;
        return Ok(end);
    }
    file.write_all(b"\n")?;
    Ok(len + 1)
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;

    use tempfile::TempDir;

    use super::super::testing::{self, Store, delivery, identity, retry};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Folder {
        dir: TempDir,
    }

    impl Folder {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("new/out.ndjson")
        }

        fn file(&self, rotate_bytes: u64, rotate_age: Duration) -> File {
            File::new(&FileSettings { path: self.path(), rotate_bytes, rotate_age }, &identity(1))
        }

        fn never_rotated(&self) -> File {
            never_rotated(&self.path())
        }

        /// The files, oldest first, and the positions in each.
        fn files(&self) -> Vec<Vec<u64>> {
            let mut paths: Vec<_> =
                fs::read_dir(self.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort_by_key(|path| (*path == self.path(), path.clone()));
            paths.iter().map(|path| positions(&fs::read_to_string(path).unwrap())).collect()
        }
    }

    fn never_rotated(path: &Path) -> File {
        let settings = FileSettings { path: path.to_owned(), rotate_bytes: 0, rotate_age: Duration::ZERO };
        File::new(&settings, &identity(1))
    }

    fn line(line: &str) -> serde_json::Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn positions(text: &str) -> Vec<u64> {
        text.lines().map(|text| line(text)["position"].as_u64().unwrap()).collect()
    }

    impl Store for Folder {
        const EXACTLY_ONCE: bool = false;
        const KEEPS_POSITIONS: bool = false;

        fn sink(&self, _owner: u8) -> Box<dyn Sink> {
            Box::new(self.never_rotated())
        }

        fn stored(&self) -> Option<Vec<testing::Row>> {
            let text = fs::read_to_string(self.path()).unwrap();
            Some(text.lines().map(|text| serde_json::from_str(text).unwrap()).collect())
        }
    }

    #[test]
    fn passes_the_conformance_suite() {
        testing::conformance(Folder::new);
    }

    #[test]
    fn a_line_says_what_happened_and_where_it_came_in() {
        let folder = Folder::new();
        let mut sink = folder.never_rotated();
        sink.connect().unwrap();
        sink.deliver(&delivery(7..=7)).unwrap();
        let expected = serde_json::json!({
            "server_id": "5e5e5e5e-5e5e-5e5e-5e5e-5e5e5e5e5e5e",
            "position": 7,
            "received_at": "2026-01-02T03:04:05.000000006Z",
            "agent": "api",
            "time": "2026-01-02T03:04:05.000000006Z",
            "kind": "log",
            "source": "api",
            "name": "e7",
        });
        assert_eq!(line(&fs::read_to_string(folder.path()).unwrap()), expected);
    }

    #[test]
    fn a_large_file_is_put_aside_before_the_next_delivery() {
        let folder = Folder::new();
        let mut sink = folder.file(1, Duration::ZERO);
        sink.connect().unwrap();
        for position in 1..=3 {
            sink.deliver(&delivery(position..=position)).unwrap();
        }
        assert_eq!(folder.files(), [[1], [2], [3]]);
        // Size is known after a restart as well.
        let mut sink = folder.file(1, Duration::ZERO);
        sink.connect().unwrap();
        sink.deliver(&delivery(4..=5)).unwrap();
        assert_eq!(folder.files(), [vec![1], vec![2], vec![3], vec![4, 5]]);
    }

    #[test]
    fn an_old_file_is_put_aside_but_not_an_empty_one() {
        let folder = Folder::new();
        let mut sink = folder.file(0, Duration::from_nanos(1));
        sink.connect().unwrap();
        sink.deliver(&delivery(1..=2)).unwrap();
        sink.deliver(&delivery(3..=4)).unwrap();
        assert_eq!(folder.files(), [[1, 2], [3, 4]]);
    }

    #[test]
    fn a_file_that_somebody_moved_or_removed_is_made_anew() {
        let folder = Folder::new();
        let mut sink = folder.never_rotated();
        sink.connect().unwrap();
        sink.deliver(&delivery(1..=1)).unwrap();
        fs::rename(folder.path(), folder.path().with_extension("1")).unwrap();
        sink.deliver(&delivery(2..=2)).unwrap();
        assert_eq!(folder.files(), [[1], [2]]);
        fs::remove_file(folder.path()).unwrap();
        sink.deliver(&delivery(3..=3)).unwrap();
        assert_eq!(folder.files(), [[1], [3]]);
    }

    #[test]
    fn a_torn_last_line_is_cut_at_whatever_byte() {
        let folder = Folder::new();
        let mut sink = folder.never_rotated();
        sink.connect().unwrap();
        sink.deliver(&delivery(1..=2)).unwrap();
        let whole = fs::read(folder.path()).unwrap();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for end in 0..whole.len() {
            fs::write(folder.path(), &whole[..end]).unwrap();
            let mut sink = folder.never_rotated();
            sink.connect().unwrap();
            sink.deliver(&delivery(9..=9)).unwrap();
            let expected = if end < first_line { vec![9] } else { vec![1, 9] };
            assert_eq!(folder.files(), [expected], "torn at {end}");
        }
    }

    #[test]
    fn a_last_line_of_somebody_else_stays_and_is_ended() {
        let folder = Folder::new();
        fs::create_dir(folder.path().parent().unwrap()).unwrap();
        for theirs in ["notes", "first\nnotes", &"x".repeat(TORN_LINE_BYTES_MAX as usize + 1)] {
            fs::write(folder.path(), theirs).unwrap();
            let mut sink = folder.never_rotated();
            sink.connect().unwrap();
            sink.deliver(&delivery(1..=1)).unwrap();
            let text = fs::read_to_string(folder.path()).unwrap();
            let ours = text.strip_prefix(theirs).unwrap().strip_prefix('\n').unwrap();
            assert_eq!(positions(ours), [1]);
        }
    }

    #[test]
    fn a_folder_in_the_way_is_down() {
        let folder = Folder::new();
        fs::create_dir_all(folder.path()).unwrap();
        let result = folder.never_rotated().connect();
        assert!(matches!(&result, Err(Unavailable::Down { reason }) if reason.contains("out.ndjson")), "{result:?}");
    }

    #[test]
    fn a_full_disk_passes_and_leaves_no_part_of_a_delivery() {
        let mut sink = never_rotated(Path::new("/dev/full"));
        sink.connect().unwrap();
        retry(sink.deliver(&delivery(1..=1)));
    }

    #[test]
    fn a_part_of_a_line_that_an_earlier_process_left_in_a_fifo_costs_no_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // For reading and writing: that waits for nobody, and what is written stays.
        let mut held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for (process, event) in (1..=2).zip(1..) {
            held.write_all(LINE_START).unwrap();
            let mut sink = never_rotated(&path);
            sink.connect().unwrap();
            sink.deliver(&delivery(event..=event)).unwrap();
            let lines = io::BufReader::new(held.try_clone().unwrap()).lines().map(Result::unwrap);
            let whole = lines.filter(|line| line.ends_with('}')).take(1).collect::<String>();
            assert_eq!(positions(&whole), [event], "process {process}: {whole}");
        }
    }

    #[test]
    fn a_fifo_waits_for_its_reader_and_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut sink = never_rotated(&path);
        // Does not wait: the server must be able to start.
        assert_eq!(sink.connect(), Ok(None));
        let (results, delivered) = mpsc::channel();
        let writer = thread::spawn(move || {
            results.send(sink.deliver(&delivery(1..=2))).unwrap();
            // Far more than a pipe holds: the reader goes in the middle of it.
            results.send(sink.deliver(&delivery(3..=50_000))).unwrap();
            sink.connect().unwrap();
            results.send(sink.deliver(&delivery(3..=5))).unwrap();
        });
        assert!(delivered.try_recv().is_err(), "nobody reads yet");
        {
            let mut reader = fs::File::open(&path).unwrap();
            assert_eq!(delivered.recv_timeout(PATIENCE), Ok(Ok(())));
            let mut some = [0; 1000];
            reader.read_exact(&mut some).unwrap();
            assert!(some.trim_ascii_start().starts_with(LINE_START));
        }
        retry(delivered.recv_timeout(PATIENCE).unwrap());
        let mut text = String::new();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(delivered.recv_timeout(PATIENCE), Ok(Ok(())));
        assert_eq!(positions(&text), [3, 4, 5]);
        writer.join().unwrap();
    }
}
