//! `wal inspect`: the log at a glance, for people and for scripts.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::super::table::{Column, Table};
use super::super::terminal::fit;
use super::positions::{Position, SinkPosition};
use super::verify;
use crate::escape::escape;
use crate::event::rfc3339;
use crate::ids::{hex, uuid};
use crate::wal::{AgentMark, Inspection};

/// Hexadecimal digits of an agent's id that tell agents of the same name apart.
const ID_DIGITS: usize = 8;

/// `agents`: how many are shown. `columns`: of the terminal; `None`: nothing is cut.
pub(super) fn text(
    dir: &Path,
    found: &Inspection,
    agents: usize,
    sinks: &[SinkPosition],
    columns: Option<usize>,
) -> String {
    let mut text = String::new();
    let log = format!("log {}", dir.display());
    text += &columns.map_or(log.as_str().into(), |columns| fit(&log, columns));
    text.push('\n');
    // Writing into a String cannot fail.
    if let Some(id) = &found.server_id {
        let _ = writeln!(text, "server {}", uuid(id));
    }
    let (oldest, next) = (found.oldest_position(), found.next_position());
    let _ = writeln!(text, "oldest position {oldest}, next {next}\n");
    text += &segments(found).render(columns);
    text.push('\n');

    let marks = newest_first(found);
    text += &agents_table(found, marks.get(..agents).unwrap_or(&marks)).render(columns);
    if let Some(more) = marks.len().checked_sub(agents).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more: --agents shows all");
    }

    text.push('\n');
    text += &sinks_table(sinks).render(columns);
    for sink in sinks {
        let _ = match &sink.position {
            Position::Unknown(why) => writeln!(text, "sink {}: position unknown: {}", sink.sink, escape(why)),
            Position::Stored(_) | Position::NotAsked => Ok(()),
        };
    }
    if sinks.iter().any(|sink| sink.position == Position::NotAsked) {
        text += "not asked: --connect reads the position from the store\n";
    }
    text
}

fn segments(found: &Inspection) -> Table<5> {
    let mut table = Table::new([
        Column::flexible("segment", 20),
        Column::number("first position"),
        Column::number("events"),
        Column::number("bytes"),
        Column::number("corrupt"),
    ]);
    for segment in &found.segments {
        let numbers = [segment.first_position, segment.events, segment.bytes, segment.damaged.len() as u64];
        let [first, events, bytes, corrupt] = numbers.map(|number| number.to_string());
        table.row([segment.file.clone(), first, events, bytes, corrupt]);
    }
    table
}

fn newest_first(found: &Inspection) -> Vec<&AgentMark> {
    let mut marks: Vec<&AgentMark> = found.marks.iter().collect();
    marks.sort_unstable_by_key(|mark| (std::cmp::Reverse(mark.last_seen_unix_nano), mark.agent_id));
    marks
}

fn agents_table(found: &Inspection, marks: &[&AgentMark]) -> Table<4> {
    let mut table = Table::new([
        Column::flexible("agent", 16),
        Column::number("epoch"),
        Column::number("last seq"),
        Column::text("last seen"),
    ]);
    let mut namesakes: HashMap<&str, u32> = HashMap::new();
    for name in found.marks.iter().filter_map(|mark| found.names.get(&mark.agent_id)) {
        *namesakes.entry(name).or_default() += 1;
    }
    for mark in marks {
        let id = hex(&mark.agent_id);
        let agent = match found.names.get(&mark.agent_id).filter(|name| !name.is_empty()) {
            Some(name) if namesakes.get(name.as_str()).is_some_and(|count| *count > 1) => {
                format!("{} ({})", escape(name), id.get(..ID_DIGITS).unwrap_or_default())
            }
            Some(name) => escape(name).into_owned(),
            None => id,
        };
        table.row([agent, mark.epoch.to_string(), mark.last_seq.to_string(), to_the_second(mark.last_seen_unix_nano)]);
    }
    table
}

fn sinks_table(sinks: &[SinkPosition]) -> Table<3> {
    let mut table =
        Table::new([Column::flexible("sink", 8), Column::number("position"), Column::number("events behind")]);
    for sink in sinks {
        let position = match &sink.position {
            Position::Stored(0) => "-".to_owned(),
            Position::Stored(position) => position.to_string(),
            Position::NotAsked => "not asked".to_owned(),
            Position::Unknown(_) => "unknown".to_owned(),
        };
        let behind = sink.events_behind.map_or_else(|| "-".to_owned(), |events| events.to_string());
        table.row([sink.sink.clone(), position, behind]);
    }
    table
}

/// One document and a newline.
pub(super) fn json(dir: &Path, found: &Inspection, sinks: &[SinkPosition]) -> String {
    let segments: Vec<Value> = found
        .segments
        .iter()
        .map(|segment| {
            let corrupt: Vec<_> = segment.damaged.iter().map(|damage| verify::place(&segment.file, damage)).collect();
            json!({
                "file": segment.file,
                "first_position": segment.first_position,
                "end_position": segment.end_position,
                "events": segment.events,
                "records": segment.records,
                "bytes": segment.bytes,
                "corrupt": corrupt,
            })
        })
        .collect();
    let agents: Vec<Value> = newest_first(found)
        .into_iter()
        .map(|mark| {
            json!({
                "agent_id": hex(&mark.agent_id),
                "name": found.names.get(&mark.agent_id),
                "epoch": mark.epoch,
                "last_seq": mark.last_seq,
                "last_seen": String::from_utf8_lossy(&rfc3339::format(mark.last_seen_unix_nano)),
            })
        })
        .collect();
    let sinks: Vec<Value> = sinks.iter().map(sink_json).collect();
    let document = json!({
        "directory": dir.display().to_string(),
        "server_id": found.server_id.as_ref().map(uuid),
        "oldest_position": found.oldest_position(),
        "next_position": found.next_position(),
        "segments": segments,
        "agents": agents,
        "sinks": sinks,
    });
    format!("{document}\n")
}

