//! What a start does with the log that it finds.
//!
//! ```text
//!  older segments: headers only        the newest segment, and back to the newest valid marks: every byte
//!  ┌──────────┐ ┌──────────┐ ┌─ marks ─┬─ records ─┬▒ skipped ▒┬─ records ─┬▒ tail ▒┬ 0 0 0 ┐
//!  └──────────┘ └──────────┘ └─────────┴───────────┴───────────┴───────────┴────────┴───────┘
//!                                      next position = end (+ 2^24 and more, if anything was cut or skipped)
//! ```
//!
//! In this order, so that it may crash between any two steps and is then right the next time:
//! 1. look at everything, change nothing: errors leave the log as it is;
//! 2. write again and sync what may be in memory only, for after a failed sync a clean page may lie;
//! 3. keep the tail aside (as far as the disk lets);
//! 4. begin a new segment: from here on the next position is durable;
//! 5. cut old files to their end, remove those without events.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::marks::{AgentMark, MarkTable};
use super::reader::{Log, Segment};
use super::record::{Content, Encoder};
use super::scan::{Scan, Step};
use super::segment::{self, Header, Name};
use super::storage::{Storage, StorageFile, read_full_at, write_all_at};
use super::writer::{Begin, Writer};
use super::{Settings, segment_id};
use crate::counted::Counted;
use crate::ids::{new_uuid, uuid};
use crate::limits::{WAL_DAMAGED_BYTES_MAX, WAL_POSITION_JUMP, WAL_READ_BYTES};
use crate::random::Random;

/// Folder of what recovery cut off.
const DAMAGED: &str = "damaged";
/// Damaged places that a report names; the rest is counted.
const REPORTED_MAX: usize = 16;

/// An open log.
pub struct Opened {
    /// Names this log; created with it.
    pub server_id: [u8; 16],
    /// Appends to the log.
    pub writer: Writer,
    /// What readers share with the writer.
    pub log: Arc<Log>,
    /// Every agent's mark, in no order.
    pub marks: Vec<AgentMark>,
    /// What was found, and what was changed.
    pub report: Report,
}

/// Why there is no log to work with. Nothing was changed, except by [`OpenError::Storage`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A call of the file system failed.
    #[error("cannot {action} in the log {}: {error}", dir.display())]
    Storage {
        /// What was tried, as a verb.
        action: &'static str,
        /// Directory of the log.
        dir: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// A segment of another format.
    #[error(
        "{} has format {version}, this telemetryx writes format {}: start the version that wrote it", file.display(), segment::VERSION
    )]
    Version {
        /// The segment.
        file: PathBuf,
        /// The version in its header.
        version: u16,
    },
    /// A segment of another log.
    #[error(
        "{} is of the log of server {found}, the others are of {}: two logs were mixed; move the files of one out of \
         the directory", file.display(), expected
    )]
    OtherServer {
        /// The segment.
        file: PathBuf,
        /// Id of the log that it belongs to.
        found: String,
        /// Id of the log that the other segments belong to.
        expected: String,
    },
    /// A segment whose name and header differ.
    #[error("{} was renamed: its header says that it is {expected}; give it its name back", file.display())]
    Renamed {
        /// The segment, with its present name.
        file: PathBuf,
        /// The name that it had.
        expected: String,
    },
}

/// What recovery found; `Display` is for a log line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments kept, the new one included.
    pub segments: usize,
    /// Position of the next event.
    pub next_position: u64,
    /// Agents whose marks are known.
    pub agents: usize,
    /// Tails that were not records. Their events were not acknowledged as synced, or their disk is faulty.
    pub cuts: Vec<Cut>,
    /// Corrupt places with valid records after them; the first few, all of them counted in `skipped`.
    pub skips: Vec<Skip>,
    /// Number of corrupt places with valid records after them.
    pub skipped: usize,
    /// No table of marks is valid: agents whose frames are no longer in the log may have resends stored twice.
    pub marks_lost: bool,
}

/// Bytes that were cut off the end of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Name of the segment.
    pub file: String,
    /// Where in the segment they began.
    pub offset: u64,
    /// How many there were.
    pub bytes: u64,
    /// Where the bytes are now, or why they are gone.
    pub kept: Result<String, String>,
}

/// Corrupt bytes that stay in the log and are skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Name of the segment.
    pub file: String,
    /// Where in the segment they begin.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

