//! Redis Streams: entries and position in one transaction, alone or on a Cluster.
//!
//! ```text
//!  for each shard k that is behind:             <stream>:{k}                          the entries
//!    WATCH, GET position, TYPE stream           <stream>:{k}:position:<log>:<sink>    "position owner shards"
//!    MULTI                                      {k} is the hash tag: both lie in one slot, on one node of a Cluster
//!      XADD … XADD
//!      SET position                             EXEC returns nil: the position was moved meanwhile, look again
//!    EXEC
//! ```
//!
//! An event goes to shard crc32(source) mod shards, so events of one source stay in order.
//!
//! **Positions.** Every shard has its own; each delivery moves them all. A sink goes on from the lowest, and a shard that is
//! ahead skips what it has: nothing is doubled where a delivery reached some of the shards only.
//!
//! A key that is missing beside entries of this log is not a new beginning (`missing`).
//!
//! **Fencing.** Each position names its owner; who holds shard 0 is the owner of all. As in `sqlite`, the first connect of
//! a process takes it, a later one only looks.
//!
//! **Cluster.** A connection to each node that has a shard. MOVED: the slots are asked for again by the next connect, of
//! the node that MOVED named. ASK: the transaction is done on the node that is named, this once. A slot in the middle of
//! its move is waited for: one key is here, the other there.
//!
//! **What can be lost.** Redis replicates after it answers. A failover to a replica that was behind loses entries together
//! with the position that counts them; so the streams stay whole up to some point, and the position read on connect
//! says up to which. What came after it is delivered again only where the router still has it.
//!
//! **Replay** adds entries and leaves the positions alone. A stream has no key by which Redis could recognise that an
//! entry is there already, so a replay whose answer is lost, and that is done again, stores them twice.

mod cluster;
mod connection;
mod entry;
mod errors;
mod mismatch;
mod missing;
#[cfg(test)]
mod missing_tests;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

use std::sync::Arc;

use redis::Value;
use rustls::ClientConfig;

use self::connection::{Commands, Connection, Trouble};
use self::entry::Entry;
use self::errors::{Verdict, verdict};
pub use self::settings::{KIND, Settings};
use self::settings::{Place, Server};
use super::{Failure, Identity, ShardPositions, Sink, Unavailable, tls, uuid};
use crate::batch::Delivery;

/// The sink, with its connections.
pub struct Redis {
    settings: Settings,
    server_id: String,
    owner: String,
    /// A position from here on is another, newer log's.
    log_end: u64,
    /// This process has taken the position once.
    owned: bool,
    shards: Vec<Shard>,
    nodes: Vec<Node>,
    /// Knows more than the nodes in the settings: MOVED named it.
    hint: Option<Place>,
    entry: Entry,
}

struct Shard {
    stream: Vec<u8>,
    position_key: Vec<u8>,
    /// The store's position as of the last look or commit.
    position: u64,
    /// Index of its node.
    node: usize,
    /// The id of the entry that this process added last.
    last_id: Option<Vec<u8>>,
    /// What is to be sent of the delivery in hand.
    commands: Commands,
    /// The position was moved to this without its entries, and is to be moved back to `position`.
    undo: Option<u64>,
}

struct Node {
    server: Server,
    connection: Connection,
}

/// The value of a position's key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    position: u64,
    owner: String,
    shards: u64,
}

impl Held {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let held = Self {
            position: words.next()?.parse().ok()?,
            owner: words.next()?.to_owned(),
            shards: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(held)
    }
}

/// Why a shard has not done its part.
enum Stop {
    Trouble(Trouble),
    Unavailable(Unavailable),
    /// The position's key changed between WATCH and EXEC.
    Changed,
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

impl Redis {
    /// A sink that is not connected. `sink`: its name, under which positions are stored.
    pub fn new(sink: &str, settings: &Settings, identity: &Identity) -> Self {
        let server_id = uuid(&identity.server_id);
        let shard = |shard| {
            let stream = format!("{}:{{{shard}}}", settings.stream);
            Shard {
                position_key: format!("{stream}:position:{server_id}:{sink}").into_bytes(),
                stream: stream.into_bytes(),
                position: 0,
                node: 0,
                last_id: None,
                commands: Commands::default(),
                undo: None,
            }
        };
        Self {
            shards: (0..settings.shards()).map(shard).collect(),
            settings: settings.clone(),
            owner: uuid(&identity.owner),
            log_end: identity.log_end,
            owned: false,
            nodes: Vec::new(),
            hint: None,
            entry: Entry::default(),
            server_id,
        }
    }

