//! What the log promises, in a hundred lines: a list of commits, and what must be found of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Batch, Origin};
use crate::random::Random;
use crate::wal::{AppendError, Entry, Kind, Log, LogFailure, Opened, Read, Settings, Writer};

/// Tiny segments, of about three commits.
pub(super) fn settings() -> Settings {
    Settings {
        dir: "wal".into(),
        segment_bytes: 1500,
        max_bytes: 10_000,
        keep: Duration::ZERO,
        max_agents: 10,
        dedupe_retention: Duration::from_secs(60),
    }
}

pub(super) fn origin(agent: u8) -> Arc<Origin> {
    let name = format!("agent {agent}");
    Arc::new(Origin { agent_id: Some([agent; 16]), agent: Some(name.clone()), default_source: name, epoch: 7 })
}

pub(super) fn request_origin() -> Arc<Origin> {
    Arc::new(Origin { agent_id: None, agent: None, default_source: "127.0.0.1".to_owned(), epoch: 0 })
}

/// A frame's payload; tells what frame it is.
pub(super) fn payload(agent: u8, seq: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![agent; bytes.max(9)];
    payload[1..9].copy_from_slice(&seq.to_le_bytes());
    payload
}

pub(super) fn frame<'a>(origin: &'a Arc<Origin>, seq: u64, events: u32, payload: &'a [u8]) -> Entry<'a> {
    let kind = Kind::Frame { seq, sent_crc: seq as u32 };
    Entry { kind, origin, events, received_unix_nano: 1_000 + seq, payload, payload_crc: None }
}

pub(super) fn bye(origin: &Arc<Origin>, last_seq: u64) -> Entry<'_> {
    Entry { kind: Kind::Bye { last_seq }, ..frame(origin, 0, 0, &[]) }
}

#[derive(Debug, Clone)]
struct Commit {
    first_position: u64,
    events: u64,
    payload: Vec<u8>,
    frames: Vec<(u8, u64)>,
    /// Agents that are done, and the last number of each.
    byes: Vec<(u8, u64)>,
    synced: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    commits: Vec<Commit>,
    /// Every position below may have been seen by a reader.
    seen_end: u64,
    /// Commits that begin below may have been dropped.
    oldest: u64,
    server_id: Option<[u8; 16]>,
    /// Last sequence number of each agent, as the writer has it.
    seqs: BTreeMap<u8, u64>,
}

impl Model {
    /// Appends a random commit: byes, then up to three frames, maybe without events; without frames, a request.
    pub(super) fn append(&mut self, writer: &mut Writer, random: &mut Random) -> Result<(), AppendError> {
        let (origins, request) = ([origin(1), origin(2)], request_origin());
        let mut frames = Vec::new();
        let byes: Vec<_> = self.may_leave().filter(|_| random.next_u64().is_multiple_of(4)).collect();
        let mut seqs = self.seqs.clone();
        for _ in 0..random.next_u64() % 4 {
            let agent = 1 + (random.next_u64() % 2) as u8;
            let seq = seqs.entry(agent).or_default();
            *seq += 1;
            frames.push((
                agent,
                *seq,
                random.next_u64() as u32 % 3,
                payload(agent, *seq, random.next_u64() as usize % 150),
            ));
        }
        let leaving = byes.iter().map(|(agent, last_seq)| bye(&origins[usize::from(*agent) - 1], *last_seq));
        let sending = frames
            .iter()
            .map(|(agent, seq, events, payload)| frame(&origins[usize::from(*agent) - 1], *seq, *events, payload));
        let mut entries: Vec<_> = leaving.chain(sending).collect();
        if frames.is_empty() {
            entries.push(Entry {
                kind: Kind::Request,
                events: 1,
                ..frame(&request, 0, 1, b"over HTTP, with a payload")
            });
        }
        let first_position = writer.append(&entries)?;
        assert!(first_position >= self.seen_end, "position {first_position} is used again");
        self.seqs = seqs;
        self.commits.push(Commit {
            first_position,
            events: entries.iter().map(|entry| u64::from(entry.events)).sum(),
            payload: entries.iter().flat_map(|entry| entry.payload.iter().copied()).collect(),
            frames: frames.iter().map(|(agent, seq, ..)| (*agent, *seq)).collect(),
            byes,
            synced: false,
        });
        Ok(())
    }

    /// The agents that may send BYE, for all that they sent is synced; with the last number of each.
    fn may_leave(&self) -> impl Iterator<Item = (u8, u64)> {
        let unsynced = |agent: u8| {
            let frames = self.commits.iter().filter(|commit| !commit.synced).flat_map(|commit| &commit.frames);
            frames.filter(move |frame| frame.0 == agent).count()
        };
        self.seqs
            .iter()
            .map(|(agent, seq)| (*agent, *seq))
            .filter(move |(agent, seq)| *seq > 0 && unsynced(*agent) == 0)
    }

