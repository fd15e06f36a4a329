//! Which node of a Cluster has which shard.

use std::sync::Arc;

use redis::Value;
use rustls::ClientConfig;

use super::connection::{Commands, Connection, Trouble};
use super::settings::{Place, Server};
use super::{Node, Redis, Unavailable};

impl Redis {
    /// Asks the first node that answers where the slots are, and connects to every node that has one of ours.
    pub(super) fn open_cluster(
        &mut self,
        servers: Vec<Server>,
        first: &Server,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<(), Unavailable> {
        let hint = self.hint.take().map(|place| Server { place, ..first.clone() });
        let mut failure = None;
        for seed in hint.into_iter().chain(servers) {
            let places = self.connect_to(&seed, tls).and_then(|mut connection| {
                self.places(&seed, &mut connection).map_err(|trouble| self.unavailable(&trouble, ""))
            });
            match places {
                Ok(places) => return self.open_nodes(places, first, tls),
                Err(unavailable) => failure = Some(unavailable),
            }
        }
        Err(failure.unwrap_or_else(|| self.down("no node is named")))
    }

    /// The node of each shard.
    fn places(&self, seed: &Server, connection: &mut Connection) -> Result<Vec<Option<Place>>, Trouble> {
        let mut commands = Commands::default();
        commands.command(&[b"CLUSTER", b"SLOTS"]);
        for shard in &self.shards {
            commands.command(&[b"CLUSTER", b"KEYSLOT", &shard.stream]);
        }
        let mut replies = connection.ask_all(&commands)?.into_iter();
        let ranges = replies.next().as_ref().map(|slots| slot_ranges(slots, seed)).unwrap_or_default();
        let place = |slot| {
            let Value::Int(slot) = slot else { return None };
            let (_, place) = ranges.iter().find(|(range, _)| range.contains(&slot))?;
            Some(place.clone())
        };
        Ok(replies.map(place).collect())
    }

    fn open_nodes(
        &mut self,
        places: Vec<Option<Place>>,
        login: &Server,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<(), Unavailable> {
        let mut nodes: Vec<Node> = Vec::new();
        let mut indices = Vec::with_capacity(self.shards.len());
        for place in places {
            let Some(place) = place else {
                return Err(self.retry("CLUSTERDOWN no node serves a slot: see `redis-cli cluster info`"));
            };
            let index = match nodes.iter().position(|node| node.server.place == place) {
                Some(index) => index,
                None => {
                    let server = Server { place, ..login.clone() };
                    let connection = self.connect_to(&server, tls)?;
                    nodes.push(Node { server, connection });
                    nodes.len() - 1
                }
            };
            indices.push(index);
        }
        self.nodes = nodes;
        for (shard, index) in self.shards.iter_mut().zip(indices) {
            shard.node = index;
        }
        Ok(())
    }
}

/// Slots and the primary that serves them, of a reply to CLUSTER SLOTS: `[[first, last, [host, port, …], replica …] …]`.
fn slot_ranges(reply: &Value, asked: &Server) -> Vec<(std::ops::RangeInclusive<i64>, Place)> {
    let Value::Array(ranges) = reply else { return Vec::new() };
    let range = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else { return None };
        let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
        let host = match (host, &asked.place) {
            (Value::BulkString(host), _) if !host.is_empty() && host != b"?" => String::from_utf8(host.clone()).ok()?,
            // It does not know its own name: the one under which it was reached.
            (_, Place::Tcp(host, _)) => host.clone(),
            (_, Place::Unix(_)) => return None,
        };
        Some((*first..=*last, Place::Tcp(host, u16::try_from(*port).ok()?)))
    };
    ranges.iter().filter_map(range).collect()
}