    fn lowest(&self) -> u64 {
        self.shards.iter().map(|shard| shard.position).min().unwrap_or(0)
    }

    // ---- connecting ----

    fn open(&mut self) -> Result<(), Unavailable> {
        let servers = self.settings.servers().map_err(|why| self.down(&why))?;
        let first = servers.first().cloned().ok_or_else(|| self.down("no server is named"))?;
        let tls = match servers.iter().any(|server| server.tls) {
            true => Some(tls::verifying(self.settings.ca_file.as_deref()).map_err(|why| self.down(&why))?),
            false => None,
        };
        if self.settings.is_cluster() {
            return self.open_cluster(servers, &first, tls.as_ref());
        }
        let connection = self.connect_to(&first, tls.as_ref())?;
        self.nodes = vec![Node { server: first, connection }];
        for shard in &mut self.shards {
            shard.node = 0;
        }
        Ok(())
    }

    fn connect_to(&self, server: &Server, tls: Option<&Arc<ClientConfig>>) -> Result<Connection, Unavailable> {
        Connection::open(server, tls, self.settings.timeout)
            .map_err(|trouble| self.unavailable(&trouble, &format!("{}: ", server.place)))
    }

    /// Takes the positions, or looks whether they are still ours. Returns the lowest; one that this log does not reach,
    /// where a shard has one: then all are left alone.
    fn prepare(&mut self) -> Result<u64, Unavailable> {
        if !self.owned {
            let mut highest = 0;
            for index in 0..self.shards.len() {
                self.at_its_node(index, |sink, connection, asking| {
                    let (held, _) = sink.look(index, connection, asking)?;
                    highest = held.map_or(highest, |held| held.position.max(highest));
                    Ok(())
                })?;
            }
            if highest >= self.log_end {
                self.nodes.clear();
                return Ok(highest);
            }
        }
        for index in 0..self.shards.len() {
            self.at_its_node(index, |sink, connection, asking| sink.take(index, connection, asking))?;
        }
        self.owned = true;
        Ok(self.lowest())
    }

    fn take(&mut self, index: usize, connection: &mut Connection, asking: bool) -> Result<(), Stop> {
        let (held, has_stream) = self.look(index, connection, asking)?;
        let is_first = index == 0;
        if let Some(held) = &held {
            self.check_shards(held)?;
            if is_first && self.owned && held.owner != self.owner {
                return Err(Stop::Unavailable(self.fenced(held.position)));
            }
        }
        if held.is_none() && has_stream {
            self.check_missing(index, connection, asking)?;
        }
        let Some(shard) = self.shards.get_mut(index) else { return Ok(()) };
        let stored = held.map_or(0, |held| held.position);
        // Back to where its entries end, if this process knows that they did not get in.
        let position = if shard.undo == Some(stored) { shard.position } else { stored };
        shard.commands.clear();
        self.commit(index, Some(position), connection, asking)?;
        if let Some(shard) = self.shards.get_mut(index) {
            (shard.position, shard.undo) = (position, None);
        }
        Ok(())
    }

    fn check_shards(&self, held: &Held) -> Result<(), Stop> {
        let (was, is) = (held.shards, self.settings.shards());
        if was == is {
            return Ok(());
        }
        Err(Stop::Unavailable(self.down(&format!(
            "written with {was} shards so far, now set to {is}: set shards = {was}, or another stream"
        ))))
    }

    // ---- transactions ----

