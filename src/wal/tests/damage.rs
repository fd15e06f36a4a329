//! Torn tails, flipped bits, records inside of events: exactly the sound records are left, and what is not is told.

use std::ops::Range;
use std::sync::Arc;

use super::memory::{Loss, MemoryStorage};
use super::model::{frame, origin, payload, settings};
use crate::limits::WAL_POSITION_JUMP;
use crate::random::Random;
use crate::wal::record::{Content, Encoder, Place};
use crate::wal::scan::{Scan, Step};
use crate::wal::segment::Name;
use crate::wal::storage::Storage;
use crate::wal::{MissingReason, Opened, Read, Settings, open};

fn small() -> Settings {
    Settings { segment_bytes: 800, ..settings() }
}

fn start(storage: &MemoryStorage) -> Opened {
    start_with(storage, &small())
}

fn start_with(storage: &MemoryStorage, settings: &Settings) -> Opened {
    open(settings, Arc::new(storage.clone()), &mut Random::seeded(3), 5).unwrap()
}

/// `payloads` as one record each, two events a record.
fn log_of(payloads: &[Vec<u8>]) -> MemoryStorage {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    let agent = origin(1);
    for (index, payload) in payloads.iter().enumerate() {
        opened.writer.append(&[frame(&agent, index as u64 + 1, 2, payload)]).unwrap();
        opened.writer.sync().unwrap();
    }
    storage.restart(Loss::Everything);
    storage
}

/// A segment in which one record was, closed, and one with three.
fn two_segments() -> MemoryStorage {
    let storage = log_of(&(1..=5).map(|seq| payload(1, seq, 20)).collect::<Vec<_>>());
    let names = storage.segments();
    assert_eq!(names.iter().map(|name| commits(&storage, name).len()).collect::<Vec<_>>(), [3, 2]);
    storage
}

/// Place and first position of each commit in a segment.
fn commits(storage: &MemoryStorage, name: &str) -> Vec<(Range<usize>, u64)> {
    let mut scan = Scan::new(storage.open(name).unwrap(), &Name::parse(name).unwrap());
    let mut commits = Vec::new();
    while let Step::Record(found) = scan.next(storage.contents(name).len() as u64).unwrap() {
        if let Content::Commit(_) = found.content {
            commits.push((found.offset as usize..found.end() as usize, found.header.first_position()));
        }
    }
    commits
}

/// First positions and payloads of what can be read.
type Sound = Vec<(u64, Vec<u8>)>;
type Lost = Vec<(Range<u64>, MissingReason)>;

/// What can be read, and what is missing.
fn read(opened: &Opened) -> (Sound, Lost) {
    let mut reader = opened.log.reader(1);
    let (mut batches, mut missing) = (Vec::new(), Vec::new());
    while let Some(read) = reader.read_next().unwrap() {
        match read {
            Read::Batch(batch) => batches.push((batch.first_position(), batch.runs()[0].payload.to_vec())),
            Read::Missing { positions, reason } => missing.push((positions, reason)),
        }
    }
    (batches, missing)
}

#[test]
fn a_torn_last_record_is_cut_at_its_begin_and_kept_aside() {
    let storage = two_segments();
    let name = storage.segments().pop().unwrap();
    let (last, first_position) = commits(&storage, &name).pop().unwrap();
    let whole = read(&start(&storage.fork())).0;
    let is_last_whole = |torn: &[u8]| torn[last.clone()] == storage.contents(&name)[last.clone()];
    for at in last.clone() {
        for zeros_follow in [false, true] {
            let torn = storage.fork();
            torn.edit(&name, |bytes| {
                let length = bytes.len();
                bytes.truncate(at);
                if zeros_follow {
                    bytes.resize(length, 0);
                }
            });
            assert!(!zeros_follow || !is_last_whole(&torn.contents(&name)));
            let left = torn.contents(&name)[last.start..].iter().rposition(|byte| *byte != 0).map(|last| last + 1);
            let opened = start(&torn);
            let (batches, missing) = read(&opened);
            assert_eq!(batches, whole[..whole.len() - 1], "cut at {at}");
            assert_eq!(opened.marks[0].last_seq, 4);
            let next = opened.writer.next_position();
            let Some(left) = left else {
                assert!(opened.report.is_clean() && next == first_position && missing.is_empty());
                continue;
            };
            // Where its header is whole, its positions are known.
            assert!([0, 2].map(|events| first_position + events + WAL_POSITION_JUMP).contains(&next), "{next}");
            assert_eq!(missing, [(first_position..next, MissingReason::Skipped)]);
            assert_eq!(opened.log.left_out(1..next), next - first_position, "cut at {at}");
            let [cut] = &opened.report.cuts[..] else { panic!("{}", opened.report) };
            assert_eq!((&cut.file, cut.offset), (&name, last.start as u64));
            let mut kept = torn.contents(cut.kept.as_ref().unwrap());
            assert_eq!(cut.bytes, kept.len() as u64);
            // Zeros may follow, where a whole header says how long the record was.
            assert!(kept.split_off(left).iter().all(|byte| *byte == 0));
            assert_eq!(kept, storage.contents(&name)[last.start..last.start + left]);
            assert!(opened.report.to_string().contains(&name), "{}", opened.report);
            // The next start finds nothing left to cut.
            drop(opened);
            let again = start(&torn);
            assert!(again.report.is_clean() && again.writer.next_position() == next, "{}", again.report);
        }
    }
}

