//! Limits on receipt: of the whole server, of each configured client, and of each agent or address. Without limits nothing
//! here is looked at for a frame or a body.
//!
//! What is due by an agent is kept with its mark, so that its session charges it without shared state and reconnecting
//! changes nothing. What is due by an address, or by an agent that sent BYE, is kept in a table of [`RATE_PEERS_MAX`]. The
//! limits of the server and of clients are shared by all loops: one atomic each, for each read of frames and each body.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::marks::AgentId;
use super::recent::Recent;
use crate::ids::ClientId;
use crate::limits::{EVENT_BYTES_MIN, RATE_PEERS_MAX};
use crate::metrics::LimitScope;
use crate::rate::{Amount, Due, Limit, SharedLimit};

/// The limits of the settings.
#[derive(Debug, Default)]
pub struct RateSettings {
    /// For everybody together.
    pub server: Option<Limit>,
    /// For each agent, and for each address that sends over HTTP or syslog.
    pub agent: Option<Limit>,
    /// For each client, by its [`ClientId`].
    pub clients: Vec<Option<Limit>>,
}

/// The limits, and what is due of them.
#[derive(Debug)]
pub struct Rates {
    begin: Instant,
    server: Option<Arc<SharedLimit>>,
    agent: Option<Limit>,
    clients: Vec<Option<Arc<SharedLimit>>>,
    peers: Arc<Mutex<Recent<Peer, Due>>>,
    generation: u64,
}

/// Whose due is kept in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    /// Of IPv6 the first 64 bits: one network, in which a host chooses the rest.
    Address(IpAddr),
    /// It sent BYE.
    Agent(AgentId),
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// An agent, of which so much is due.
    Agent(Due),
    /// Over HTTP or syslog, from this address.
    Address(IpAddr),
}

/// Something received is not paid for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The limit that asks for it.
    pub scope: LimitScope,
    /// How long from now; more may be received meanwhile by those who share the limit.
    pub time: Duration,
}

/// Without limits.
impl Default for Rates {
    fn default() -> Self {
        Self::new(RateSettings::default(), Instant::now())
    }
}

impl Rates {
    /// Nothing is due at `now`, by nobody.
    pub fn new(settings: RateSettings, now: Instant) -> Self {
        let RateSettings { server, agent, clients } = settings;
        let shared = |limit: Option<Limit>| limit.map(|limit| Arc::new(SharedLimit::new(limit)));
        Self {
            begin: now,
            server: shared(server),
            agent,
            clients: clients.into_iter().map(shared).collect(),
            peers: new_peers(),
            generation: 0,
        }
    }

    /// Other limits in place of these. What is due by a limit that stays stays due; nothing is due by a new one.
    pub fn followed_by(&self, settings: RateSettings) -> Self {
        let RateSettings { server, agent, clients } = settings;
        let kept = |limit: Option<Limit>, before: Option<&Arc<SharedLimit>>| {
            let same = before.filter(|before| Some(before.limit()) == limit).cloned();
            same.or_else(|| limit.map(|limit| Arc::new(SharedLimit::new(limit))))
        };
        let is_same = agent == self.agent;
        let of_clients = clients.into_iter().zip(0..);
        Self {
            begin: self.begin,
            server: kept(server, self.server.as_ref()),
            agent,
            clients: of_clients.map(|(limit, id)| kept(limit, self.of_client(Some(ClientId(id))))).collect(),
            peers: if is_same { self.peers.clone() } else { new_peers() },
            generation: self.generation + u64::from(!is_same),
        }
    }

    /// The number of the limit on agents, from 0 on: what is due by an earlier one is void.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether anything limits those who send as `client`.
    pub fn has_limits(&self, client: Option<ClientId>) -> bool {
        self.server.is_some() || self.agent.is_some() || self.of_client(client).is_some()
    }

    /// Whether the sender has to wait, and for the limit on it alone first. `None`: what comes next is admitted.
    pub fn wait(&self, sender: Sender, client: Option<ClientId>, now: Instant) -> Option<Wait> {
        let own = self.agent.and_then(|limit| {
            let (scope, due) = match sender {
                Sender::Agent(due) => (LimitScope::Agent, due),
                Sender::Address(address) => (LimitScope::Address, self.peers().get(Peer::of(address))),
            };
            Some(Wait { scope, time: limit.wait(due, self.nanos(now))? })
        });
        let shared = |scope| Some(Wait { scope, time: self.shared_wait(scope, client, now)? });
        own.or_else(|| shared(LimitScope::Client)).or_else(|| shared(LimitScope::Server))
    }

