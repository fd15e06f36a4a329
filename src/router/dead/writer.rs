//! Appends dead letters.
//!
//! The file is opened and locked for each append, so that it may be renamed, removed or rewritten beside a running server.
//! Once it is larger than `limits::DEAD_LETTERS_BYTES_MAX` the next append first drops the older half, and counts its
//! lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::encoding::{WireType, encode_key, encode_varint};

use super::file::{beside, create_anew, give_mode_and_owner, locked};
use super::{folder as folder_of, path};
use crate::batch::{Origin, Record};
use crate::event::json_out::write_base64;
use crate::event::{AttributeValue, EventRef, JsonRecord, rfc3339, write_json};
use crate::ids::write_hex;
use crate::limits;
use crate::metrics::{IntCounter, Metrics};
use crate::sink::Refusal;
use crate::text::cut;
use crate::{descriptors, folder};

/// One line.
pub trait Letter {
    /// Appends a JSON object, without the end of the line.
    fn write(&self, out: &mut Vec<u8>);
}

/// An event that a sink refused: what the stores' row of it would have, code and reason. The event is the JSON that
/// `POST /v1/events` accepts; where JSON cannot express all of it, its encoded bytes are added.
pub struct RefusedEvent<'a> {
    /// The server that received the event, as a UUID.
    pub server_id: &'a str,
    /// The event, its position and its origin.
    pub record: Record<'a>,
    /// The store's code and message.
    pub refusal: &'a Refusal,
}

/// A frame that was rejected on receipt, as a whole or some of its events (NACK).
pub struct RefusedFrame<'a> {
    /// Where the frame came from.
    pub origin: &'a Origin,
    /// Sequence number of the frame; 0 over HTTP.
    pub seq: u64,
    /// Name of the NACK code.
    pub code: &'a str,
    /// Text of the NACK.
    pub reason: &'a str,
    /// As it was sent.
    pub payload: &'a [u8],
    /// When it was received: nanoseconds since 1970-01-01T00:00:00Z.
    pub received_unix_nano: u64,
}

/// Appends to one file.
#[derive(Debug)]
pub struct DeadLetters {
    /// The directory of all dead letters.
    pub(super) folder: PathBuf,
    /// The file that letters are appended to.
    pub(super) path: PathBuf,
    /// The name under which a shorter file is written before it replaces the other.
    pub(super) new_path: PathBuf,
    /// Bytes beyond which the next append first drops the older half.
    pub(super) bytes_max: u64,
    /// Counts the letters that were dropped.
    pub(super) dropped: IntCounter,
}

impl DeadLetters {
    /// `name`: of the sink, or [`INGEST`][super::INGEST]. Creates no file before the first letter.
    pub fn new(data_dir: &Path, name: &str, metrics: &Metrics) -> Self {
        let path = path(data_dir, name);
        Self {
            new_path: beside(&path, "new"),
            path,
            folder: folder_of(data_dir),
            bytes_max: limits::DEAD_LETTERS_BYTES_MAX,
            dropped: metrics.events_dropped(name, "dead_letters_full"),
        }
    }

    /// Appends the letters; when it returns, they survive power loss. After an error none or some of them may be
    /// there, as whole lines: append them again.
    pub fn append<L: Letter>(&self, letters: impl IntoIterator<Item = L>) -> io::Result<()> {
        self.append_all(letters)
            .map_err(|error| descriptors::with_context(format!("dead letters {}", self.path.display()), error))
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

    /// No other process changes the file before it is dropped.
    fn open(&self) -> io::Result<File> {
        let open = |create| OpenOptions::new().read(true).append(true).create_new(create).open(&self.path);
        let mut file = locked(&self.path, || match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                folder::make(&self.folder)?;
                let file = open(true)?;
                File::open(&self.folder)?.sync_all()?;
                Ok(file)
            }
            opened => opened,
        })?;
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
        let mut new = create_anew(&self.new_path)?;
        io::copy(&mut old, &mut new)?;
        // Where they may not be given away, the file is ours, and letters go on.
        let _ = give_mode_and_owner(file, &new);
        new.sync_all()?;
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
        let _ = write!(out, r#"{{"server_id":"{server_id}","position":{position},"received_at":""#);
        out.extend_from_slice(&rfc3339::format(record.received_unix_nano));
        out.push(b'"');
        if let Some(agent) = &record.origin.agent {
            out.extend_from_slice(br#","agent":"#);
            write_string(agent, out);
        }
        out.extend_from_slice(br#","code":"#);
        write_string(&refusal.code, out);
        out.extend_from_slice(br#","reason":"#);
        write_string(cut(&refusal.reason, limits::REFUSAL_REASON_BYTES_MAX), out);
        out.extend_from_slice(br#","event":"#);
        // With the source and time that the stores have, so that they are not lost when it is sent again.
        let (source, time_unix_nano) = (record.source(), record.time_unix_nano());
        write_json(&JsonRecord { source, time_unix_nano, ..JsonRecord::event(record.event) }, out);
        if !json_says_all(&record.event) {
            out.extend_from_slice(br#","encoded":""#);
            let mut batch = Vec::with_capacity(record.event.bytes().len() + ENCODED_ROOM_BYTES);
            encode_key(EVENT_OF_BATCH, WireType::LengthDelimited, &mut batch);
            encode_varint(record.event.bytes().len() as u64, &mut batch);
            batch.extend_from_slice(record.event.bytes());
            write_base64(&batch, out);
            out.push(b'"');
        }
        out.push(b'}');
    }
}

/// `events` in `EventBatch`.
const EVENT_OF_BATCH: u32 = 1;
/// Key and length of an event in a batch; source and time that an event gets in a letter.
const ENCODED_ROOM_BYTES: usize = 2 * limits::EVENT_NAME_BYTES_MAX;

/// Whether JSON in makes the same event of what JSON out writes. Bytes would come back as text, NaN and infinities among
/// the attributes too, an attribute without a value not at all; and what is written may be larger than an event may be, or have
/// more attributes: steps add some.
fn json_says_all(event: &EventRef<'_>) -> bool {
    event.bytes().len() + ENCODED_ROOM_BYTES <= limits::EVENT_BYTES_MAX
        && event.attributes().count() <= limits::EVENT_ATTRIBUTES_MAX
        && event.attributes().all(|(_, value)| match value {
            AttributeValue::Null | AttributeValue::Bytes(_) => false,
            AttributeValue::Double(number) => number.is_finite(),
            AttributeValue::String(_) | AttributeValue::Int(_) | AttributeValue::Bool(_) => true,
        })
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
            out.extend_from_slice(br#""agent_id":""#);
            write_hex(&id, out);
            out.extend_from_slice(br#"","#);
        }
        let _ = write!(out, r#""epoch":{},"seq":{},"code":"#, self.origin.epoch, self.seq);
        write_string(self.code, out);
        out.extend_from_slice(br#","reason":"#);
        write_string(cut(self.reason, limits::REFUSAL_REASON_BYTES_MAX), out);
        out.extend_from_slice(br#","received_at":""#);
        out.extend_from_slice(&rfc3339::format(self.received_unix_nano));
        out.extend_from_slice(br#"","payload":""#);
        write_base64(self.payload, out);
        out.extend_from_slice(br#""}"#);
    }
}

/// Appends a JSON string, with its quotes.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