fn sink_json(sink: &SinkPosition) -> Value {
    let (position, asked, error) = match &sink.position {
        Position::Stored(position) => (Some(position), true, None),
        Position::NotAsked => (None, false, None),
        Position::Unknown(why) => (None, true, Some(why)),
    };
    json!({
        "sink": sink.sink,
        "position": position,
        "events_behind": sink.events_behind,
        "asked": asked,
        "error": error,
    })
}

fn to_the_second(unix_nano: u64) -> String {
    String::from_utf8_lossy(rfc3339::format(unix_nano).get(..19).unwrap_or_default()).into_owned() + "Z"
}

#[cfg(test)]
mod tests {
    use super::super::super::terminal::width;
    use super::*;
    use crate::wal::{Damage, InspectedSegment, Place};

    fn mark(id: u8, last_seen: u64) -> AgentMark {
        AgentMark {
            agent_id: [id; 16],
            epoch: 1_790_000_000_000_000,
            last_seq: u64::from(id),
            last_crc: None,
            last_position: 0,
            last_seen_unix_nano: last_seen,
            has_frames: true,
        }
    }

    fn inspection() -> Inspection {
        let file = "00000000000000000001-0000000001-9f3c51d2aa07e4b8.seg".to_owned();
        let place = Place::Record;
        let damaged = vec![
            Damage { bytes: 500..600, positions: 7..9, place },
            Damage { bytes: 900..901, positions: 0..0, place },
        ];
        let mut segment = InspectedSegment::begun(file, 134_217_728, 1);
        (segment.end_position, segment.events, segment.records) = (4_000_001, 4_000_000, 4_000);
        segment.damaged = damaged;
        Inspection {
            server_id: Some([1; 16]),
            segments: vec![segment],
            marks: vec![mark(1, 1), mark(2, 2), mark(3, 3), mark(4, 4)],
            names: HashMap::from([
                ([1; 16], "checkout".to_owned()),
                ([2; 16], "api".to_owned()),
                ([3; 16], "api".to_owned()),
            ]),
            marks_lost: false,
            refused: None,
        }
    }

    fn sinks() -> Vec<SinkPosition> {
        let sink =
            |sink: &str, position, events_behind| SinkPosition { sink: sink.to_owned(), position, events_behind };
        vec![
            sink("sqlite", Position::Stored(3_000_000), Some(1_000_000)),
            sink("new", Position::Stored(0), Some(4_000_000)),
            sink("pg", Position::NotAsked, None),
            sink("redis", Position::Unknown("refused \u{1b}[2J".to_owned()), None),
        ]
    }

    #[test]
    fn the_overview_fits_the_terminal_and_shows_names() {
        let text = text(Path::new("d/wal"), &inspection(), 3, &sinks(), Some(80));
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
        let expected = "\
log d/wal
server 01010101-0101-0101-0101-010101010101
oldest position 1, next 4000001

segment                              first position   events      bytes  corrupt
00000000000000000001-0000000001-9f…               1  4000000  134217728        2

agent                                      epoch  last seq  last seen
04040404040404040404040404040…  1790000000000000         4  1970-01-01T00:00:00Z
api (03030303)                  1790000000000000         3  1970-01-01T00:00:00Z
api (02020202)                  1790000000000000         2  1970-01-01T00:00:00Z
and 1 more: --agents shows all

sink     position  events behind
sqlite    3000000        1000000
new             -        4000000
pg      not asked              -
redis     unknown              -
sink redis: position unknown: refused \\u001B[2J
not asked: --connect reads the position from the store
";
        assert_eq!(text, expected);
        let long =
            Path::new("/var/lib/a-directory/with-a-long-name/that-is-wider/than-a-terminal-of-eighty-columns/wal");
        for columns in [48, 80] {
            let text = super::text(long, &inspection(), 0, &[], Some(columns));
            let head: Vec<&str> = text.lines().take(3).collect();
            assert!(head.iter().all(|line| width(line) <= columns) && head[0].ends_with('…'), "{text}");
        }
        let all = super::text(long, &inspection(), 9, &sinks(), None);
        assert!(all.starts_with(&format!("log {}\n", long.display())), "{all}");
        assert!(all.contains("checkout ") && all.contains("9f3c51d2aa07e4b8.seg ") && !all.contains('…'), "{all}");
    }

    #[test]
    fn the_document_has_all_of_it() {
        let document: Value = serde_json::from_str(&json(Path::new("d/wal"), &inspection(), &sinks())).unwrap();
        assert_eq!(document["next_position"], 4_000_001);
        assert_eq!(document["segments"][0]["corrupt"][0]["last_position"], 8);
        assert_eq!(document["segments"][0]["corrupt"][1]["first_position"], Value::Null);
        let agents = document["agents"].as_array().unwrap();
        let names: Vec<_> = agents.iter().map(|agent| agent["name"].as_str()).collect();
        assert_eq!(names, [None, Some("api"), Some("api"), Some("checkout")]);
        assert_eq!(agents[0]["agent_id"], "04".repeat(16));
        let expected = json!([
            {"sink": "sqlite", "position": 3_000_000, "events_behind": 1_000_000, "asked": true, "error": null},
            {"sink": "new", "position": 0, "events_behind": 4_000_000, "asked": true, "error": null},
            {"sink": "pg", "position": null, "events_behind": null, "asked": false, "error": null},
            {"sink": "redis", "position": null, "events_behind": null, "asked": true, "error": "refused \u{1b}[2J"},
        ]);
        assert_eq!(document["sinks"], expected);
    }
}
