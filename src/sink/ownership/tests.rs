//! The rules alone, then with stores that are a few numbers: every order of connects, commits, lost answers and restarts.

use super::*;
use crate::random::Random;

const LOG_END: u64 = 100;

fn process(owner: u8, log_end: u64, keys: usize) -> Ownership {
    Ownership::new("main", &Identity { server_id: [1; 16], owner: [owner; 16], log_end }, keys)
}

fn held(position: u64, owner: u8) -> Option<Held> {
    Some(Held { position, owner: uuid(&[owner; 16]) })
}

fn owner_at(position: u64) -> Ownership {
    let mut ownership = process(1, LOG_END, 1);
    ownership.taken(FIRST, position);
    ownership
}

fn fenced(position: u64) -> OwnershipError {
    OwnershipError::Fenced { sink: "main".into(), position }
}

fn wording(position: u64, _: Proof) -> Wording {
    Wording {
        place: "the row".into(),
        events: "the table".into(),
        cause: "it was removed",
        restore: format!("RESTORE {position}"),
        otherwise: "or do nothing".into(),
    }
}

// ---- connecting ----

#[test]
fn the_first_connect_takes_a_position_that_the_log_reaches() {
    let new = process(1, LOG_END, 1);
    for (found, expected) in [
        (None, Connect::New),
        (held(0, 1), Connect::Take { position: 0 }),
        (held(7, 2), Connect::Take { position: 7 }),
        (held(LOG_END - 1, 2), Connect::Take { position: LOG_END - 1 }),
        (held(LOG_END, 2), Connect::LeaveAlone { position: LOG_END }),
        (held(LOG_END + 5, 1), Connect::LeaveAlone { position: LOG_END + 5 }),
    ] {
        assert_eq!(new.connect(FIRST, found.as_ref()), Ok(expected), "{found:?}");
    }
    assert!(!new.is_owner());
}

#[test]
fn a_later_connect_verifies_and_reads() {
    let owner = owner_at(5);
    for (found, expected) in [
        (None, Ok(Connect::New)),
        (held(5, 1), Ok(Connect::Take { position: 5 })),
        // What it has delivered itself is beyond the end that the log had at the start.
        (held(LOG_END + 9, 1), Ok(Connect::Take { position: LOG_END + 9 })),
        (held(5, 2), Err(fenced(5))),
        (held(LOG_END, 2), Err(fenced(LOG_END))),
    ] {
        assert_eq!(owner.connect(FIRST, found.as_ref()), expected, "{found:?}");
    }
}

#[test]
fn a_process_owns_all_keys_or_none() {
    let mut ownership = process(1, LOG_END, 3);
    for key in 0..3 {
        assert!(!ownership.is_owner() && ownership.is_of_newer_log(LOG_END));
        // It takes them again, from whoever took them meanwhile.
        assert_eq!(ownership.connect(FIRST, held(4, 2).as_ref()), Ok(Connect::Take { position: 4 }));
        ownership.taken(key, 10 + key as u64);
    }
    assert!(ownership.is_owner() && !ownership.is_of_newer_log(LOG_END));
    assert_eq!((ownership.lowest(), ownership.position(2), ownership.position(3)), (10, 12, 0));
    assert_eq!(ownership.connect(FIRST, held(4, 2).as_ref()), Err(fenced(4)));
    // Of the others only the first one shows which process is the newest.
    assert_eq!(ownership.connect(1, held(4, 2).as_ref()), Ok(Connect::Take { position: 4 }));
}

// ---- missing positions ----

#[test]
fn a_position_is_missing_only_beside_events_of_the_log() {
    let check = |seen: u64, remains| match owner_at(seen).check_missing(FIRST, remains, wording) {
        Ok(()) => None,
        Err(OwnershipError::Missing(missing)) => Some((missing.position, missing.proof)),
        Err(other) => panic!("{other}"),
    };
    for (seen, remains, expected) in [
        (0, Remains::Nothing, None),
        (5, Remains::Nothing, None),
        (0, Remains::Events(3), Some((3, Proof::Events))),
        // What comes again is recognized, so nothing that the store has lost is skipped.
        (5, Remains::Events(3), Some((3, Proof::Events))),
        (0, Remains::Partly(Some(3)), Some((3, Proof::Events))),
        (5, Remains::Partly(Some(3)), Some((5, Proof::Events))),
        (5, Remains::Partly(None), Some((5, Proof::Seen))),
        (0, Remains::Partly(None), None),
    ] {
        assert_eq!(check(seen, remains), expected, "{seen} {remains:?}");
    }
}

