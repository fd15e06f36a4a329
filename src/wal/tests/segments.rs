//! Many segments: rotation, trimming, limits, marks, and logs that are not ours.

use std::sync::Arc;
use std::time::Duration;

use super::memory::{Fault, Loss, MemoryStorage};
use super::model::{bye, frame, origin, payload, settings};
use crate::batch::Origin;
use crate::limits::WAL_UNKNOWN_JUMP;
use crate::random::Random;
use crate::wal::segment::{Header, Name};
use crate::wal::storage::Storage;
use crate::wal::{
    AgentMark, AppendError, Entry, Kind, Log, MissingReason, OpenError, Opened, Read, Settings, Writer, open,
};

fn try_start(storage: &MemoryStorage, settings: &Settings) -> Result<Opened, OpenError> {
    open(settings, Arc::new(storage.clone()), &mut Random::seeded(3), 5)
}

fn start(storage: &MemoryStorage) -> Opened {
    try_start(storage, &Settings { max_bytes: 100_000, ..settings() }).unwrap()
}

/// One frame of one event, received at 1000 + seq.
fn append(writer: &mut Writer, seq: u64) -> Result<u64, AppendError> {
    let position = writer.append(&[frame(&origin(1), seq, 1, &payload(1, seq, 250))])?;
    writer.sync()?;
    Ok(position)
}

fn positions(log: &Arc<Log>, from: u64) -> Vec<u64> {
    let mut reader = log.reader(from);
    std::iter::from_fn(|| reader.read_next().unwrap())
        .map(|read| match read {
            Read::Batch(batch) => batch.first_position(),
            missing => panic!("{missing:?}"),
        })
        .collect()
}

#[test]
fn readers_cross_segments_at_any_position() {
    let storage = MemoryStorage::default();
    let Opened { mut writer, log, .. } = start(&storage);
    let mut follower = log.reader(1);
    for seq in 1..=20 {
        writer.append(&[frame(&origin(1), seq, 1, &payload(1, seq, 250))]).unwrap();
        assert!(follower.read_next().unwrap().is_none(), "not synced yet");
        writer.sync().unwrap();
        let Ok(Some(Read::Batch(batch))) = follower.read_next() else { panic!("{seq} is synced") };
        assert_eq!((batch.first_position(), follower.position()), (seq, seq + 1));
    }
    assert!(storage.segments().len() > 5);
    assert_eq!(writer.bytes(), storage.segments().iter().map(|name| storage.contents(name).len() as u64).sum::<u64>());
    for from in 1..=21 {
        assert_eq!(positions(&log, from), (from..=20).collect::<Vec<_>>());
    }
    let mut reader = log.reader(1);
    for position in [20, 3, 4, 19, 1] {
        reader.seek(position);
        let Ok(Some(Read::Batch(batch))) = reader.read_next() else { panic!("{position} is there") };
        assert_eq!(batch.first_position(), position);
    }
    reader.seek(1_000);
    assert!(reader.read_next().unwrap().is_none(), "beyond the end there is nothing");
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let storage = MemoryStorage::default();
    let Opened { mut writer, log, .. } = start(&storage);
    append(&mut writer, 1).unwrap();
    let large = payload(1, 2, 5_000);
    writer.append(&[frame(&origin(1), 2, 1, &large)]).unwrap();
    append(&mut writer, 3).unwrap();
    assert_eq!((storage.segments().len(), positions(&log, 1)), (3, vec![1, 2, 3]));
    assert_eq!(positions(&start(&storage).log, 1), [1, 2, 3]);
}

#[test]
fn segments_go_once_no_sink_needs_them_and_they_are_old() {
    let storage = MemoryStorage::default();
    let mut opened = try_start(&storage, &Settings { keep: Duration::from_nanos(100), ..settings() }).unwrap();
    let writer = &mut opened.writer;
    for seq in 1..=12 {
        append(writer, seq).unwrap();
    }
    // Three records each; the second one begins at 4 and was made with record 3's time, 1003.
    writer.trim(4, 1_102).unwrap();
    assert_eq!(writer.oldest_position(), 1, "not old enough");
    writer.trim(3, 2_000).unwrap();
    assert_eq!(writer.oldest_position(), 1, "3 is needed");
    writer.trim(4, 1_103).unwrap();
    assert_eq!((writer.oldest_position(), storage.segments().len()), (4, 3));
    writer.trim(u64::MAX, 0).unwrap();
    assert_eq!(writer.oldest_position(), 10, "a clock set back holds nothing, the current segment stays");
    storage.restart(Loss::Everything);
    let opened = start(&storage);
    assert_eq!((opened.writer.oldest_position(), positions(&opened.log, 10)), (10, vec![10, 11, 12]));
}

