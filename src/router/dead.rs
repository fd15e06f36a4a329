//! Dead letters: what a sink refuses (`dead/<sink>.ndjson`) and what the door refuses (`dead/door.ndjson`), one JSON
//! object a line. On disk before anyone is told that it was refused.
//!
//! The file is opened for each append, so that it may be renamed or removed beside a running server. Once it is larger
//! than `limits::DEAD_LETTERS_BYTES_MAX` the next append first drops the older half, and counts its lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prometheus::IntCounter;

use crate::event::json_out::write_base64;
use crate::event::{JsonRecord, rfc3339, write_json};
use crate::limits;
use crate::metrics::Metrics;
use crate::pipeline::batch::{Origin, Record};
use crate::sink::Refusal;

/// Name of the file for what the door refuses; no sink is called so.
pub const DOOR: &str = "door";

/// One line.
pub trait Letter {
    /// Appends a JSON object, without the end of the line.
    fn write(&self, out: &mut Vec<u8>);
}

/// An event that a sink refused: server_id, position, code, reason, and the event as the JSON that the door takes.
pub struct RefusedEvent<'a> {
    pub server_id: &'a str,
    pub record: Record<'a>,
    pub refusal: &'a Refusal,
}

/// A frame that the door refused, or of which it refused events (NACK).
pub struct RefusedFrame<'a> {
    pub origin: &'a Origin,
    pub seq: u64,
    /// Name of the NACK code.
    pub code: &'a str,
    pub reason: &'a str,
    /// As it was sent.
    pub payload: &'a [u8],
    pub received_unix_nano: u64,
}

/// Appends to one file.
#[derive(Debug)]
pub struct DeadLetters {
    folder: PathBuf,
    path: PathBuf,
    new_path: PathBuf,
    bytes_max: u64,
    dropped: IntCounter,
}

impl DeadLetters {
    /// `name`: of the sink, or [`DOOR`]. Makes no file before the first letter.
    pub fn new(data_dir: &Path, name: &str, metrics: &Metrics) -> Self {
        let folder = data_dir.join("dead");
        Self {
            path: folder.join(format!("{name}.ndjson")),
            new_path: folder.join(format!("{name}.ndjson.new")),
            folder,
            bytes_max: limits::DEAD_LETTERS_BYTES_MAX,
            dropped: metrics.events_dropped(name, "dead_letters_full"),
        }
    }

    /// Appends the letters; when it returns, they survive power loss. After an error none or some of them may be
    /// there, as whole lines: append them again.
    pub fn append<L: Letter>(&self, letters: impl IntoIterator<Item = L>) -> io::Result<()> {
        self.append_all(letters)
            .map_err(|error| io::Error::new(error.kind(), format!("dead letters {}: {error}", self.path.display())))
    }

    fn append_all<L: Letter>(&self, letters: impl IntoIterator<Item = L>) -> io::Result<()> {
        let mut letters = letters.into_iter().peekable();
        if letters.peek().is_none() {
            return Ok(());
        }
        let mut file = self.open()?;
        if file.metadata()?.len() > self.bytes_max {
            self.drop_older_half(&file)?;
            file = self.open()?;
        }
        let end = file.metadata()?.len();
        let written = write_lines(&mut file, letters).and_then(|()| file.sync_data());
        if written.is_err() {
            // No torn line stays in front of the next attempt; a full disk still lets a file shrink.
            let _ = file.set_len(end);
        }
        written
    }

    fn open(&self) -> io::Result<File> {
        let open = |create| OpenOptions::new().read(true).append(true).create_new(create).open(&self.path);
        let mut file = match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder)?;
                let file = open(true)?;
                File::open(&self.folder)?.sync_all()?;
                file
            }
            opened => opened?,
        };
        // A crash may have torn the last line: end it, so that it spoils no other.
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(file)
    }

    fn drop_older_half(&self, file: &File) -> io::Result<()> {
        let half = file.metadata()?.len() / 2;
        let mut old = BufReader::new(File::open(&self.path)?);
        let (mut passed, mut lines) = (0, 0);
        while passed < half {
            let bytes = old.skip_until(b'\n')?;
            if bytes == 0 {
                break;
            }
            passed += bytes as u64;
            lines += 1;
        }
        let mut new = BufWriter::new(File::create(&self.new_path)?);
        io::copy(&mut old, &mut new)?;
        new.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&self.new_path, &self.path)?;
        File::open(&self.folder)?.sync_all()?;
        self.dropped.inc_by(lines);
        Ok(())
    }
}

fn write_lines<L: Letter>(file: &mut File, letters: impl Iterator<Item = L>) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(limits::NDJSON_CHUNK_BYTES);
    for letter in letters {
        letter.write(&mut chunk);
        chunk.push(b'\n');
        if chunk.len() >= limits::NDJSON_CHUNK_BYTES {
            file.write_all(&chunk)?;
            chunk.clear();
        }
    }
    file.write_all(&chunk)
}

