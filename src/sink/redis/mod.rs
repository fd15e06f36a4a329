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
//! **Fencing**: see [`ownership`](super::ownership), with a key per shard; the commands are in `position`.
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
mod encode;
mod errors;
mod mismatch;
mod missing;
mod position;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::ClientConfig;

use self::connection::{Commands, Connection, Trouble};
use self::encode::Entry;
use self::errors::{Verdict, verdict};
pub use self::settings::{KIND, RedisSettings};
use self::settings::{Place, Server};
use super::ownership::{Ownership, OwnershipError};
use super::{Failure, Identity, ShardPositions, Sink, Unavailable, tls};
use crate::batch::Delivery;

/// The sink, with its connections.
pub struct Redis {
    settings: RedisSettings,
    /// A shard has the key of its index.
    ownership: Ownership,
    shards: Vec<Shard>,
    nodes: Vec<Node>,
    /// Knows more than the nodes in the settings: MOVED named it.
    hint: Option<Place>,
    entry: Entry,
}

struct Shard {
    stream: Vec<u8>,
    position_key: Vec<u8>,
    /// Index of its node.
    node: usize,
    /// The id of the entry that this process added last.
    last_id: Option<Vec<u8>>,
    /// What is to be sent of the delivery in hand.
    commands: Commands,
}

struct Node {
    server: Server,
    connection: Connection,
}

/// Why a shard has not done its part.
enum Stop {
    Trouble(Trouble),
    Unavailable(Unavailable),
    Ownership(OwnershipError),
}

impl<T: Into<Trouble>> From<T> for Stop {
    fn from(trouble: T) -> Self {
        Self::Trouble(trouble.into())
    }
}

impl From<OwnershipError> for Stop {
    fn from(error: OwnershipError) -> Self {
        Self::Ownership(error)
    }
}

impl Redis {
    /// A sink that is not connected. `sink`: its name, under which positions are stored.
    pub fn new(sink: &str, settings: &RedisSettings, identity: &Identity) -> Self {
        let shards = settings.shards;
        let ownership = Ownership::new(sink, identity, usize::try_from(shards).unwrap_or(usize::MAX));
        let shard = |shard| {
            let stream = format!("{}:{{{shard}}}", settings.stream);
            Shard {
                position_key: format!("{stream}:position:{}:{sink}", ownership.server_id()).into_bytes(),
                stream: stream.into_bytes(),
                node: 0,
                last_id: None,
                commands: Commands::default(),
            }
        };
        Self {
            shards: (0..shards).map(shard).collect(),
            settings: settings.clone(),
            nodes: Vec::new(),
            hint: None,
            entry: Entry::default(),
            ownership,
        }
    }

    // ---- connecting ----

    fn open(&mut self) -> Result<(), Unavailable> {
        let servers = self.settings.servers.clone();
        let first = servers.first().cloned().ok_or_else(|| self.down("no server is named"))?;
        let tls = match servers.iter().any(|server| server.tls) {
            true => Some(tls::verifying(self.settings.ca_file.as_deref()).map_err(|why| self.down(&why))?),
            false => None,
        };
        if self.settings.is_cluster {
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
        if !self.ownership.is_owner() {
            let mut highest = 0;
            for index in 0..self.shards.len() {
                self.at_its_node(index, |sink, connection, asking| {
                    let (held, _) = sink.look(index, connection, asking)?;
                    highest = held.map_or(highest, |written| written.held.position.max(highest));
                    Ok(())
                })?;
            }
            if self.ownership.is_of_newer_log(highest) {
                self.nodes.clear();
                return Ok(highest);
            }
        }
        for index in 0..self.shards.len() {
            self.at_its_node(index, |sink, connection, asking| sink.take(index, connection, asking))?;
        }
        Ok(self.ownership.lowest())
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
            Err(Stop::Ownership(error)) => Err(error.at(&self.settings.place())),
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

    /// Writes the events of each shard that it does not have yet.
    fn encode(&mut self, delivery: &Delivery) {
        for shard in &mut self.shards {
            shard.commands.clear();
        }
        let shards = self.shards.len();
        for record in delivery.records() {
            let index = ShardPositions::shard_of(record.source(), shards);
            if record.position <= self.ownership.position(index) {
                continue;
            }
            if let Some(shard) = self.shards.get_mut(index) {
                let (maxlen, server_id) = (self.settings.maxlen, self.ownership.server_id());
                self.entry.add(&shard.stream, maxlen, server_id, &record, &mut shard.commands);
            }
        }
    }

    // ---- words ----

    fn retry(&self, reason: &str) -> Unavailable {
        Unavailable::retry(format!("{}: {reason}", self.settings.place()))
    }

    fn down(&self, reason: &str) -> Unavailable {
        Unavailable::down(format!("{}: {reason}", self.settings.place()))
    }
}

impl Sink for Redis {
    fn probe(&mut self) -> Result<(), Unavailable> {
        self.nodes.clear();
        self.open()?;
        for index in 0..self.shards.len() {
            self.at_its_node(index, |sink, connection, asking| match sink.look(index, connection, asking)? {
                (Some(written), _) => sink.check_shards(&written),
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
                let (written, _) = sink.look(index, connection, asking)?;
                lowest = lowest.min(written.map_or(0, |written| written.held.position));
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
        if self.ownership.lowest() >= last {
            return Ok(());
        }
        if self.nodes.is_empty() {
            return Err(self.retry("not connected").into());
        }
        self.encode(delivery);
        for index in 0..self.shards.len() {
            if self.ownership.position(index) < last {
                self.at_its_node(index, |sink, connection, asking| sink.store(index, last, connection, asking))?;
            }
        }
        Ok(())
    }

    fn shard_positions(&self) -> Option<ShardPositions> {
        let positions = || (0..self.shards.len()).map(|index| self.ownership.position(index)).collect();
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
