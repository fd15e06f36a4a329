//! `wal verify`: each corrupt place of the log.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Failure, print};
use crate::counted::Counted;
use crate::wal::{Damage, Inspection};

/// Prints what was found. `Ok`: nothing is corrupt.
pub(super) fn run(found: &Inspection, json: bool) -> Result<(), Failure> {
    print(&if json { self::json(found) } else { text(found) })?;
    match places(found).count() {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 place of the log is corrupt; readers skip it".to_owned())),
        count => Err(Failure::Failed(format!("{count} places of the log are corrupt; readers skip them"))),
    }
}

/// The file of each corrupt place, and the place.
fn places(found: &Inspection) -> impl Iterator<Item = (&str, &Damage)> {
    found.segments.iter().flat_map(|segment| segment.damaged.iter().map(|damage| (segment.file.as_str(), damage)))
}

fn records(found: &Inspection) -> u64 {
    found.segments.iter().map(|segment| segment.records).sum()
}

fn text(found: &Inspection) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    for (file, damage) in places(found) {
        let bytes = damage.bytes.end - damage.bytes.start;
        let (bytes, are) = (Counted(bytes, "byte"), if bytes == 1 { "is" } else { "are" });
        let _ = write!(text, "{file} at {}: {bytes} {are} corrupt", damage.bytes.start);
        if !damage.positions.is_empty() {
            let _ = write!(text, ", positions {} to {}", damage.positions.start, damage.positions.end - 1);
        }
        text.push('\n');
    }
    let segments = Counted(found.segments.len() as u64, "segment");
    let _ = writeln!(text, "{segments}, {}", Counted(records(found), "valid record"));
    text
}

fn json(found: &Inspection) -> String {
    let corrupt: Vec<Value> = places(found).map(|(file, damage)| place(file, damage)).collect();
    let document = json!({ "segments": found.segments.len(), "valid_records": records(found), "corrupt": corrupt });
    format!("{document}\n")
}

/// A corrupt place; positions are `null` where none are lost, or they are not known.
pub(super) fn place(file: &str, damage: &Damage) -> Value {
    let positions = (!damage.positions.is_empty()).then(|| (damage.positions.start, damage.positions.end - 1));
    json!({
        "file": file,
        "offset": damage.bytes.start,
        "bytes": damage.bytes.end - damage.bytes.start,
        "first_position": positions.map(|(first, _)| first),
        "last_position": positions.map(|(_, last)| last),
    })
}