    /// Runs `step` with the connection of the shard's node; once more with another node where Redis answers ASK.
    fn at_its_node(
        &mut self,
        index: usize,
        mut step: impl FnMut(&mut Self, &mut Connection, bool) -> Result<(), Stop>,
    ) -> Result<(), Unavailable> {
        let node = self.shards.get(index).map_or(0, |shard| shard.node);
        // Taken out, so that the step may use the rest of the sink; the last one takes its place.
        if node >= self.nodes.len() {
            return Err(self.retry("not connected"));
        }
        let mut connections = std::mem::take(&mut self.nodes);
        let result = match connections.get_mut(node) {
            Some(Node { connection, server }) => {
                let mut stop = step(self, connection, false);
                if let Err(Stop::Trouble(trouble)) = &stop
                    && let Verdict::Ask(host, port) = verdict(trouble)
                {
                    stop = self.at_the_asked_node(server, host, port, &mut step);
                }
                stop
            }
            None => Ok(()),
        };
        match result {
            Ok(()) => {
                self.nodes = connections;
                Ok(())
            }
            // What else went wrong is left behind with the connections: the next connect looks at everything anew.
            Err(Stop::Unavailable(unavailable)) => Err(unavailable),
            Err(Stop::Changed) => Err(self.retry("the position of this sink was changed")),
            Err(Stop::Trouble(trouble)) => {
                if let Verdict::Moved(host, port) = verdict(&trouble)
                    && !host.is_empty()
                {
                    self.hint = Some(Place::Tcp(host, port));
                }
                Err(self.unavailable(&trouble, ""))
            }
        }
    }

    fn at_the_asked_node(
        &mut self,
        asked_by: &Server,
        host: String,
        port: u16,
        step: &mut impl FnMut(&mut Self, &mut Connection, bool) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let host = match &asked_by.place {
            Place::Tcp(same, _) if host.is_empty() => same.clone(),
            _ => host,
        };
        let server = Server { place: Place::Tcp(host, port), ..asked_by.clone() };
        let tls = match server.tls {
            true => Some(
                tls::verifying(self.settings.ca_file.as_deref()).map_err(|why| Stop::Unavailable(self.down(&why)))?,
            ),
            false => None,
        };
        let mut connection = Connection::open(&server, tls.as_ref(), self.settings.timeout)?;
        step(self, &mut connection, true)
    }