#[test]
fn messages_name_the_place_and_the_next_step() {
    let reason = |error: OwnershipError| error.at(&"pg");
    assert_eq!(
        reason(fenced(7)),
        Unavailable::down(
            "pg: fenced at position 7: another server with the same log delivers as sink `main`; stop one of them, then \
             start this one again"
        )
    );
    assert_eq!(
        reason(OwnershipError::Changed),
        Unavailable::retry("pg: the position of this sink was changed by another process: reading it again")
    );
    let missing = |seen, remains| reason(owner_at(seen).check_missing(FIRST, remains, wording).unwrap_err());
    assert_eq!(
        missing(0, Remains::Events(7)),
        Unavailable::down(
            "pg: the row is missing, and the table has events of this log up to position 7: it was removed. To continue \
             after position 7: RESTORE 7; or do nothing"
        )
    );
    assert_eq!(
        missing(8, Remains::Partly(None)),
        Unavailable::down(
            "pg: the row is missing, and the table exists, and this server had reached position 8: it was removed. To \
             continue after position 8: RESTORE 8; or do nothing"
        )
    );
}

// ---- commits ----

#[test]
fn a_commit_that_found_nothing_to_move_was_done_or_is_fenced_or_reads_again() {
    let owner = owner_at(5);
    for (found, expected) in [
        (held(9, 1), Ok(())),
        (held(12, 1), Ok(())),
        (held(9, 2), Ok(())), // stored by the newer owner; the next delivery is fenced
        (held(8, 2), Err(fenced(8))),
        (held(5, 1), Err(OwnershipError::Changed)),
        (held(4, 1), Err(OwnershipError::Changed)),
        (None, Err(OwnershipError::Changed)),
    ] {
        assert_eq!(owner.not_moved(found.as_ref(), 9), expected, "{found:?}");
    }
}

#[test]
fn a_watched_key_is_committed_only_as_it_was_left() {
    let mut owner = process(1, LOG_END, 2);
    owner.taken(FIRST, 5);
    owner.taken(1, 6);
    for (key, found, expected) in [
        (FIRST, held(5, 1), Ok(())),
        (1, held(6, 1), Ok(())),
        (FIRST, held(6, 1), Err(OwnershipError::Changed)),
        (FIRST, held(5, 2), Err(fenced(5))),
        (1, held(6, 2), Err(OwnershipError::Changed)),
        (FIRST, None, Err(OwnershipError::Changed)),
    ] {
        assert_eq!(owner.confirm(key, found.as_ref()), expected, "{key} {found:?}");
    }
}

#[test]
fn a_position_that_moved_without_its_events_is_moved_back() {
    let mut owner = owner_at(5);
    assert_eq!(owner.position_to_restore(FIRST, held(9, 1).as_ref()), None);
    owner.moved_without_events(FIRST, 9);
    assert!(owner.may_be_without_events(FIRST));
    assert_eq!(owner.position_to_restore(FIRST, held(9, 1).as_ref()), Some(5));
    assert_eq!(owner.connect(FIRST, held(9, 1).as_ref()), Ok(Connect::Take { position: 5 }));
    // It did not move, or another process did it.
    for found in [held(5, 1), held(9, 2), None] {
        assert_eq!(owner.position_to_restore(FIRST, found.as_ref()), None, "{found:?}");
    }
    owner.restored(FIRST);
    assert_eq!(owner.connect(FIRST, held(9, 1).as_ref()), Ok(Connect::Take { position: 9 }));
}

// ---- stores that are a few numbers ----

/// What a store with these keys has: events, each by the key that it belongs to.
struct Model {
    keys: Vec<Option<Held>>,
    events: Vec<u64>,
}

impl Model {
    fn new(keys: usize) -> Self {
        Self { keys: vec![None; keys], events: Vec::new() }
    }

