//! In a real folder: what other tests do in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{frame, origin, payload, settings};
use crate::random::Random;
use crate::wal::{DirStorage, Log, Opened, Read, Settings, open};

fn start(dir: &Path) -> Opened {
    let settings = Settings { dir: dir.to_owned(), segment_bytes: 4096, max_bytes: 1 << 20, ..settings() };
    open(&settings, Arc::new(DirStorage::create(dir).unwrap()), &mut Random::seeded(1), 5).unwrap()
}

/// First positions and payload bytes of what can be read.
fn read(log: &Arc<Log>) -> Vec<(u64, usize)> {
    let mut reader = log.reader(log.oldest());
    std::iter::from_fn(|| reader.read_next().unwrap())
        .filter_map(|read| match read {
            Read::Batch(batch) => Some((batch.first_position(), batch.payload_bytes())),
            Read::Missing { .. } => None,
        })
        .collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

#[test]
fn what_is_synced_is_read_now_and_after_a_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data/wal");
    let agent = origin(1);
    let Opened { server_id, mut writer, log, report, .. } = start(&dir);
    assert!(report.is_clean() && report.next_position == 1, "{report}");
    for seq in 1..=100u64 {
        assert_eq!(writer.append(&[frame(&agent, seq, 2, &payload(1, seq, 1000))]).unwrap(), 2 * seq - 1);
        writer.sync().unwrap();
    }
    let expected: Vec<_> = (0..100).map(|index| (2 * index + 1, 1000)).collect();
    assert_eq!(read(&log), expected);
    drop(writer);
    let mut again = start(&dir);
    assert!(again.report.is_clean() && again.server_id == server_id, "{}", again.report);
    assert_eq!((again.report.next_position, again.marks[0].last_seq), (201, 100));
    assert_eq!(read(&again.log), expected);
    again.writer.trim(101, u64::MAX).unwrap();
    let oldest = again.writer.oldest_position();
    assert!((95..=101).contains(&oldest), "{oldest}");
    assert_eq!(again.writer.bytes(), segments(&dir).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>());
    drop(again);
    assert_eq!(read(&start(&dir).log)[0], (oldest, 1000));
}

#[test]
fn a_commit_of_thousands_of_frames_is_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let agent = origin(1);
    let payloads: Vec<_> = (1..=4_000).map(|seq| payload(1, seq, 10 + seq as usize % 40)).collect();
    let frames: Vec<_> = payloads.iter().zip(1..).map(|(payload, seq)| frame(&agent, seq, 1, payload)).collect();
    let mut opened = start(dir.path());
    // More slices than one vectored write takes.
    opened.writer.append(&frames).unwrap();
    opened.writer.sync().unwrap();
    let opened = start(dir.path());
    assert!(opened.report.is_clean(), "{}", opened.report);
    let Ok(Some(Read::Batch(batch))) = opened.log.reader(1).read_next() else { panic!("it is there") };
    assert!(batch.runs().iter().map(|run| &*run.payload).eq(payloads.iter().map(|payload| &payload[..])));
    assert!(batch.runs().iter().all(|run| run.origin == agent && run.events == 1));
}

#[test]
fn a_torn_tail_is_kept_in_a_folder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let agent = origin(1);
    let mut opened = start(dir.path());
    for seq in [1, 2] {
        opened.writer.append(&[frame(&agent, seq, 1, &payload(1, seq, 500))]).unwrap();
    }
    opened.writer.sync().unwrap();
    drop(opened);
    let file = segments(dir.path()).remove(0);
    let bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&file, &bytes[..end - 100]).unwrap();
    let opened = start(dir.path());
    let [cut] = &opened.report.cuts[..] else { panic!("{}", opened.report) };
    let kept = fs::read(dir.path().join(cut.kept.as_ref().unwrap())).unwrap();
    assert_eq!(kept, bytes[cut.offset as usize..end - 100]);
    assert_eq!(read(&opened.log), [(1, 500)]);
    assert_eq!(fs::metadata(&file).unwrap().len(), cut.offset, "cut");
}
