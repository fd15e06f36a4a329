//! The plain way: append, sync, read, open again; in a real folder.

use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::batch::Origin;
use crate::random::Random;
use crate::wal::{DirStorage, Entry, Kind, Opened, Read, Settings, open};

#[test]
fn what_is_synced_is_read_now_and_after_a_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("wal");
    let settings = Settings {
        dir: dir.clone(),
        segment_bytes: 4096,
        max_bytes: 1 << 20,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: Duration::from_secs(60),
    };
    let start = || {
        let storage = Arc::new(DirStorage::create(&dir).unwrap());
        open(&settings, storage, &mut Random::seeded(1), 5).unwrap()
    };
    let origin = Arc::new(Origin {
        agent_id: Some([7; 16]),
        agent: Some("a".to_owned()),
        default_source: "a".to_owned(),
        epoch: 3,
    });
    let Opened { server_id, mut writer, log, report, .. } = start();
    assert!(report.is_clean() && report.next_position == 1, "{report}");
    for seq in 1..=100u64 {
        let payload = vec![seq as u8; 1000];
        let kind = Kind::Frame { seq, sent_crc: 9 };
        let entry =
            Entry { kind, origin: &origin, events: 2, received_unix_nano: seq, payload: &payload, payload_crc: None };
        assert_eq!(writer.append(&[entry]).unwrap(), 2 * seq - 1);
        writer.sync().unwrap();
    }
    let check = |log: &Arc<crate::wal::Log>| {
        let mut reader = log.reader(1);
        for seq in 1..=100u64 {
            let Some(Read::Batch(batch)) = reader.read_next().unwrap() else { panic!("{seq} is not there") };
            assert_eq!((batch.first_position(), batch.events()), (2 * seq - 1, 2));
            assert_eq!(*batch.runs()[0].payload, vec![seq as u8; 1000][..]);
            assert_eq!(batch.runs()[0].origin, origin);
        }
        assert!(reader.read_next().unwrap().is_none());
    };
    check(&log);
    drop(writer);
    let again = start();
    assert!(again.report.is_clean() && again.server_id == server_id, "{}", again.report);
    assert_eq!(again.report.next_position, 201);
    assert_eq!((again.marks.len(), again.marks[0].last_seq, again.marks[0].last_crc), (1, 100, Some(9)));
    check(&again.log);
}
