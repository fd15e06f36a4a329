//! A log that is read from outside as it grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::memory::MemoryStorage;
use super::model::{frame, origin, payload, settings};
use crate::limits::WAL_FOLLOW_PATIENCE;
use crate::random::Random;
use crate::wal::{Followed, Follower, MissingReason, Opened, Settings, Writer, open};

fn start(storage: &MemoryStorage) -> Opened {
    let settings = Settings { max_bytes: 100_000, ..settings() };
    open(&settings, Arc::new(storage.clone()), &mut Random::seeded(3), 5).unwrap()
}

fn append(writer: &mut Writer, seq: u64) {
    writer.append(&[frame(&origin(1), seq, 1, &payload(1, seq, 250))]).unwrap();
    writer.sync().unwrap();
}

fn follower(storage: &MemoryStorage, position: u64) -> Follower {
    Follower::new(Arc::new(storage.clone()), position)
}

/// First positions of batches, and what is missing.
fn read(follower: &mut Follower, now: Instant) -> (Vec<u64>, Vec<(std::ops::Range<u64>, MissingReason)>) {
    let (mut positions, mut missing) = (Vec::new(), Vec::new());
    for found in follower.read(1 << 20, now).unwrap() {
        match found {
            Followed::Batch { batch, .. } => positions.push(batch.first_position()),
            Followed::Missing(range, reason) => missing.push((range, reason)),
        }
    }
    (positions, missing)
}

#[test]
fn a_follower_sees_each_record_once_across_segments() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    let mut all = follower(&storage, 1);
    assert_eq!(read(&mut all, now), (vec![], vec![]));
    for seq in 1..=20 {
        append(&mut writer, seq);
        assert_eq!(read(&mut all, now), (vec![seq], vec![]));
        assert_eq!(read(&mut all, now), (vec![], vec![]));
    }
    assert!(storage.segments().len() > 5);
    for from in 1..=21 {
        assert_eq!(read(&mut follower(&storage, from), now), ((from..=20).collect(), vec![]), "{from}");
    }
    let mut new = Follower::at_end(Arc::new(storage.clone())).unwrap();
    assert_eq!((new.position(), read(&mut new, now)), (21, (vec![], vec![])));
    append(&mut writer, 21);
    assert_eq!((read(&mut new, now).0, read(&mut all, now).0), (vec![21], vec![21]));
    // In pieces of about so many bytes.
    let mut pieces = follower(&storage, 1);
    let counts: Vec<_> = (0..20).map(|_| pieces.read(500, now).unwrap().len()).collect();
    assert!(counts.iter().all(|count| *count <= 3) && counts.iter().sum::<usize>() == 21, "{counts:?}");
}

#[test]
fn segments_that_are_deleted_meanwhile_are_a_gap() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    (1..=4).for_each(|seq| append(&mut writer, seq));
    let mut behind = follower(&storage, 1);
    assert_eq!(behind.read(1, now).unwrap().len(), 1);
    (5..=20).for_each(|seq| append(&mut writer, seq));
    writer.trim(12, u64::MAX).unwrap();
    let oldest = writer.oldest_position();
    assert!((5..=12).contains(&oldest));
    assert_eq!(read(&mut behind, now), ((oldest..=20).collect(), vec![(2..oldest, MissingReason::Dropped)]));
}

#[test]
fn positions_that_were_left_out_and_a_new_segment_after_a_restart_are_no_loss() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    append(&mut writer, 1);
    let mut all = follower(&storage, 1);
    assert_eq!(read(&mut all, now).0, [1]);
    drop(writer);
    let Opened { mut writer, .. } = start(&storage);
    writer.skip_to(1_000).unwrap();
    append(&mut writer, 2);
    assert_eq!(read(&mut all, now), (vec![1_000], vec![(2..1_000, MissingReason::Skipped)]));
}