impl Report {
    /// Whether everything that was ever written is there.
    pub fn is_clean(&self) -> bool {
        self.cuts.is_empty() && self.skipped == 0 && !self.marks_lost
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Counted(self.segments as u64, "segment"))?;
        for Cut { file, offset, bytes, kept } in &self.cuts {
            let bytes = Counted(*bytes, "byte");
            write!(f, "; cut {bytes} off {file} at {offset}, ")?;
            match kept {
                Ok(name) => write!(f, "kept in {name}")?,
                Err(error) => write!(f, "not kept: {error}")?,
            }
        }
        if !self.cuts.is_empty() && self.skipped == 0 && !self.marks_lost {
            f.write_str("; nothing that was acknowledged as synced was in it: the server was killed during a write")?;
        }
        if self.skipped > 0 {
            write!(f, "; skipped {}", Counted(self.skipped as u64, "damaged place"))?;
        }
        for Skip { file, offset, bytes } in &self.skips {
            write!(f, ", {} of {file} at {offset}", Counted(*bytes, "byte"))?;
        }
        if self.marks_lost {
            f.write_str("; no table of marks is valid, only the marks of the records are used")?;
        }
        Ok(())
    }
}

/// A segment that was there.
struct Old {
    name: Name,
    bytes: u64,
    header: Option<Header>,
    /// No byte of a header: it was being begun when the disk was full, or the process ended.
    never_begun: bool,
    /// Of those whose every byte is looked at.
    survey: Option<Survey>,
}

/// What a segment holds, every byte looked at.
#[derive(Default)]
struct Survey {
    /// End of the last valid record.
    end: u64,
    /// The position after the last valid record.
    sound_position: u64,
    /// Behind the last position that the segment can have used.
    end_position: u64,
    /// Up to here it was synced when its last valid record was appended.
    synced_bytes: u64,
    server_id: Option<[u8; 16]>,
    events: u64,
    skips: Vec<Range<u64>>,
    tail: Option<Range<u64>>,
}

/// Refuses what this version cannot continue: segments by name, with their headers.
pub(super) fn check_headers(dir: &Path, segments: impl Iterator<Item = (Name, Header)>) -> Result<(), OpenError> {
    let mut server_id = None;
    for (name, header) in segments {
        let file = dir.join(name.to_string());
        if header.version != segment::VERSION {
            return Err(OpenError::Version { file, version: header.version });
        }
        let expected = *server_id.get_or_insert(header.server_id);
        if header.server_id != expected {
            let (found, expected) = (uuid(&header.server_id), uuid(&expected));
            return Err(OpenError::OtherServer { file, found, expected });
        }
        let named = Name { first_position: header.first_position, id: header.segment_id, ..name };
        if named != name {
            return Err(OpenError::Renamed { file, expected: named.to_string() });
        }
    }
    Ok(())
}

/// Opens or creates the log. `now_unix_nano` is when a new segment is created.
pub fn open(
    settings: &Settings,
    storage: Arc<dyn Storage>,
    random: &mut Random,
    now_unix_nano: u64,
) -> Result<Opened, OpenError> {
    let recovery = Recovery { settings, storage: &*storage };
    let mut old = recovery.list()?;
    let mut marks = MarkTable::new(settings.max_agents, settings.dedupe_retention);
    check_headers(&settings.dir, old.iter().filter_map(|old| Some((old.name, old.header?))))?;
    let first = recovery.newest_marks(&old, &mut marks)?;
    let mut report = Report { marks_lost: first.is_none() && !old.is_empty(), ..Report::default() };

    let failed = |action| recovery.failed(action);
    // The last one is always looked at, and none begins behind it.
    let (mut sound_position, mut next_position) = (1, 1);
    let mut lost_bytes = 0;
    for old in old.iter_mut().skip(first.unwrap_or(0)) {
        let survey = recovery.survey(old, &mut marks)?;
        sound_position = sound_position.max(survey.sound_position);
        next_position = next_position.max(survey.end_position);
        lost_bytes += survey.skips.iter().chain(&survey.tail).map(|bytes| bytes.end - bytes.start).sum::<u64>();
        report.skipped += survey.skips.len();
        let skip = |bytes: &Range<u64>| Skip {
            file: old.name.to_string(),
            offset: bytes.start,
            bytes: bytes.end - bytes.start,
        };
        report.skips.extend(survey.skips.iter().take(REPORTED_MAX.saturating_sub(report.skips.len())).map(skip));
        old.survey = Some(survey);
    }
    if lost_bytes > 0 {
        // Every event takes a byte at least.
        next_position += lost_bytes.max(WAL_POSITION_JUMP);
    }
    let server_id = recovery.server_id(&old)?.unwrap_or_else(|| new_uuid(random));

    for old in &old {
        recovery.write_again(old)?;
    }
    for old in &old {
        report.cuts.extend(recovery.keep_aside(old));
    }

    let mut encoder = Encoder::default();
    marks.sweep();
    encoder.marks(marks.iter());
    let number = old.iter().map(|old| old.name.number).max().unwrap_or(0) + 1;
    let name = Name { first_position: next_position, number, id: segment_id(random) };
    let begin = Begin {
        storage: &*storage,
        server_id,
        name,
        created_unix_nano: now_unix_nano,
        // What was cut off a tail has no event any more, either.
        left_out: next_position - sound_position.min(left_out_from(&old, next_position)),
        bytes: settings.segment_bytes,
    };
    let begun = begin.write(&mut encoder).map_err(failed("begin a segment"))?;

    let older = recovery.tidy(old, next_position)?;
    report.segments = older.len() + 1;
    report.next_position = next_position;
    report.agents = marks.len();
    let marks_now = marks.iter().copied().collect();
    let writer_random = Random::seeded(random.next_u64());
    let (writer, log) = Writer::new(settings.clone(), storage.clone(), server_id, writer_random, marks, older, begun);
    Ok(Opened { server_id, writer, log, marks: marks_now, report })
}