#[test]
fn a_full_log_takes_nothing_until_a_segment_goes() {
    let storage = MemoryStorage::default();
    let Opened { mut writer, log, .. } = try_start(&storage, &settings()).unwrap();
    let taken = (1..).take_while(|seq| append(&mut writer, *seq).is_ok()).count() as u64;
    assert!(writer.bytes() <= settings().max_bytes && taken > 10);
    let before = (writer.next_position(), storage.segments(), writer.bytes());
    assert!(matches!(append(&mut writer, taken + 1), Err(AppendError::Full)));
    assert_eq!((writer.next_position(), storage.segments(), writer.bytes()), before);
    writer.skip_to(taken + 1).unwrap();
    writer.trim(4, 5_000).unwrap();
    assert_eq!(append(&mut writer, taken + 1).unwrap(), taken + 1);
    assert_eq!(positions(&log, 4), (4..=taken + 1).collect::<Vec<_>>());
}

/// The newest segment is never deleted, even if sinks have all of it: the log goes on in a second one, whatever its size.
#[test]
fn a_full_log_accepts_again_once_sinks_have_all_of_it() {
    let storage = MemoryStorage::default();
    let smallest = Settings { max_bytes: 2 * settings().segment_bytes, ..settings() };
    let Opened { mut writer, .. } = try_start(&storage, &smallest).unwrap();
    let mut was_full = 0;
    for seq in 1..=300 {
        // Some records are larger than a segment, and larger than the whole log.
        let bytes = [250, settings().segment_bytes as usize + 1, 20, smallest.max_bytes as usize + 1][seq as usize % 4];
        let payload = payload(1, seq, bytes);
        let origin = origin(1);
        let frame = [frame(&origin, seq, 1, &payload)];
        let mut appended = writer.append(&frame);
        if matches!(appended, Err(AppendError::Full)) {
            was_full += 1;
            writer.trim(writer.next_position(), u64::MAX).unwrap();
            appended = writer.append(&frame);
        }
        assert_eq!(appended.unwrap(), seq);
        writer.sync().unwrap();
    }
    assert!(was_full > 100, "{was_full}");
}

#[test]
fn positions_are_skipped_in_a_full_log_too() {
    let storage = MemoryStorage::default();
    let Opened { mut writer, .. } = try_start(&storage, &settings()).unwrap();
    let taken = (1..).take_while(|seq| append(&mut writer, *seq).is_ok()).count() as u64;
    drop(writer);
    for start in 1..=5 {
        // As a start does while a store does not say what it holds.
        let Opened { mut writer, .. } = try_start(&storage, &settings()).unwrap();
        writer.skip_to(writer.next_position() + 1_000).unwrap();
        assert_eq!(writer.next_position(), taken + 1 + 1_000 * start);
        // A start reserves a segment in any case; beside it an empty one stays.
        let room = settings().max_bytes + settings().segment_bytes + 400 * start;
        assert!(writer.bytes() <= room, "{} bytes after {start} starts", writer.bytes());
        drop(writer);
        storage.restart(Loss::Nothing);
    }
}

#[test]
fn a_log_that_may_have_less_than_two_segments_has_two() {
    let storage = MemoryStorage::default();
    let mut opened = try_start(&storage, &Settings { max_bytes: 1, ..settings() }).unwrap();
    let full = (1..100).find(|seq| append(&mut opened.writer, *seq).is_err());
    assert_eq!(full, Some(7), "three records in each segment");
    opened.writer.trim(u64::MAX, 5_000).unwrap();
    append(&mut opened.writer, 7).unwrap();
}