    fn last_event(&self, key: usize) -> Option<u64> {
        let own = |position: &u64| self.key_of(*position) == key;
        self.events.iter().copied().filter(own).max()
    }

    fn key_of(&self, position: u64) -> usize {
        usize::try_from(position * 7 / 3).unwrap() % self.keys.len()
    }

    fn append(&mut self, key: usize, after: u64, last: u64) {
        let new: Vec<u64> = (after + 1..=last).filter(|position| self.key_of(*position) == key).collect();
        self.events.extend(new);
    }

    /// As a sink connects. `Ok(None)`: left alone.
    fn connect(&mut self, process: &mut Ownership) -> Result<Option<u64>, OwnershipError> {
        let highest = self.keys.iter().flatten().map(|held| held.position).max().unwrap_or(0);
        if process.is_of_newer_log(highest) {
            return Ok(None);
        }
        for key in 0..self.keys.len() {
            let position = match process.connect(key, self.keys[key].as_ref())? {
                Connect::Take { position } => position,
                Connect::LeaveAlone { .. } => return Ok(None),
                Connect::New => {
                    let remains = match self.last_event(key) {
                        Some(last) if self.keys.len() == 1 => Remains::Events(last),
                        last => Remains::Partly(last),
                    };
                    process.check_missing(key, remains, wording)?;
                    0
                }
            };
            self.keys[key] = Some(Held { position, owner: process.owner().to_owned() });
            process.taken(key, position);
        }
        Ok(Some(process.lowest()))
    }

    /// As a sink with a table delivers: nothing of it, or all. `None`: the answer is lost.
    fn deliver_rows(
        &mut self,
        process: &mut Ownership,
        last: u64,
        is_answer_lost: bool,
    ) -> Option<Result<(), OwnershipError>> {
        let before = process.position(FIRST);
        if before >= last {
            return Some(Ok(()));
        }
        let is_own = |held: &&mut Held| held.owner == process.owner() && held.position == before;
        let result = match self.keys[FIRST].as_mut().filter(is_own) {
            Some(held) => {
                held.position = last;
                self.append(FIRST, before, last);
                Ok(())
            }
            None => process.not_moved(self.keys[FIRST].as_ref(), last),
        };
        if is_answer_lost {
            return None;
        }
        if result.is_ok() {
            process.moved(FIRST, last);
        }
        Some(result)
    }

    /// As a sink with keys delivers: key by key, and sometimes one moves without its events. `None`: an answer is lost.
    fn deliver_entries(
        &mut self,
        process: &mut Ownership,
        last: u64,
        random: &mut Random,
    ) -> Option<Result<(), OwnershipError>> {
        for key in 0..self.keys.len() {
            let before = process.position(key);
            if before >= last {
                continue;
            }
            if let Err(error) = process.confirm(key, self.keys[key].as_ref()) {
                return Some(Err(error));
            }
            self.keys[key].as_mut().unwrap().position = last;
            let chance = random.next_u64() % 16;
            if chance == 0 {
                process.moved_without_events(key, last);
                if random.next_u64().is_multiple_of(2)
                    && let Some(back) = process.position_to_restore(key, self.keys[key].as_ref())
                {
                    self.keys[key].as_mut().unwrap().position = back;
                    process.restored(key);
                }
                return None;
            }
            self.append(key, before, last);
            if chance == 1 {
                return None;
            }
            process.moved(key, last);
        }
        Some(Ok(()))
    }
}

/// Two processes on one store.
struct World {
    random: Random,
    seed: u64,
    store: Model,
    processes: [Ownership; 2],
    is_connected: [bool; 2],
    /// Which one connected last, unless a person has interfered since.
    newest: Option<usize>,
    next_owner: u8,
}

impl World {
    fn new(seed: u64, keys: usize) -> Self {
        Self {
            random: Random::seeded(seed),
            seed,
            store: Model::new(keys),
            processes: [process(1, u64::MAX, keys), process(2, u64::MAX, keys)],
            is_connected: [false; 2],
            newest: None,
            next_owner: 3,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random.next_u64() % limit as u64) as usize
    }

    /// The process that has to move a position back. Redis promises nothing where it is killed before it can.
    fn pending(&self) -> Option<usize> {
        let keys = 0..self.store.keys.len();
        self.processes.iter().position(|process| keys.clone().any(|key| process.may_be_without_events(key)))
    }