/// Where what was left out begins before the segments at the end that have no events and will be removed; else `next`.
fn left_out_from(old: &[Old], next: u64) -> u64 {
    let is_empty = |old: &&Old| old.survey.as_ref().is_some_and(|survey| survey.events == 0 && survey.skips.is_empty());
    let begins = |old: &Old| old.header.map(|header| header.first_position.saturating_sub(header.left_out));
    old.iter().rev().take_while(is_empty).filter_map(begins).min().unwrap_or(next)
}

struct Recovery<'a> {
    settings: &'a Settings,
    storage: &'a dyn Storage,
}

impl Recovery<'_> {
    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> OpenError + use<> {
        let dir = self.settings.dir.clone();
        move |error| OpenError::Storage { action, dir: dir.clone(), error }
    }

    fn open(&self, old: &Old) -> Result<Arc<dyn StorageFile>, OpenError> {
        self.storage.open(&old.name.to_string()).map_err(self.failed("open a segment"))
    }

    /// The segments in order, with their headers.
    fn list(&self) -> Result<Vec<Old>, OpenError> {
        let files = self.storage.list("").map_err(self.failed("list the segments"))?;
        let mut old: Vec<_> = files
            .iter()
            .filter_map(|(file, bytes)| {
                let name = Name::parse(file)?;
                Some(Old { name, bytes: *bytes, header: None, never_begun: false, survey: None })
            })
            .collect();
        old.sort_unstable_by_key(|old| old.name);
        for old in &mut old {
            let mut bytes = [0; segment::HEADER_BYTES];
            read_full_at(&*self.open(old)?, &mut bytes, 0).map_err(self.failed("read a segment's header"))?;
            old.header = Header::decode(&bytes);
            old.never_begun = bytes.iter().all(|byte| *byte == 0);
        }
        Ok(old)
    }

    /// Whose log it is, by any valid header of a segment or a record.
    fn server_id(&self, old: &[Old]) -> Result<Option<[u8; 16]>, OpenError> {
        if let Some(header) = old.iter().find_map(|old| old.header) {
            return Ok(Some(header.server_id));
        }
        for old in old {
            let mut scan = Scan::new(self.open(old)?, &old.name);
            loop {
                match scan.next(old.bytes).map_err(self.failed("read a segment"))? {
                    Step::Record(found) => return Ok(Some(found.header.server_id)),
                    Step::Gap { .. } => {}
                    Step::End { .. } => break,
                }
            }
        }
        Ok(None)
    }

    /// Index of the newest segment whose marks are valid; they are in `marks` then. Also those of a segment without a
    /// header: the one before it is not written any more once marks are in it.
    fn newest_marks(&self, old: &[Old], marks: &mut MarkTable) -> Result<Option<usize>, OpenError> {
        for (index, old) in old.iter().enumerate().rev() {
            let mut scan = Scan::new(self.open(old)?, &old.name);
            if let Step::Record(found) = scan.next(old.bytes).map_err(self.failed("read a segment's marks"))?
                && let Content::Marks(table) = found.content
            {
                marks.replace(table);
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Looks at every byte of a segment and counts its valid records in `marks`.
    fn survey(&self, old: &Old, marks: &mut MarkTable) -> Result<Survey, OpenError> {
        let failed = self.failed("read a segment");
        let mut scan = Scan::new(self.open(old)?, &old.name);
        let begin = scan.offset();
        let sound_position = scan.position();
        let mut survey = Survey { end: begin, synced_bytes: begin, sound_position, ..Survey::default() };
        // Begin of what is no sound record, until one follows.
        let mut damage = None;
        loop {
            let found = match scan.next(old.bytes).map_err(&failed)? {
                Step::Record(found) => found,
                Step::Gap { bytes, .. } => {
                    damage.get_or_insert(bytes.start);
                    continue;
                }
                Step::End { torn } => {
                    let tail_end = torn.map_or(scan.offset(), |torn| torn.end);
                    survey.tail =
                        damage.or(Some(survey.end)).map(|begin| begin..tail_end).filter(|tail| !tail.is_empty());
                    survey.end_position = scan.position();
                    return Ok(survey);
                }
            };
            if scan.payload(&found).map_err(&failed)?.is_none() {
                damage.get_or_insert(found.offset);
                continue;
            }
            survey.skips.extend(damage.take().map(|begin| begin..found.offset));
            survey.end = found.end();
            survey.sound_position = found.header.end_position();
            survey.synced_bytes = found.header.synced_bytes().min(found.end());
            survey.server_id = Some(found.header.server_id);
            survey.events += found.header.events();
            if let Content::Commit(runs) = &found.content {
                marks.apply_all(found.header.first_position(), runs);
            }
        }
    }

    /// After a failed sync what is read may be in memory only, and a sync of a page that looks clean does nothing.
    fn write_again(&self, old: &Old) -> Result<(), OpenError> {
        let Some(survey) = &old.survey else { return Ok(()) };
        let file = self.open(old)?;
        let mut buffer = vec![0; WAL_READ_BYTES];
        let mut offset = survey.synced_bytes;
        while offset < survey.end {
            let bytes = (survey.end - offset).min(buffer.len() as u64) as usize;
            let Some(part) = buffer.get_mut(..bytes) else { break };
            let read = read_full_at(&*file, part, offset).map_err(self.failed("read a segment"))?;
            let (_, written) = write_all_at(&*file, &mut [IoSlice::new(part.get(..read).unwrap_or_default())], offset);
            written.map_err(self.failed("write the last record again"))?;
            offset += bytes as u64;
        }
        file.sync_data().map_err(self.failed("sync the last record"))
    }

    /// Copies a tail that will be cut; a disk that does not let it must not keep the server from starting.
    fn keep_aside(&self, old: &Old) -> Option<Cut> {
        let tail = old.survey.as_ref()?.tail.clone()?;
        let file = old.name.to_string();
        let copy = format!("{DAMAGED}/{}-{}", file.trim_end_matches(".seg"), tail.start);
        let bytes = tail.end - tail.start;
        let kept = self.copy_tail(old, &tail, &copy).map(|()| copy).map_err(|error| error.to_string());
        Some(Cut { file, offset: tail.start, bytes, kept })
    }

    fn copy_tail(&self, old: &Old, tail: &Range<u64>, copy: &str) -> io::Result<()> {
        let mut kept = self.storage.list(DAMAGED)?;
        kept.sort_unstable();
        let mut total: u64 = tail.end - tail.start + kept.iter().map(|(_, bytes)| bytes).sum::<u64>();
        for (name, bytes) in kept {
            if total > WAL_DAMAGED_BYTES_MAX {
                self.storage.remove(&format!("{DAMAGED}/{name}"))?;
                total -= bytes;
            }
        }
        let from = self.storage.open(&old.name.to_string())?;
        let to = self.storage.create(copy, 0)?;
        let mut buffer = vec![0; WAL_READ_BYTES];
        let mut offset = tail.start;
        while offset < tail.end {
            let bytes = (tail.end - offset).min(buffer.len() as u64) as usize;
            let Some(part) = buffer.get_mut(..bytes) else { break };
            read_full_at(&*from, part, offset)?;
            write_all_at(&*to, &mut [IoSlice::new(part)], offset - tail.start).1?;
            offset += bytes as u64;
        }
        to.sync_data()
    }

    /// Cuts what was surveyed to its end and removes what holds no events. Returns what is left.
    fn tidy(&self, old: Vec<Old>, next_position: u64) -> Result<Vec<Segment>, OpenError> {
        let mut left = Vec::with_capacity(old.len() + 1);
        // Backwards, for an older segment holds the positions up to the next one that is left.
        let mut next_begins = next_position;
        for old in old.into_iter().rev() {
            let survey = match old.survey {
                None if old.never_begun => Some(self.survey(&old, &mut MarkTable::new(0, Duration::ZERO))?),
                surveyed => surveyed,
            };
            let empty = match &survey {
                Some(survey) => survey.events == 0 && survey.skips.is_empty(),
                None => old.name.first_position == next_begins,
            };
            if empty {
                self.storage.remove(&old.name.to_string()).map_err(self.failed("remove an empty segment"))?;
                continue;
            }
            let bytes = match &survey {
                Some(survey) => {
                    let file = self.storage.open(&old.name.to_string()).map_err(self.failed("open a segment"))?;
                    file.truncate(survey.end).map_err(self.failed("cut a segment"))?;
                    survey.end
                }
                None => old.bytes,
            };
            next_begins = old.name.first_position;
            let (created_unix_nano, left_out) =
                old.header.map_or((0, 0), |header| (header.created_unix_nano, header.left_out));
            left.push(Segment { name: old.name, created_unix_nano, bytes, left_out });
        }
        left.reverse();
        Ok(left)
    }
}