#[test]
fn a_reader_hears_of_what_is_dropped_before_it() {
    let storage = MemoryStorage::default();
    let Opened { mut writer, log, .. } = start(&storage);
    for seq in 1..=7 {
        append(&mut writer, seq).unwrap();
    }
    let mut reader = log.reader(1);
    reader.read_next().unwrap();
    assert_eq!(writer.drop_oldest().unwrap(), Some(4));
    let Ok(Some(Read::Missing { positions: missing, reason: MissingReason::Dropped })) = reader.read_next() else {
        panic!("2 and 3 are gone")
    };
    assert_eq!(missing, 2..4);
    let Ok(Some(Read::Batch(batch))) = reader.read_next() else { panic!("4 is there") };
    assert_eq!(batch.first_position(), 4);
    assert_eq!(writer.drop_oldest().unwrap(), Some(7));
    assert_eq!((writer.drop_oldest().unwrap(), positions(&log, 7)), (None, vec![7]));
}

#[test]
fn a_full_disk_changes_nothing() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=7 {
        // Every call of the append finds the disk full once.
        for call in 1.. {
            storage.fail_at(call, Fault::NoSpace);
            let before = (opened.writer.next_position(), storage.segments());
            match opened.writer.append(&[frame(&origin(1), seq, 1, &payload(1, seq, 250))]) {
                Ok(_) => break,
                Err(AppendError::NoSpace(_)) => {
                    assert_eq!((opened.writer.next_position(), storage.segments()), before);
                    // Were the process to end now, the next one would find no half a record.
                    let ended = storage.fork();
                    ended.restart(Loss::Nothing);
                    let report = start(&ended).report;
                    assert!(report.is_clean(), "{report}");
                }
                // A sync that finds no space is a failed sync.
                Err(error) => {
                    assert!(error.to_string().contains("the log failed"), "{error}");
                    storage.restart(Loss::Nothing);
                    opened = start(&storage);
                    assert!(opened.report.is_clean(), "{}", opened.report);
                }
            }
        }
        storage.restart(Loss::Nothing);
        opened.writer.sync().unwrap();
    }
    let opened = start(&storage);
    assert!(opened.report.is_clean(), "{}", opened.report);
    assert_eq!(positions(&opened.log, 1), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn without_descriptors_a_new_segment_waits_and_nothing_has_changed() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    let mut waited = 0;
    for seq in 1..=7 {
        // Every call of the append lacks a descriptor once; only creating a segment needs one.
        for call in 1.. {
            storage.fail_at(call, Fault::NoDescriptors);
            let before = (opened.writer.next_position(), storage.segments());
            match opened.writer.append(&[frame(&origin(1), seq, 1, &payload(1, seq, 250))]) {
                Ok(_) => break,
                Err(AppendError::NoDescriptors(error)) => {
                    waited += 1;
                    assert!(error.to_string().contains("Too many open files"), "{error}");
                    assert_eq!((opened.writer.next_position(), storage.segments()), before);
                    let ended = storage.fork();
                    ended.restart(Loss::Nothing);
                    let report = start(&ended).report;
                    assert!(report.is_clean(), "{report}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        storage.restart(Loss::Nothing);
        opened.writer.sync().unwrap();
    }
    assert!(waited >= 2, "{waited} segments");
    let opened = start(&storage);
    assert!(opened.report.is_clean(), "{}", opened.report);
    assert_eq!(positions(&opened.log, 1), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn positions_are_skipped_only_with_a_new_segment() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    append(&mut opened.writer, 1).unwrap();
    // The first call of a rotation makes the file.
    storage.fail_at(1, Fault::NoSpace);
    assert!(matches!(opened.writer.skip_to(100), Err(AppendError::NoSpace(_))));
    assert_eq!(append(&mut opened.writer, 2).unwrap(), 2, "nothing has changed");
    opened.writer.skip_to(100).unwrap();
    opened.writer.skip_to(50).unwrap();
    assert_eq!(append(&mut opened.writer, 3).unwrap(), 100);
    let opened = start(&storage);
    assert!(opened.report.is_clean(), "{}", opened.report);
    let mut reader = opened.log.reader(1);
    let found: Vec<_> = std::iter::from_fn(|| reader.read_next().unwrap())
        .map(|read| match read {
            Read::Batch(batch) => batch.first_position()..batch.end_position(),
            Read::Missing { positions, reason } => {
                assert_eq!(reason, MissingReason::Skipped);
                positions
            }
        })
        .collect();
    assert_eq!(found, [1..2, 2..3, 3..100, 100..101]);
}

#[test]
fn positions_that_were_left_out_are_not_told_as_dropped_once_what_lies_before_them_is() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=2 {
        append(&mut opened.writer, seq).unwrap();
    }
    opened.writer.skip_to(100).unwrap();
    assert_eq!(opened.log.left_out(1..1_000), 97);
    assert_eq!(opened.log.left_out(50..60), 10);
    // A start without an event: its segment, which knew of the jump, goes.
    let mut opened = start(&storage);
    append(&mut opened.writer, 3).unwrap();
    assert_eq!(opened.writer.drop_oldest().unwrap(), Some(100));
    let Opened { log, .. } = start(&storage);
    let mut reader = log.reader(1);
    let missing: Vec<_> = std::iter::from_fn(|| match reader.read_next().unwrap() {
        Some(Read::Missing { positions, reason }) => Some((positions, reason)),
        _ => None,
    })
    .collect();
    assert_eq!(missing, [(1..3, MissingReason::Dropped), (3..100, MissingReason::Skipped)]);
    // Also once the segment behind the jump is gone.
    let Opened { mut writer, log, .. } = start(&storage);
    append(&mut writer, 4).unwrap();
    writer.drop_oldest().unwrap();
    let oldest = writer.oldest_position();
    assert!(oldest > 100);
    assert_eq!(log.left_out(1..oldest), 97);
    let mut reader = log.reader(1);
    let missing: Vec<_> = std::iter::from_fn(|| match reader.read_next().unwrap() {
        Some(Read::Missing { positions, reason }) => Some((positions, reason)),
        _ => None,
    })
    .collect();
    let dropped = MissingReason::Dropped;
    assert_eq!(missing, [(1..3, dropped.clone()), (3..100, MissingReason::Skipped), (100..oldest, dropped)]);
}

#[test]
fn starts_that_leave_out_positions_again_and_again_forget_none_of_them() {
    let storage = MemoryStorage::default();
    append(&mut start(&storage).writer, 1).unwrap();
    for _ in 0..3 {
        let mut opened = start(&storage);
        let position = opened.writer.next_position() + WAL_UNKNOWN_JUMP;
        opened.writer.skip_to(position).unwrap();
    }
    let left_out = 2..2 + 3 * WAL_UNKNOWN_JUMP;
    for _ in 0..2 {
        let Opened { mut writer, log, .. } = start(&storage);
        assert_eq!(log.left_out(1..u64::MAX), 3 * WAL_UNKNOWN_JUMP);
        let mut reader = log.reader(2);
        let mut found = 2;
        while let Some(Read::Missing { positions, reason }) = reader.read_next().unwrap() {
            assert_eq!((positions.start, reason), (found, MissingReason::Skipped));
            found = positions.end;
        }
        assert_eq!(found, left_out.end);
        // Also once what lies before them is gone.
        writer.trim(left_out.end, u64::MAX).unwrap();
    }
}

#[test]
fn starts_without_events_leave_one_segment_and_use_no_positions() {
    let storage = MemoryStorage::default();
    for _ in 0..5 {
        let opened = start(&storage);
        assert_eq!((opened.writer.next_position(), opened.report.segments), (1, 1));
        assert!(opened.report.is_clean());
    }
    assert_eq!(storage.segments().len(), 1);
}

#[test]
fn a_segment_that_was_never_begun_is_none() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=7 {
        append(&mut opened.writer, seq).unwrap();
    }
    // The disk was full: a name is left, and the segment before went on.
    let left = Name { first_position: 2, number: 2, id: [9; 8] }.to_string();
    storage.create(&left, 1500).unwrap();
    let mut opened = start(&storage);
    assert!(opened.report.is_clean() && !storage.segments().contains(&left), "{}", opened.report);
    opened.writer.trim(2, u64::MAX).unwrap();
    assert_eq!(positions(&opened.log, 1), [1, 2, 3, 4, 5, 6, 7], "the first segment has 3 too");
    // As the newest one it may not hide what was written since.
    let mut opened = start(&storage);
    append(&mut opened.writer, 8).unwrap();
    storage.create(&Name { first_position: 9, number: 99, id: [9; 8] }.to_string(), 1500).unwrap();
    let opened = start(&storage);
    assert!(opened.report.is_clean(), "{}", opened.report);
    assert_eq!((opened.marks[0].last_seq, opened.writer.next_position()), (8, 9));
}

#[test]
fn a_damaged_header_costs_neither_records_nor_marks() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=4 {
        append(&mut opened.writer, seq).unwrap();
    }
    let name = storage.segments().pop().unwrap();
    for seq in 5..=6 {
        append(&mut opened.writer, seq).unwrap();
    }
    // The newest segment with its header damaged: the marks in it are sound, and not the only ones.
    storage.edit(&name, |bytes| bytes[20] ^= 1);
    let opened = start(&storage.fork());
    assert_eq!((opened.marks[0].last_seq, positions(&opened.log, 1)), (6, vec![1, 2, 3, 4, 5, 6]));
    // No other header.
    let alone = storage.fork();
    alone.edit(&storage.segments()[0], |bytes| bytes[20] ^= 1);
    let opened = start(&alone);
    assert_eq!((opened.marks[0].last_seq, opened.report.marks_lost), (6, false));
}

#[test]
fn a_deleted_log_is_another_log() {
    let first = start(&MemoryStorage::default());
    let mut random = Random::seeded(4);
    let second = open(&settings(), Arc::new(MemoryStorage::default()), &mut random, 5).unwrap();
    assert_ne!(first.server_id, second.server_id);
    assert_eq!(second.server_id[6] >> 4, 4, "a UUID of version 4");
}

fn sorted(mut marks: Vec<AgentMark>) -> Vec<AgentMark> {
    marks.sort_unstable_by_key(|mark| mark.agent_id);
    marks
}

#[test]
fn marks_survive_damage_to_the_newest_tables_of_them() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=10 {
        append(&mut opened.writer, seq).unwrap();
        opened.writer.append(&[frame(&origin(2 + seq as u8 % 3), seq, 0, &[])]).unwrap();
    }
    opened.writer.sync().unwrap();
    let marks = sorted(start(&storage.fork()).marks);
    let last = marks[0];
    assert_eq!((marks.len(), last.last_seq, last.last_crc, last.last_position), (4, 10, Some(10), 10));
    assert_eq!((last.epoch, last.last_seen_unix_nano, last.has_frames), (7, 1_010, true));
    for damaged in 1..=storage.segments().len() {
        for name in storage.segments().iter().rev().take(damaged) {
            storage.edit(name, |bytes| bytes[70] ^= 1);
        }
        let opened = start(&storage.fork());
        // The oldest table is empty.
        assert_eq!(opened.report.marks_lost, damaged == storage.segments().len(), "{}", opened.report);
        assert_eq!(sorted(opened.marks), marks, "{damaged} tables");
        assert_eq!(opened.report.skipped, damaged, "{}", opened.report);
        for name in storage.segments().iter().rev().take(damaged) {
            storage.edit(name, |bytes| bytes[70] ^= 1);
        }
    }
}

#[test]
fn a_hello_makes_its_epoch_durable() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    let hello = |epoch, last_seq, writer: &mut Writer| {
        let origin = Arc::new(Origin { epoch, ..(*origin(1)).clone() });
        let entry = Entry { kind: Kind::Hello { last_seq }, ..frame(&origin, 0, 0, &[]) };
        writer.append(&[entry]).unwrap();
        writer.sync().unwrap();
    };
    hello(9, 41, &mut opened.writer);
    let mark = start(&storage).marks[0];
    assert_eq!((mark.epoch, mark.last_seq, mark.last_crc, mark.has_frames), (9, 41, None, false));

    let mut opened = start(&storage);
    let nine = Arc::new(Origin { epoch: 9, ..(*origin(1)).clone() });
    opened.writer.append(&[frame(&nine, 42, 3, b"events")]).unwrap();
    hello(9, 42, &mut opened.writer);
    let mark = start(&storage).marks[0];
    assert_eq!((mark.last_seq, mark.last_crc, mark.last_position, mark.has_frames), (42, Some(42), 3, true));

    let mut opened = start(&storage);
    hello(10, 0, &mut opened.writer);
    assert_eq!(positions(&opened.log, 1), [1], "a hello is nothing to deliver");
    let mark = start(&storage).marks[0];
    assert_eq!((mark.epoch, mark.last_seq, mark.last_crc, mark.has_frames), (10, 0, None, true));
}

