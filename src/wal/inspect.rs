//! A look at a log from outside: nothing is written, and a server may be at work on it.
//!
//! Corruption is reported only after a second look: what looked like it may have been a record that was being written
//! to the file.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::marks::{AgentMark, MarkTable};
use super::record::{Content, LoggedRun};
use super::recovery::check_headers;
use super::scan::{Scan, Step};
use super::segment::{self, Header, Name};
use super::storage::{Storage, read_full_at};
use crate::limits::AGENTS_LIMIT;

/// Between two looks: a record that was being written is written then, or its disk is in trouble.
const SECOND_LOOK: Duration = Duration::from_millis(300);

/// What is in a log.
#[derive(Debug)]
pub struct Inspection {
    /// `None`: nothing in the directory shows whose log it is.
    pub server_id: Option<[u8; 16]>,
    /// In order; the last one is being written, or was.
    pub segments: Vec<InspectedSegment>,
    /// In no order.
    pub marks: Vec<AgentMark>,
    /// Names of the agents of `marks`, the newest of each, where the log has a record of theirs.
    pub names: HashMap<[u8; 16], String>,
    /// No segment begins with a valid table of marks, though there are segments.
    pub marks_lost: bool,
    /// Why a start refuses the log, if it does.
    pub refused: Option<String>,
}

/// What was found in one segment.
#[derive(Debug)]
pub struct InspectedSegment {
    /// Its name, without the directory.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Position of its first event, by its name.
    pub first_position: u64,
    /// The position after its last event.
    pub end_position: u64,
    /// Events of valid records.
    pub events: u64,
    /// Valid commits; tables of marks are not counted.
    pub records: u64,
    /// Corrupt places, in order.
    pub damaged: Vec<Damage>,
    /// A start reads every byte of it.
    pub read_at_start: bool,
    /// Positions in it that belong to no event: of corrupt records, and those that a start left out. In order.
    pub without_events: Vec<Range<u64>>,
    header: Option<Header>,
    /// It begins with a valid table of marks.
    has_marks: bool,
}

/// Bytes that are not as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which bytes of the segment.
    pub bytes: Range<u64>,
    /// Positions that are lost with them, if the records around them show which; else empty.
    pub positions: Range<u64>,
    /// Where in the segment they are.
    pub place: Place,
}

/// Where in a segment corrupt bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The segment's header. Its name and records have the same information.
    Header,
    /// A valid record follows.
    Record,
    /// No valid record follows.
    Tail,
}

impl Inspection {
    /// Lowest position that the log has, or the next one if there are no events; 1 without segments.
    pub fn oldest_position(&self) -> u64 {
        self.segments.first().map_or(1, |segment| segment.first_position)
    }

    /// Position of the next event, as far as the log goes.
    pub fn next_position(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end_position).max().unwrap_or(1)
    }

    /// Events after a position. Positions count on where a start left some out, so their difference may be far more.
    pub fn events_after(&self, position: u64) -> u64 {
        let after = position.saturating_add(1)..u64::MAX;
        let count = |range: &Range<u64>| range.end.saturating_sub(range.start.max(after.start));
        let of_segment = |segment: &InspectedSegment| {
            let without: u64 = segment.without_events.iter().map(count).sum();
            count(&(segment.first_position..segment.end_position)).saturating_sub(without)
        };
        self.segments.iter().map(of_segment).sum()
    }
}

/// Looks through the log. With `payloads`, every byte is read; without, headers and tables only.
///
/// # Errors
/// The directory or a file in it cannot be read.
pub fn inspect(storage: &dyn Storage, payloads: bool) -> io::Result<Inspection> {
    let mut first = look(storage, payloads)?;
    if first.segments.iter().all(|segment| segment.damaged.is_empty()) {
        return Ok(first);
    }
    thread::sleep(SECOND_LOOK);
    let second = look(storage, payloads)?;
    let again: BTreeSet<_> = damages(&second).collect();
    let passed: BTreeSet<_> = damages(&first).filter(|place| !again.contains(place)).collect();
    for segment in &mut first.segments {
        segment.damaged.retain(|damage| !passed.contains(&(segment.file.clone(), damage.bytes.start)));
    }
    Ok(first)
}

fn damages(inspection: &Inspection) -> impl Iterator<Item = (String, u64)> {
    let places = |segment: &InspectedSegment| {
        let file = segment.file.clone();
        segment.damaged.iter().map(move |damage| (file.clone(), damage.bytes.start)).collect::<Vec<_>>()
    };
    inspection.segments.iter().flat_map(places)
}