    pub(super) fn sync(&mut self, writer: &mut Writer) -> Result<(), LogFailure> {
        writer.sync()?;
        self.commits.iter_mut().for_each(|commit| commit.synced = true);
        self.seen_end = self.seen_end.max(writer.next_position());
        Ok(())
    }

    /// Segments were deleted, or it was tried.
    pub(super) fn dropped(&mut self, log: &Log) {
        self.oldest = self.oldest.max(log.oldest());
    }

    /// What a reader must find: every synced commit, others as they were appended or not at all, no frame twice.
    /// An error of the disk is met twice before it is believed: the reader stands where it stood.
    pub(super) fn check_read(&mut self, log: &Arc<Log>) -> io::Result<()> {
        let mut reader = log.reader(1);
        let mut found = BTreeMap::new();
        let mut next = 1;
        while let Some(read) = reader.read_next().or_else(|_| reader.read_next())? {
            match read {
                Read::Batch(batch) => {
                    assert_eq!(batch.first_position(), next, "positions without a word about them");
                    next = batch.end_position();
                    found.insert(batch.first_position(), joined(&batch));
                }
                Read::Missing { positions, .. } => {
                    assert_eq!(positions.start, next);
                    next = positions.end;
                }
            }
        }
        assert_eq!(next, log.end(), "the reader stops at the end");
        let mut frames = BTreeSet::new();
        self.commits.retain_mut(|commit| {
            // Without events there is nothing to read; the marks tell of it.
            let is_found = found.get(&commit.first_position) == Some(&commit.payload) && commit.events > 0;
            let may_be_dropped = commit.first_position < self.oldest;
            assert!(is_found || commit.events == 0 || !commit.synced || may_be_dropped, "{commit:?} is lost");
            if is_found {
                found.remove(&commit.first_position);
                for frame in &commit.frames {
                    assert!(frames.insert(*frame), "frame {frame:?} is stored twice");
                }
                commit.synced = true;
            }
            // Whoever was forgotten stays so, whatever becomes of the segment.
            let is_kept = !may_be_dropped || !commit.byes.is_empty();
            is_found || (commit.synced && is_kept) || commit.events == 0
        });
        assert!(found.is_empty(), "nobody appended {found:?}");
        Ok(())
    }

    /// After a new start: the same log, every position new, marks as the commits that are there.
    pub(super) fn check_opened(&mut self, opened: &Opened) -> io::Result<()> {
        let server_id = *self.server_id.get_or_insert(opened.server_id);
        if self.commits.iter().any(|commit| commit.synced) {
            assert_eq!(opened.server_id, server_id, "another log");
        }
        self.server_id = Some(opened.server_id);
        let next = opened.writer.next_position();
        assert!(next >= self.seen_end, "{next} is below {}, {}", self.seen_end, opened.report);
        self.seen_end = next;
        self.check_read(&opened.log)?;
        for agent in [1, 2] {
            let of = |entries: &[(u8, u64)]| entries.iter().filter(|(by, _)| *by == agent).map(|(_, seq)| *seq).max();
            let synced = || self.commits.iter().filter(|commit| commit.synced);
            let acknowledged = synced().filter_map(|commit| of(&commit.frames)).max().unwrap_or(0);
            let sent_bye = self.commits.iter().filter_map(|commit| of(&commit.byes)).max().unwrap_or(0);
            let forgotten = synced().filter_map(|commit| of(&commit.byes)).max().unwrap_or(0);
            let sent = self.seqs.get(&agent).copied().unwrap_or(0);
            let mark = opened.marks.iter().find(|mark| mark.agent_id == [agent; 16]).map(|mark| mark.last_seq);
            match mark {
                Some(mark) => {
                    assert!((acknowledged..=sent).contains(&mark), "mark {mark} of {acknowledged}..={sent}");
                    assert!(mark > forgotten, "mark {mark} of an agent that sent BYE after {forgotten}");
                }
                None => assert!(sent_bye >= acknowledged, "no mark, {acknowledged} is acknowledged, BYE {sent_bye}"),
            }
            // An agent that is forgotten continues after what was acknowledged, of which segments may have been deleted.
            self.seqs.insert(agent, mark.unwrap_or(acknowledged.max(sent_bye)));
        }
        // What recovery did not keep is gone for good: the agent sends it again.
        let seqs = self.seqs.clone();
        self.commits.retain(|commit| commit.synced || commit.frames.iter().all(|(agent, seq)| *seq <= seqs[agent]));
        Ok(())
    }
}

fn joined(batch: &Batch) -> Vec<u8> {
    for run in batch.runs() {
        if let Some([agent, ..]) = run.origin.agent_id {
            assert_eq!(run.origin, origin(agent));
        }
    }
    batch.runs().iter().flat_map(|run| run.payload.iter().copied()).collect()
}
