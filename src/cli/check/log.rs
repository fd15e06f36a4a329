//! The log in words: whether it is as it was written, and what a start will do where it is not.

use std::fmt::Write as _;
use std::path::Path;

use crate::counted::Counted;
use crate::wal::{Damage, InspectedSegment, Inspection, Place};

/// Corrupt places that are named; the rest is counted.
const NAMED_MAX: usize = 16;

/// Returns what to print about the log in `dir`, and whether all of it is as it was written.
pub(super) fn report(found: &Inspection, dir: &Path) -> (String, bool) {
    let places =
        || found.segments.iter().flat_map(|segment| segment.damaged.iter().map(move |damage| (segment, damage)));
    let (segments, corrupt) = (found.segments.len(), places().count());
    if corrupt == 0 && !found.marks_lost && found.refused.is_none() {
        return (format!("ok, {}, next position {}", Counted(segments as u64, "segment"), found.next_position()), true);
    }
    let mut text = match corrupt {
        0 => "not ok".to_owned(),
        1 => "1 corrupt place".to_owned(),
        _ => format!("{corrupt} corrupt places"),
    };
    // Writing into a String cannot fail.
    if let Some(refused) = &found.refused {
        let _ = write!(text, "\n  the server does not start: {refused}");
    }
    for (segment, damage) in places().take(NAMED_MAX) {
        let _ = write!(text, "\n  {}", place(segment, damage, dir));
    }
    if corrupt > NAMED_MAX {
        let _ = write!(text, "\n  and {} more: `telemetryx wal verify` names all", corrupt - NAMED_MAX);
    }
    if found.marks_lost {
        text += "\n  no table of agents is valid: frames that agents send again after a start may be stored twice";
    }
    (text, false)
}

fn place(segment: &InspectedSegment, damage: &Damage, dir: &Path) -> String {
    let (file, at) = (&segment.file, damage.bytes.start);
    let bytes = damage.bytes.end - damage.bytes.start;
    let events = match damage.positions.is_empty() {
        true => String::new(),
        false => format!(" (positions {} to {})", damage.positions.start, damage.positions.end - 1),
    };
    match damage.place {
        Place::Header => {
            format!(
                "{file}: the header is corrupt; the name and the records of the file are used instead, no event \
                     is lost"
            )
        }
        Place::Tail if segment.read_at_start => format!(
            "{file} at {at}: no valid record{events}; the next start cuts {bytes} bytes and keeps a copy in {}. What was \
             acknowledged as synced is not in them, unless the disk has changed it",
            dir.join("damaged").display()
        ),
        Place::Record | Place::Tail if damage.positions.is_empty() => {
            format!("{file} at {at}: {bytes} bytes are corrupt; the server skips them")
        }
        Place::Record | Place::Tail => format!(
            "{file} at {at}: {bytes} bytes are corrupt{events}; the server skips them, and sinks that do not have these \
             events will not get them"
        ),
    }
}