    /// How long the senders that share a limit have to wait. `None`: not now.
    pub fn shared_wait(&self, scope: LimitScope, client: Option<ClientId>, now: Instant) -> Option<Duration> {
        let limit = match scope {
            LimitScope::Server => self.server.as_deref(),
            LimitScope::Client => self.of_client(client).map(|limit| &**limit),
            LimitScope::Agent | LimitScope::Address => None,
        };
        limit?.wait(self.nanos(now))
    }

    /// Bytes of frames that an agent can send now without being far above a limit when they were read: an event takes at
    /// least [`EVENT_BYTES_MIN`].
    pub fn room_bytes(&self, due: Due, client: Option<ClientId>, now: Instant) -> u64 {
        let now = self.nanos(now);
        let bytes = |Amount { events, bytes }: Amount| events.saturating_mul(EVENT_BYTES_MIN).min(bytes);
        let own = self.agent.map_or(u64::MAX, |limit| bytes(limit.room(due, now)));
        let shared = [self.server.as_ref(), self.of_client(client)];
        shared.into_iter().flatten().map(|limit| bytes(limit.room(now))).fold(own, u64::min)
    }

    /// Charges what was received; returns what is due by the sender then, where it is an agent.
    pub fn charge(&self, sender: Sender, client: Option<ClientId>, received: Amount, now: Instant) -> Due {
        let now = self.nanos(now);
        for limit in [self.server.as_ref(), self.of_client(client)].into_iter().flatten() {
            limit.charge(received, now);
        }
        match (sender, self.agent) {
            (Sender::Agent(due), None) => due,
            (Sender::Agent(due), Some(limit)) => limit.charge(due, received, now),
            (Sender::Address(_), None) => Due::default(),
            (Sender::Address(address), Some(limit)) => {
                let (mut peers, peer) = (self.peers(), Peer::of(address));
                let due = limit.charge(peers.get(peer), received, now);
                peers.set(peer, due);
                due
            }
        }
    }

    /// An agent whose mark is deleted leaves with this due.
    pub fn remember(&self, agent_id: AgentId, due: Due, now: Instant) {
        if self.agent.is_some() && !due.is_paid(self.nanos(now)) {
            self.peers().set(Peer::Agent(agent_id), due);
        }
    }

    /// What is due by an agent that has come back after [`Rates::remember`].
    pub fn remembered(&self, agent_id: AgentId) -> Due {
        if self.agent.is_some() { self.peers().get(Peer::Agent(agent_id)) } else { Due::default() }
    }

    fn of_client(&self, client: Option<ClientId>) -> Option<&Arc<SharedLimit>> {
        self.clients.get(client?.index())?.as_ref()
    }

    /// A thread that panicked leaves the table as it was: each call changes one entry.
    fn peers(&self) -> MutexGuard<'_, Recent<Peer, Due>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn new_peers() -> Arc<Mutex<Recent<Peer, Due>>> {
    Arc::new(Mutex::new(Recent::new(RATE_PEERS_MAX)))
}

impl Peer {
    fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(events_per_second: u64) -> Option<Limit> {
        Limit::new(events_per_second, 0, SECOND)
    }

    fn events(events: u64) -> Amount {
        Amount { events, bytes: 0 }
    }

    fn address(text: &str) -> Sender {
        Sender::Address(text.parse().unwrap())
    }

    #[test]
    fn the_senders_own_limit_comes_before_those_that_it_shares() {
        let now = Instant::now();
        let clients = vec![None, limit(100)];
        let rates = Rates::new(RateSettings { server: limit(1_000), agent: limit(10), clients }, now);
        let client = Some(ClientId(1));
        let due = rates.charge(Sender::Agent(Due::default()), client, events(3_000), now);
        let wait = |due, client, scope, seconds: u32| {
            let expected = Wait { scope, time: seconds * SECOND };
            assert_eq!(rates.wait(Sender::Agent(due), client, now), Some(expected));
        };
        wait(due, client, LimitScope::Agent, 299);
        wait(Due::default(), client, LimitScope::Client, 29);
        wait(Due::default(), Some(ClientId(0)), LimitScope::Server, 2);
        wait(Due::default(), None, LimitScope::Server, 2);
        let later = now + 2 * SECOND;
        assert_eq!(rates.wait(Sender::Agent(Due::default()), None, later), None);
        assert_eq!(rates.shared_wait(LimitScope::Client, client, later), Some(27 * SECOND));
        assert_eq!(rates.shared_wait(LimitScope::Agent, client, later), None);
        assert_eq!(rates.room_bytes(Due::default(), None, later + SECOND), 10 * EVENT_BYTES_MIN);
        assert_eq!(rates.room_bytes(Due::default(), client, later), 0);
    }