#[test]
fn an_agent_that_sent_bye_has_no_mark_after_a_restart_nor_in_the_next_segment() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    let writer = &mut opened.writer;
    append(writer, 1).unwrap();
    writer.append(&[frame(&origin(2), 1, 1, b"of another agent")]).unwrap();
    writer.append(&[bye(&origin(1), 1)]).unwrap();
    writer.sync().unwrap();
    assert_eq!((writer.agents(), positions(&opened.log, 1)), (1, vec![1, 2]), "a bye is nothing to deliver");
    let agents = |opened: Opened| opened.marks.iter().map(|mark| mark.agent_id[0]).collect::<Vec<_>>();
    storage.restart(Loss::Everything);
    assert_eq!(agents(start(&storage)), [2]);

    // It comes back with its epoch, and is done in a later segment.
    let mut opened = start(&storage);
    for seq in 2..=8 {
        append(&mut opened.writer, seq).unwrap();
    }
    assert_eq!(agents(start(&storage.fork())).len(), 2);
    opened.writer.append(&[bye(&origin(1), 8)]).unwrap();
    let segments = storage.segments().len();
    for seq in 2..=8 {
        opened.writer.append(&[frame(&origin(2), seq, 1, &payload(2, seq, 250))]).unwrap();
        opened.writer.sync().unwrap();
    }
    assert!(storage.segments().len() > segments + 1);
    assert_eq!(agents(start(&storage)), [2]);
}