    /// Watches the shard's position and reads it, and looks whether the stream is there: it must be one, or none yet.
    fn look(&self, index: usize, connection: &mut Connection, asking: bool) -> Result<(Option<Held>, bool), Stop> {
        let Some(shard) = self.shards.get(index) else { return Ok((None, false)) };
        let mut commands = Commands::default();
        for command in [[&b"WATCH"[..], &shard.position_key], [b"GET", &shard.position_key], [b"TYPE", &shard.stream]] {
            if asking {
                commands.command(&[b"ASKING"]);
            }
            commands.command(&command);
        }
        let replies = connection.ask_each(&commands)?;
        let mut answers = replies.into_iter().skip(usize::from(asking)).step_by(1 + usize::from(asking));
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil)).map_err(Trouble::Server);
        next()?; // of WATCH
        let held = match next()? {
            Value::Nil => None,
            Value::BulkString(text) => match Held::parse(&text) {
                Some(held) => Some(held),
                None => {
                    let key = String::from_utf8_lossy(&shard.position_key);
                    let why = format!(
                        "the key {key} is not what this sink wrote there: put its value back, or set another stream"
                    );
                    return Err(Stop::Unavailable(self.down(&why)));
                }
            },
            other => return Err(Trouble::unexpected(&other).into()),
        };
        match next() {
            Ok(Value::SimpleString(kind)) if kind == "none" || kind == "stream" => Ok((held, kind == "stream")),
            Ok(Value::SimpleString(kind)) => {
                let key = String::from_utf8_lossy(&shard.stream);
                let why =
                    format!("WRONGTYPE the key {key} is a {kind}, not a stream: rename it, or set another stream");
                Err(Stop::Unavailable(self.down(&why)))
            }
            // The position is here, the stream is not or no longer: the other node knows nothing of the position yet.
            Err(trouble) if matches!(verdict(&trouble), Verdict::Ask(..)) => {
                Err(Stop::Unavailable(self.retry("the slot of a shard is being moved to another node")))
            }
            Err(trouble) => Err(trouble.into()),
            Ok(other) => Err(Trouble::unexpected(&other).into()),
        }
    }

    /// Sends the shard's commands and its new position in one transaction, under the WATCH of [`Redis::look`]. Without a
    /// position: the commands alone, whatever the position is.
    fn commit(
        &mut self,
        index: usize,
        position: Option<u64>,
        connection: &mut Connection,
        asking: bool,
    ) -> Result<(), Stop> {
        let value = position.map(|position| format!("{position} {} {}", self.owner, self.settings.shards()));
        let Some(shard) = self.shards.get_mut(index) else { return Ok(()) };
        let mut commands = Commands::default();
        if asking {
            // Holds until EXEC.
            commands.command(&[b"ASKING"]);
        }
        commands.command(&[b"MULTI"]);
        if connection.takes_multi {
            connection.send(&commands)?;
        } else {
            connection.ask_all(&commands)?;
            connection.takes_multi = true;
            commands.clear();
        }
        connection.send(&shard.commands)?;
        let mut end = Commands::default();
        if let Some(value) = &value {
            end.command(&[b"SET", &shard.position_key, value.as_bytes()]);
        }
        end.command(&[b"EXEC"]);
        connection.send(&end)?;

        // The first error says why; EXEC then only says that there was one.
        let mut refused = None;
        for index in 0..commands.count() + shard.commands.count() + end.count() - 1 {
            match connection.reply() {
                Ok(_) => {}
                Err(Trouble::Server(error)) => {
                    if index < commands.count() {
                        // MULTI is no longer allowed: what follows it was executed by itself, the position too.
                        shard.undo = position;
                    }
                    refused = refused.or(Some(error));
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
        let answers = match connection.reply() {
            Err(Trouble::Server(error)) => return Err(Trouble::Server(refused.unwrap_or(error)).into()),
            Err(trouble) => return Err(trouble.into()),
            Ok(Value::Nil) => return Err(Stop::Changed),
            Ok(Value::Array(answers)) => answers,
            Ok(other) => return Err(Trouble::unexpected(&other).into()),
        };
        // SET answers OK, which is of another kind.
        let last_id = answers.iter().rev().find_map(|answer| match answer {
            Value::BulkString(id) => Some(id.clone()),
            _ => None,
        });
        shard.last_id = last_id.or_else(|| shard.last_id.take());
        // Redis does not undo: the position has moved although an entry was refused.
        let failed = answers.into_iter().find_map(|answer| match answer {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        match failed {
            None => Ok(()),
            Some(error) => {
                shard.undo = position;
                Err(Trouble::Server(error).into())
            }
        }
    }

    /// The shard's part of a delivery that ends at `last`.
    fn store(&mut self, index: usize, last: u64, connection: &mut Connection, asking: bool) -> Result<(), Stop> {
        let (held, _) = self.look(index, connection, asking)?;
        let expected = self.shards.get(index).map_or(0, |shard| shard.position);
        match held {
            Some(held) if held.owner != self.owner && index == 0 => {
                return Err(Stop::Unavailable(self.fenced(held.position)));
            }
            Some(held) if held.owner == self.owner && held.position == expected => {}
            // Who holds shard 0 has to be asked: the next connect does.
            _ => return Err(Stop::Changed),
        }
        let committed = self.commit(index, Some(last), connection, asking);
        if committed.is_err() {
            // Else a stop before the next connect would leave the position ahead of its entries.
            self.move_back(index, connection, asking);
        }
        committed?;
        if let Some(shard) = self.shards.get_mut(index) {
            shard.position = last;
        }
        Ok(())
    }

    /// Takes back a position that was moved without its entries. Where that fails, the next connect does it.
    fn move_back(&mut self, index: usize, connection: &mut Connection, asking: bool) {
        let Some(shard) = self.shards.get(index) else { return };
        let (before, Some(moved)) = (shard.position, shard.undo) else { return };
        let is_ours = |held: Held| held.position == moved && held.owner == self.owner;
        let Ok((held, _)) = self.look(index, connection, asking) else { return };
        if !held.is_some_and(is_ours) {
            return;
        }
        if let Some(shard) = self.shards.get_mut(index) {
            shard.commands.clear();
        }
        if self.commit(index, Some(before), connection, asking).is_ok()
            && let Some(shard) = self.shards.get_mut(index)
        {
            shard.undo = None;
        }
    }

    /// Writes the events of each shard that it does not have yet.
    fn encode(&mut self, delivery: &Delivery) {
        for shard in &mut self.shards {
            shard.commands.clear();
        }
        let shards = self.shards.len();
        for record in delivery.records() {
            let shard = self.shards.get_mut(ShardPositions::shard_of(record.source(), shards));
            if let Some(shard) = shard.filter(|shard| record.position > shard.position) {
                let (stream, maxlen) = (&shard.stream, self.settings.maxlen);
                self.entry.add(stream, maxlen, &self.server_id, &record, &mut shard.commands);
            }
        }
    }

    // ---- words ----

    fn fenced(&self, position: u64) -> Unavailable {
        self.down(&format!(
            "fenced at position {position}: another server with the same log delivers to this stream; stop one of them, \
             then start this one again"
        ))
    }

    fn retry(&self, reason: &str) -> Unavailable {
        Unavailable::retry(format!("{}: {reason}", self.settings.output()))
    }

    fn down(&self, reason: &str) -> Unavailable {
        Unavailable::down(format!("{}: {reason}", self.settings.output()))
    }

    fn unavailable(&self, trouble: &Trouble, place: &str) -> Unavailable {
        let answer = self.settings.hide(&trouble.to_string());
        let reason = |advice: &str| {
            let separator = if advice.is_empty() { "" } else { ": " };
            format!("{place}{answer}{separator}{advice}")
        };
        match verdict(trouble) {
            Verdict::Retry(advice) => self.retry(&reason(advice)),
            Verdict::Down(advice) => self.down(&reason(advice)),
            Verdict::Moved(..) if !self.settings.is_cluster() => {
                self.down(&reason("this is a node of a Redis Cluster: name its nodes in urls, not in url"))
            }
            Verdict::Moved(..) | Verdict::Ask(..) => self.retry(&reason("")),
        }
    }
}

impl Sink for Redis {
    fn probe(&mut self) -> Result<(), Unavailable> {
        self.nodes.clear();
        self.open()?;
        for index in 0..self.shards.len() {
            self.at_its_node(index, |sink, connection, asking| match sink.look(index, connection, asking)? {
                (Some(held), _) => sink.check_shards(&held),
                (None, true) => sink.check_missing(index, connection, asking),
                (None, false) => Ok(()),
            })?;
        }
        self.nodes.clear();
        Ok(())
    }

    fn stored_position(&mut self) -> Result<Option<u64>, Unavailable> {
        self.nodes.clear();
        self.open()?;
        let mut lowest = u64::MAX;
        for index in 0..self.shards.len() {
            self.at_its_node(index, |sink, connection, asking| {
                let (held, _) = sink.look(index, connection, asking)?;
                lowest = lowest.min(held.map_or(0, |held| held.position));
                Ok(())
            })?;
        }
        self.nodes.clear();
        Ok(Some(if self.shards.is_empty() { 0 } else { lowest }))
    }

    fn connect(&mut self) -> Result<Option<u64>, Unavailable> {
        self.nodes.clear();
        self.open()?;
        self.prepare().map(Some)
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let last = delivery.last_position();
        if self.lowest() >= last {
            return Ok(());
        }
        if self.nodes.is_empty() {
            return Err(self.retry("not connected").into());
        }
        self.encode(delivery);
        for index in 0..self.shards.len() {
            if self.shards.get(index).is_some_and(|shard| shard.position < last) {
                self.at_its_node(index, |sink, connection, asking| sink.store(index, last, connection, asking))?;
            }
        }
        Ok(())
    }

    fn shard_positions(&self) -> Option<ShardPositions> {
        let positions = || self.shards.iter().map(|shard| shard.position).collect();
        (self.shards.len() > 1).then(|| ShardPositions::new(positions()))
    }

    fn replays(&self) -> bool {
        true
    }

    fn replay(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        if self.nodes.is_empty() {
            self.open()?;
        }
        // No shard has a position here: all events are written.
        self.encode(delivery);
        for index in 0..self.shards.len() {
            if self.shards.get(index).is_some_and(|shard| shard.commands.count() > 0) {
                self.at_its_node(index, |sink, connection, asking| sink.commit(index, None, connection, asking))?;
            }
        }
        Ok(())
    }
}