    #[test]
    fn addresses_are_counted_each_and_networks_of_ipv6_as_one() {
        let now = Instant::now();
        let rates = Rates::new(RateSettings { agent: limit(10), ..RateSettings::default() }, now);
        rates.charge(address("192.0.2.1"), None, events(30), now);
        rates.charge(address("2001:db8::1"), None, events(30), now);
        for (sender, waits) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::ffff:1", true),
            ("2001:db8:0:1::1", false),
        ] {
            assert_eq!(rates.wait(address(sender), None, now).is_some(), waits, "{sender}");
        }
        assert_eq!(rates.wait(address("192.0.2.1"), None, now + 2 * SECOND), None);
    }

    #[test]
    fn addresses_are_bounded_and_the_one_not_seen_for_longest_is_forgotten() {
        let now = Instant::now();
        let rates = Rates::new(RateSettings { agent: limit(10), ..RateSettings::default() }, now);
        let sender = |number: u32| Sender::Address(IpAddr::from(number.to_be_bytes()));
        (1..=RATE_PEERS_MAX as u32 + 1).for_each(|number| {
            rates.charge(sender(number), None, events(30), now);
        });
        assert_eq!(rates.wait(sender(1), None, now), None);
        assert!(rates.wait(sender(2), None, now).is_some());
    }

    #[test]
    fn an_agent_that_sent_bye_and_comes_back_has_no_new_burst() {
        let now = Instant::now();
        let rates = Rates::new(RateSettings { agent: limit(10), ..RateSettings::default() }, now);
        let due = rates.charge(Sender::Agent(Due::default()), None, events(30), now);
        rates.remember([7; 16], due, now);
        assert_eq!((rates.remembered([7; 16]), rates.remembered([8; 16])), (due, Due::default()));
        rates.remember([8; 16], due, now + 3 * SECOND);
        assert_eq!(rates.remembered([8; 16]), Due::default(), "what is paid for is not kept");
    }

    #[test]
    fn what_is_due_by_a_limit_that_stays_stays_due() {
        let now = Instant::now();
        let settings = |server, agent, client| RateSettings {
            server: limit(server),
            agent: limit(agent),
            clients: vec![limit(client)],
        };
        let client = Some(ClientId(0));
        let rates = Rates::new(settings(100, 10, 50), now);
        let due = rates.charge(Sender::Agent(Due::default()), client, events(1_000), now);
        rates.charge(address("192.0.2.1"), None, events(1_000), now);
        let waits = |rates: &Rates| {
            let shared = |scope| rates.shared_wait(scope, client, now).is_some();
            let own = |sender| rates.wait(sender, None, now).is_some_and(|wait| wait.scope != LimitScope::Server);
            (shared(LimitScope::Server), shared(LimitScope::Client), own(address("192.0.2.1")), own(Sender::Agent(due)))
        };
        let same = rates.followed_by(settings(100, 10, 50));
        assert_eq!((waits(&same), same.generation()), ((true, true, true, true), 0));
        // Both count, until every loop has the new ones.
        rates.charge(Sender::Agent(due), client, events(1_000), now);
        assert_eq!(same.shared_wait(LimitScope::Server, None, now), Some(29 * SECOND));
        let other = same.followed_by(settings(200, 10, 50));
        assert_eq!((waits(&other), other.generation()), ((false, true, true, true), 0));
        let other = same.followed_by(settings(100, 20, 60));
        let (server, of_client, of_address, _) = waits(&other);
        assert_eq!(
            (server, of_client, of_address, other.generation()),
            (true, false, false, 1),
            "and sessions forget theirs"
        );
        assert!(!same.followed_by(RateSettings::default()).has_limits(client));
    }

    #[test]
    fn without_limits_nobody_waits() {
        let now = Instant::now();
        let rates = Rates::new(RateSettings { clients: vec![None], ..RateSettings::default() }, now);
        for client in [None, Some(ClientId(0)), Some(ClientId(9))] {
            assert!(!rates.has_limits(client));
            let due = rates.charge(Sender::Agent(Due::default()), client, events(u64::MAX), now);
            assert_eq!((due, rates.wait(Sender::Agent(due), client, now)), (Due::default(), None));
            assert_eq!(rates.room_bytes(due, client, now), u64::MAX);
        }
    }
}