#[test]
fn a_bye_that_is_not_in_the_log_yet_leaves_the_mark() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    append(&mut opened.writer, 1).unwrap();
    opened.writer.append(&[bye(&origin(1), 1)]).unwrap();
    storage.restart(Loss::Everything);
    let mark = start(&storage).marks[0];
    assert_eq!((mark.epoch, mark.last_seq, mark.last_crc), (7, 1, Some(1)));
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let storage = MemoryStorage::default();
    let mut opened = start(&storage);
    for seq in 1..=4 {
        append(&mut opened.writer, seq).unwrap();
    }
    let name = storage.segments().pop().unwrap();
    let header = Header::decode(&storage.contents(&name)).unwrap();
    let refused = |changed: Header, expected: &str| {
        let storage = storage.fork();
        storage.edit(&name, |bytes| bytes[..56].copy_from_slice(&changed.encode()));
        let before: Vec<_> = storage.segments().iter().map(|name| (name.clone(), storage.contents(name))).collect();
        let Err(error) = try_start(&storage, &settings()) else { panic!("{expected}") };
        assert!(error.to_string().contains(expected) && error.to_string().contains(&name), "{error}");
        let after: Vec<_> = storage.segments().iter().map(|name| (name.clone(), storage.contents(name))).collect();
        assert!(before == after);
    };
    refused(Header { version: 2, ..header }, "start the version that wrote it");
    refused(Header { server_id: [9; 16], ..header }, "two logs were mixed");
    refused(Header { first_position: 77, ..header }, "was renamed");

    let moved = Name { number: 77, ..Name::parse(&name).unwrap() };
    let copy = storage.fork();
    copy.rename(&name, &moved.to_string());
    assert_eq!(positions(&start(&copy).log, 1), [1, 2, 3, 4], "the number is not in the header");
    copy.rename(&copy.segments()[0], "notes.txt");
    assert!(copy.segments().contains(&"notes.txt".to_owned()), "other files are none of ours");
    start(&copy);
}