    fn step(&mut self) {
        let pending = self.pending();
        let at = pending.unwrap_or(self.below(2));
        match self.below(12) {
            0 if pending.is_none() => {
                let key = self.below(self.store.keys.len());
                self.store.keys[key] = None;
                self.newest = None;
            }
            1 if pending.is_none() => {
                self.processes[at] = process(self.next_owner, u64::MAX, self.store.keys.len());
                self.is_connected[at] = false;
                self.next_owner = self.next_owner % 250 + 1;
                self.newest = self.newest.filter(|newest| *newest != at);
            }
            2..=4 => self.connect(at),
            _ if self.is_connected[at] => self.deliver(at),
            _ => {}
        }
    }

    fn connect(&mut self, at: usize) {
        let was_owner = self.processes[at].is_owner();
        let result = self.store.connect(&mut self.processes[at]);
        self.is_connected[at] = matches!(result, Ok(Some(_)));
        match result {
            Ok(_) => {
                let is_newest = self.newest.is_none_or(|newest| newest == at);
                assert!(!was_owner || is_newest, "seed {}: taken back", self.seed);
                self.newest = Some(at);
            }
            Err(OwnershipError::Missing(missing)) => {
                // A person follows the message, which gives it to the process that wrote it.
                let key = self.store.keys.iter().position(Option::is_none).unwrap();
                let owner = self.processes[at].owner().to_owned();
                self.store.keys[key] = Some(Held { position: missing.position, owner });
                self.newest = None;
            }
            Err(OwnershipError::Fenced { .. }) => assert!(was_owner),
            Err(OwnershipError::Changed) => panic!("seed {}: a connect reads what there is", self.seed),
        }
    }

    fn deliver(&mut self, at: usize) {
        let (process, before) = (&mut self.processes[at], self.store.events.len());
        let last = process.lowest() + 1 + self.random.next_u64() % 5;
        let result = if self.store.keys.len() == 1 && self.seed.is_multiple_of(2) {
            let is_answer_lost = self.random.next_u64().is_multiple_of(8);
            self.store.deliver_rows(process, last, is_answer_lost)
        } else {
            self.store.deliver_entries(process, last, &mut self.random)
        };
        self.is_connected[at] = result == Some(Ok(()));
        let is_replaced = self.newest.is_some_and(|newest| newest != at);
        assert!(!is_replaced || self.store.events.len() == before, "seed {}: it was replaced, and stores", self.seed);
    }

    /// Every event once, and all of them up to the lowest position.
    fn check(&self) {
        let mut events = self.store.events.clone();
        events.sort_unstable();
        assert!(events.windows(2).all(|pair| pair[0] != pair[1]), "seed {}: an event is stored twice", self.seed);
        if self.pending().is_none() {
            let lowest = self.store.keys.iter().map(|held| held.as_ref().map_or(0, |held| held.position)).min();
            let is_stored = |position: u64| events.binary_search(&position).is_ok();
            assert!((1..=lowest.unwrap()).all(is_stored), "seed {}: an event is not stored", self.seed);
        }
    }
}

#[test]
fn every_event_is_stored_once_in_any_order_of_steps() {
    for seed in 0..300 {
        for keys in [1, 3] {
            let mut world = World::new(seed, keys);
            for _ in 0..300 {
                world.step();
                world.check();
            }
        }
    }
}

#[test]
fn an_older_copy_of_the_log_changes_nothing() {
    for keys in [1, 3] {
        let mut store = Model::new(keys);
        let mut owner = process(1, u64::MAX, keys);
        store.connect(&mut owner).unwrap();
        // One key is enough.
        let moved = store.keys[keys - 1].as_mut().unwrap();
        moved.position = LOG_END;
        let before = store.keys.clone();
        let mut older = process(2, LOG_END, keys);
        for _ in 0..2 {
            assert_eq!(store.connect(&mut older), Ok(None));
            assert!(!older.is_owner() && store.keys == before);
        }
        let newer = &mut process(3, LOG_END + 1, keys);
        assert_eq!(store.connect(newer), Ok(Some(if keys == 1 { LOG_END } else { 0 })));
    }
}