fn look(storage: &dyn Storage, payloads: bool) -> io::Result<Inspection> {
    let mut names: Vec<_> = storage.list("")?.iter().filter_map(|(file, _)| Name::parse(file)).collect();
    names.sort_unstable();
    let mut marks = MarkTable::new(AGENTS_LIMIT, Duration::MAX);
    let mut inspection = Inspection {
        server_id: None,
        segments: Vec::new(),
        marks: Vec::new(),
        names: HashMap::new(),
        marks_lost: false,
        refused: None,
    };
    for name in names {
        match look_at(storage, &name, payloads, &mut marks, &mut inspection) {
            Ok(segment) => inspection.segments.push(segment),
            // The server has deleted it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
        }
    }
    inspection.marks = marks.iter().copied().collect();
    let known: BTreeSet<_> = inspection.marks.iter().map(|mark| mark.agent_id).collect();
    inspection.names.retain(|agent_id, _| known.contains(agent_id));
    let segments = &mut inspection.segments;
    // As recovery does: from the newest valid table of marks on.
    let first = segments.iter().rposition(|segment| segment.has_marks);
    segments.iter_mut().skip(first.unwrap_or(0)).for_each(|segment| segment.read_at_start = true);
    inspection.marks_lost = first.is_none() && !segments.is_empty();
    let headers = segments.iter().filter_map(|segment| Some((Name::parse(&segment.file)?, segment.header?)));
    inspection.refused = check_headers(Path::new(""), headers).err().map(|error| error.to_string());
    Ok(inspection)
}

fn look_at(
    storage: &dyn Storage,
    name: &Name,
    payloads: bool,
    marks: &mut MarkTable,
    inspection: &mut Inspection,
) -> io::Result<InspectedSegment> {
    let Inspection { server_id, names, .. } = inspection;
    let file = storage.open(&name.to_string())?;
    let bytes = file.bytes()?;
    let mut segment = InspectedSegment::begun(name.to_string(), bytes, name.first_position);
    let mut header = [0; segment::HEADER_BYTES];
    read_full_at(&*file, &mut header, 0)?;
    match Header::decode(&header) {
        Some(header) if header.version == segment::VERSION => {
            *server_id = Some(header.server_id);
            segment.header = Some(header);
        }
        Some(header) => {
            let reason = format!("has format {}, this telemetryx reads format {}", header.version, segment::VERSION);
            return Err(io::Error::new(ErrorKind::Unsupported, reason));
        }
        None => segment.damage(0..segment::HEADER_BYTES as u64, 0..0, Place::Header),
    }
    let mut scan = Scan::new(file, name);
    let mut next_position = name.first_position;
    loop {
        match scan.next(bytes)? {
            Step::Record(found) => {
                let positions = found.header.first_position()..found.header.end_position();
                if payloads && scan.payload(&found)?.is_none() {
                    // Until a valid record follows.
                    segment.damage(found.offset..found.end(), positions, Place::Tail);
                    continue;
                }
                segment.has_marks |=
                    found.offset == segment::HEADER_BYTES as u64 && matches!(found.content, Content::Marks(_));
                segment.damaged.iter_mut().filter(|damage| damage.place == Place::Tail).for_each(|damage| {
                    damage.place = Place::Record;
                });
                server_id.get_or_insert(found.header.server_id);
                segment.events += found.header.events();
                match found.content {
                    Content::Marks(table) => marks.replace(table),
                    Content::Commit(runs) => {
                        segment.records += 1;
                        segment
                            .without_events
                            .extend(Some(next_position..positions.start).filter(|gap| !gap.is_empty()));
                        next_position = positions.end;
                        marks.apply_all(positions.start, &runs);
                        runs.iter().for_each(|run| keep_name(names, run));
                    }
                }
            }
            Step::Gap { bytes, positions } => segment.damage(bytes, positions, Place::Tail),
            Step::End { torn } => {
                if let Some(bytes) = torn {
                    segment.damage(bytes, 0..0, Place::Tail);
                }
                segment.end_position = scan.position();
                segment.without_events.extend(Some(next_position..segment.end_position).filter(|gap| !gap.is_empty()));
                return Ok(segment);
            }
        }
    }
}

/// Notes the name that the agent of the run has now; of no more agents than a log may know.
fn keep_name(names: &mut HashMap<[u8; 16], String>, run: &LoggedRun) {
    let (Some(agent_id), Some(name)) = (run.origin.agent_id, &run.origin.agent) else { return };
    let known = names.get(&agent_id);
    if known == Some(name) || (known.is_none() && names.len() >= AGENTS_LIMIT) {
        return;
    }
    names.insert(agent_id, name.clone());
}

impl InspectedSegment {
    /// Nothing of it is read yet.
    pub(crate) fn begun(file: String, bytes: u64, first_position: u64) -> Self {
        Self {
            file,
            bytes,
            first_position,
            end_position: first_position,
            events: 0,
            records: 0,
            damaged: Vec::new(),
            read_at_start: false,
            without_events: Vec::new(),
            header: None,
            has_marks: false,
        }
    }

    fn damage(&mut self, bytes: Range<u64>, positions: Range<u64>, place: Place) {
        self.damaged.push(Damage { bytes, positions, place });
    }
}