#[test]
fn a_record_that_is_half_written_is_waited_for_and_a_corrupt_one_is_passed() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    append(&mut writer, 1);
    let mut all = follower(&storage, 1);
    assert_eq!(read(&mut all, now).0, [1]);
    append(&mut writer, 2);
    let name = storage.segments().pop().unwrap();
    let whole = storage.contents(&name);
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for missing in [1, 200, 300] {
        storage.edit(&name, |bytes| bytes[end - missing..].fill(0));
        assert_eq!(read(&mut all, now), (vec![], vec![]), "{missing} bytes are not written yet");
    }
    storage.edit(&name, |bytes| bytes.copy_from_slice(&whole));
    assert_eq!(read(&mut all, now), (vec![2], vec![]));

    append(&mut writer, 3);
    storage.edit(&name, |bytes| bytes[end + 300] ^= 1);
    assert_eq!(read(&mut all, now), (vec![], vec![]), "it may be being written");
    let later = now + WAL_FOLLOW_PATIENCE + Duration::from_millis(1);
    let (positions, missing) = read(&mut all, later);
    assert!(
        positions.is_empty() && matches!(&missing[..], [(range, MissingReason::Damaged { .. })] if *range == (3..4))
    );
    // Where another segment was begun there is nothing to wait for.
    (4..=12).for_each(|seq| append(&mut writer, seq));
    let mut all = follower(&storage, 1);
    let (positions, missing) = read(&mut all, now);
    assert_eq!((positions, missing.len()), ([1, 2].into_iter().chain(4..=12).collect(), 1));
}

#[test]
fn a_corrupt_header_of_a_segment_loses_no_record() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    (1..=12).for_each(|seq| append(&mut writer, seq));
    let segments = storage.segments();
    assert!(segments.len() > 2);
    // There is a newer one, so that nothing is written to it any more.
    storage.edit(&segments[1], |bytes| bytes[20] ^= 1);
    assert_eq!(read(&mut follower(&storage, 1), now), ((1..=12).collect(), vec![]));
    // The newest one may be being created.
    let newest = segments.last().unwrap();
    storage.edit(newest, |bytes| bytes[20] ^= 1);
    let mut all = follower(&storage, 1);
    let (before, _) = read(&mut all, now);
    assert!(!before.is_empty() && before.len() < 12, "{before:?}");
    let later = now + WAL_FOLLOW_PATIENCE + Duration::from_millis(1);
    let (rest, missing) = read(&mut all, later);
    assert_eq!((before.into_iter().chain(rest).collect::<Vec<_>>(), missing), ((1..=12).collect(), vec![]));
}

#[test]
fn after_a_corrupt_record_the_end_is_still_the_end() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    append(&mut writer, 1);
    let name = storage.segments().pop().unwrap();
    let end = storage.contents(&name).iter().rposition(|byte| *byte != 0).unwrap() + 1;
    append(&mut writer, 2);
    append(&mut writer, 3);
    assert_eq!(storage.segments().last(), Some(&name));
    // The header of the second record.
    storage.edit(&name, |bytes| bytes[end + 10] ^= 1);
    let mut new = Follower::at_end(Arc::new(storage.clone())).unwrap();
    let later = now + WAL_FOLLOW_PATIENCE + Duration::from_millis(1);
    assert_eq!((new.position(), read(&mut new, now), read(&mut new, later)), (4, (vec![], vec![]), (vec![], vec![])));
    append(&mut writer, 4);
    assert_eq!(read(&mut new, later), (vec![4], vec![]));
}

#[test]
fn positions_that_no_event_had_are_not_reported_as_deleted() {
    let (storage, now) = (MemoryStorage::default(), Instant::now());
    let Opened { mut writer, .. } = start(&storage);
    (1..=3).for_each(|seq| append(&mut writer, seq));
    writer.skip_to(1_000).unwrap();
    append(&mut writer, 4);
    writer.trim(1_000, u64::MAX).unwrap();
    assert_eq!(writer.oldest_position(), 1_000);
    let expected = vec![(1..4, MissingReason::Dropped), (4..1_000, MissingReason::Skipped)];
    assert_eq!(read(&mut follower(&storage, 1), now), (vec![1_000], expected));
}