#[test]
fn a_flipped_bit_costs_the_record_it_is_in_and_no_other() {
    let storage = two_segments();
    let names = storage.segments();
    let (whole, _) = read(&start(&storage.fork()));
    let end = start(&storage.fork()).writer.next_position();
    for name in &names {
        let commits = commits(&storage, name);
        let is_newest = name == &names[1];
        let behind = commits.last().unwrap().0.end;
        for at in 0..storage.contents(name).len() {
            for bit in 0..8 {
                if at > behind && !(at + bit).is_multiple_of(16) {
                    // Zeros are as good as others.
                    continue;
                }
                let flipped = storage.fork();
                flipped.edit(name, |bytes| bytes[at] ^= 1 << bit);
                let opened = start(&flipped);
                let (batches, missing) = read(&opened);
                let hit = commits.iter().find(|(place, _)| place.contains(&at));
                let sound: Vec<_> =
                    whole.iter().filter(|(position, _)| hit.is_none_or(|hit| hit.1 != *position)).cloned().collect();
                assert_eq!(batches, sound, "bit {bit} of byte {at} of {name}");
                assert_eq!(opened.server_id, start(&storage.fork()).server_id);
                let next = opened.writer.next_position();
                let Some((place, position)) = hit else {
                    assert!(missing.iter().all(|missing| missing.1 == MissingReason::Skipped) && next >= end);
                    assert_eq!(opened.marks[0].last_seq, 5);
                    continue;
                };
                let is_last = is_newest && place.end == behind;
                assert_eq!(opened.marks[0].last_seq, if is_last { 4 } else { 5 });
                assert_eq!(opened.report.is_clean(), !is_newest, "{}", opened.report);
                assert!(next == end || (is_newest && next >= end + WAL_POSITION_JUMP - 2), "{next}");
                let reason = MissingReason::Damaged { file: name.clone(), offset: place.start as u64 };
                assert!(is_last || missing.contains(&(*position..position + 2, reason)), "{missing:?}");
            }
        }
    }
}

#[test]
fn a_record_inside_of_an_event_is_no_record() {
    let agent = origin(1);
    let first = payload(1, 1, 20);
    // A peer who read the log has a record of it; one who knows its ids makes one of a far position; one who knows all but
    // the segment's id makes the one that is next.
    for (peer, (its_id, first_position)) in [(true, 1), (true, 1 << 40), (false, 3)].into_iter().enumerate() {
        let storage = MemoryStorage::default();
        // All in one segment.
        let mut opened = start_with(&storage, &settings());
        opened.writer.append(&[frame(&agent, 1, 2, &first)]).unwrap();
        let name = storage.segments().remove(0);
        let inside = {
            let segment_id = if its_id { Name::parse(&name).unwrap().id } else { [9; 8] };
            let mut encoder = Encoder::default();
            encoder.commit(&[frame(&agent, 1, 2, &first)]).unwrap();
            let place = Place { segment_id, server_id: opened.server_id, first_position, synced_bytes: 132 };
            [encoder.finish(place), &first].concat()
        };
        if peer == 0 {
            let (place, _) = commits(&storage, &name).remove(0);
            assert_eq!(inside, storage.contents(&name)[place], "the very record");
        }
        let events = [payload(1, 2, 20), inside, payload(1, 3, 20)].concat();
        opened.writer.append(&[frame(&agent, 2, 2, &events)]).unwrap();
        opened.writer.append(&[frame(&agent, 3, 2, &first)]).unwrap();
        opened.writer.sync().unwrap();

        let (outer, _) = commits(&storage, &name)[1].clone();
        for at in (outer.start..outer.end).step_by(3) {
            let positions = |edit: &dyn Fn(&mut Vec<u8>)| {
                let storage = storage.fork();
                storage.edit(&name, edit);
                let opened = start(&storage);
                let report = &opened.report;
                assert_eq!(report.skipped + report.cuts.len(), usize::from(!report.is_clean()), "{report}");
                read(&opened).0.into_iter().map(|(position, _)| position).collect::<Vec<_>>()
            };
            assert_eq!(positions(&|bytes| bytes[at] ^= 0x10), [1, 5], "damaged at {at}");
            assert_eq!(positions(&|bytes| bytes.truncate(at)), [1], "torn at {at}");
        }
    }
}