impl Letter for RefusedEvent<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let Self { server_id, record, refusal } = self;
        let position = record.position;
        // As in `write_string`.
        let _ = write!(out, r#"{{"server_id":"{server_id}","position":{position},"code":"#);
        write_string(&refusal.code, out);
        out.extend_from_slice(br#","reason":"#);
        write_string(cut(&refusal.reason), out);
        out.extend_from_slice(br#","event":"#);
        // With the source and time that the stores have, so that they are not lost when it is sent again.
        let (source, time_unix_nano) = (record.source(), record.time_unix_nano());
        write_json(&JsonRecord { source, time_unix_nano, ..JsonRecord::event(record.event) }, out);
        out.push(b'}');
    }
}

impl Letter for RefusedFrame<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        if let Some(agent) = &self.origin.agent {
            out.extend_from_slice(br#""agent":"#);
            write_string(agent, out);
            out.push(b',');
        }
        if let Some(id) = self.origin.agent_id {
            let _ = write!(out, r#""agent_id":"{:032x}","#, u128::from_be_bytes(id));
        }
        let _ = write!(out, r#""epoch":{},"seq":{},"code":"#, self.origin.epoch, self.seq);
        write_string(self.code, out);
        out.extend_from_slice(br#","reason":"#);
        write_string(cut(self.reason), out);
        out.extend_from_slice(br#","received_at":""#);
        out.extend_from_slice(&rfc3339::format(self.received_unix_nano));
        out.extend_from_slice(br#"","payload":""#);
        write_base64(self.payload, out);
        out.extend_from_slice(br#""}"#);
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// A store's words, no longer than they are worth.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(limits::REFUSAL_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.split_at(end).0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::proto::Event;
    use crate::sink::testing::{batch_of, delivery_of, named, origin};

    struct Text(String);

    impl Letter for Text {
        fn write(&self, out: &mut Vec<u8>) {
            write_string(&self.0, out);
        }
    }

    fn letters(dir: &Path, bytes_max: u64) -> DeadLetters {
        DeadLetters { bytes_max, ..DeadLetters::new(dir, "out", &Metrics::new().unwrap()) }
    }

    fn lines(dir: &Path) -> Vec<Value> {
        let text = fs::read_to_string(dir.join("dead/out.ndjson")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    #[test]
    fn the_file_is_made_on_first_use() {
        let dir = tempfile::tempdir().unwrap();
        let letters = letters(dir.path(), u64::MAX);
        letters.append(Vec::<Text>::new()).unwrap();
        assert!(!dir.path().join("dead").exists());
        letters.append([Text("a".into()), Text("b".into())]).unwrap();
        letters.append([Text("c".into())]).unwrap();
        assert_eq!(lines(dir.path()), ["a", "b", "c"]);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let letters = letters(dir.path(), u64::MAX);
        letters.append([Text("a".into())]).unwrap();
        fs::rename(dir.path().join("dead/out.ndjson"), dir.path().join("aside")).unwrap();
        letters.append([Text("b".into())]).unwrap();
        assert_eq!(lines(dir.path()), ["b"]);
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let letters = letters(dir.path(), u64::MAX);
        letters.append([Text("a".into())]).unwrap();
        let path = dir.path().join("dead/out.ndjson");
        fs::write(&path, "\"a\"\n\"tor").unwrap();
        letters.append([Text("b".into())]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"a\"\n\"tor\n\"b\"\n");
    }

    #[test]
    fn a_full_file_loses_its_older_half_and_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let letters = letters(dir.path(), 1_000);
        for number in 0..500 {
            letters.append([Text(format!("{number:04}"))]).unwrap();
            let bytes = fs::metadata(dir.path().join("dead/out.ndjson")).unwrap().len();
            assert!(bytes <= 1_000 + 7, "{bytes}");
        }
        let left = lines(dir.path());
        assert_eq!(left.len() as u64 + letters.dropped.get(), 500);
        let first = 500 - left.len();
        assert_eq!(left, (first..500).map(|number| json!(format!("{number:04}"))).collect::<Vec<_>>());
    }

    #[test]
    fn many_letters_are_more_than_one_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let letters = letters(dir.path(), u64::MAX);
        letters.append((0..20_000).map(|number| Text(format!("letter {number}")))).unwrap();
        assert_eq!(lines(dir.path()).len(), 20_000);
    }

    #[test]
    fn a_refused_event_can_be_sent_again_from_its_letter() {
        let dir = tempfile::tempdir().unwrap();
        let event = Event { body: "line\nnext \"quoted\"".into(), value: Some(1.5), ..named("cpu") };
        let delivery = delivery_of(batch_of(41, vec![vec![named("other"), event]]));
        let refusal = Refusal { position: 42, code: "22P02".into(), reason: "é".repeat(2_000) };
        let record = delivery.records().last().unwrap();
        letters(dir.path(), u64::MAX).append([RefusedEvent { server_id: "5e5e", record, refusal: &refusal }]).unwrap();
        let letter = &lines(dir.path())[0];
        assert_eq!(letter["server_id"], "5e5e");
        assert_eq!(letter["position"], 42);
        assert_eq!(letter["code"], "22P02");
        assert_eq!(letter["reason"], "é".repeat(512));
        assert_eq!(letter["event"]["name"], "cpu");
        assert_eq!(letter["event"]["body"], "line\nnext \"quoted\"");
        assert_eq!(letter["event"]["value"], 1.5);
    }

    #[test]
    fn a_refused_frame_is_kept_as_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let frame = |origin, payload| RefusedFrame {
            origin,
            seq: 3,
            code: "MALFORMED",
            reason: "no protobuf",
            payload,
            received_unix_nano: 1,
        };
        let agent = origin();
        let http = Origin { agent_id: None, agent: None, default_source: "127.0.0.1".into(), epoch: 0 };
        letters(dir.path(), u64::MAX).append([frame(&agent, b"\xff\x00\xfe\x01"), frame(&http, b"")]).unwrap();
        let expected = json!({
            "agent": "api",
            "agent_id": "a9".repeat(16),
            "epoch": 7,
            "seq": 3,
            "code": "MALFORMED",
            "reason": "no protobuf",
            "received_at": "1970-01-01T00:00:00.000000001Z",
            "payload": "/wD+AQ==",
        });
        assert_eq!(lines(dir.path())[0], expected);
        assert_eq!(lines(dir.path())[1]["agent"], Value::Null);
    }
}
