//! `/status.json`: who may read it, and where it comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::batch::Origin;
use crate::http::Denied;
use crate::ids::LoopId;
use crate::limits::STATUS_LIST_MAX;
use crate::net::shared::{LoopState, Shared};
use crate::session::server::Gate;
use crate::session::tokens::{Access, Tokens};
use crate::status::{Agent, Agents, Loop, Recent, Rejection, Sink, Status, first, text};
use crate::time::Now;

/// What `/status.json` needs beside what the loops share anyway.
pub struct StatusSources {
    /// When the process began to serve.
    pub started: Instant,
    /// Names of this server, in lower case (`http.hosts`).
    pub hosts: Vec<String>,
    /// The sinks, as far as routers know them.
    pub sinks: Box<dyn Fn(Instant) -> Vec<Sink> + Send + Sync>,
    /// What was last rejected on receipt.
    pub rejections: Recent<Rejection>,
    /// The agents that are connected.
    pub agents: Arc<ConnectedAgents>,
}

impl Default for StatusSources {
    /// Of a server without sinks, open to everybody who knows its IP address.
    fn default() -> Self {
        Self {
            started: Instant::now(),
            hosts: Vec::new(),
            sinks: Box::new(|_| Vec::new()),
            rejections: Recent::new(STATUS_LIST_MAX),
            agents: Arc::default(),
        }
    }
}

/// Who may read the pages that are not open to everybody.
#[derive(Default)]
pub struct PagesAccess {
    /// The pages token, if there is one.
    pub token: Tokens,
}

impl PagesAccess {
    /// Whether a request with this token may read the pages. `is_open`: senders over such a connection need neither a token nor a
    /// certificate; then pages need no token either.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, token: Option<&[u8]>, is_private: bool, is_open: bool) -> Result<(), Denied> {
        match (self.token.is_empty(), token) {
            (true, _) if !is_open => Err(Denied::NotSet),
            (true, _) => Ok(()),
            (false, None) => Err(Denied::Missing),
            // Over a connection that others may read, the answer does not show whether a token is right.
            (false, Some(token)) => {
                let access = Access { is_private, ..Access::default() };
                self.token.gate(access).admit(token).map(drop).map_err(|_| Denied::Wrong)
            }
        }
    }

    /// Whether a request with this token may have what is given only with the pages token; `is_private`: it cannot be intercepted.
    ///
    /// # Errors
    /// Why not.
    pub fn admit_token(&self, token: Option<&[u8]>, is_private: bool) -> Result<(), Denied> {
        if self.token.is_empty() { Err(Denied::NotSet) } else { self.admit(token, is_private, false) }
    }
}

/// The agents that are connected, in the order in which they connected.
#[derive(Debug, Default)]
pub struct ConnectedAgents {
    listed: Mutex<(u64, BTreeMap<u64, Entry>)>,
}

#[derive(Debug)]
struct Entry {
    origin: Arc<Origin>,
    address: SocketAddr,
    client: Option<String>,
    since_unix_ms: u64,
}

/// An agent is in the list as long as this lives.
#[derive(Debug)]
pub(super) struct Listed {
    agents: Arc<ConnectedAgents>,
    number: u64,
}

impl ConnectedAgents {
    /// Lists an agent.
    pub(super) fn enter(
        self: &Arc<Self>,
        origin: &Arc<Origin>,
        address: SocketAddr,
        client: Option<&str>,
        since_unix_ms: u64,
    ) -> Listed {
        let entry = Entry { origin: origin.clone(), address, client: client.map(str::to_owned), since_unix_ms };
        let mut listed = self.lock();
        let (number, agents) = &mut *listed;
        *number += 1;
        agents.insert(*number, entry);
        Listed { agents: self.clone(), number: *number }
    }

    fn shown(&self) -> Agents {
        let listed = self.lock();
        let agent = |entry: &Entry| Agent {
            name: text(entry.origin.agent.as_deref().unwrap_or_default()),
            // An IPv4 address as itself, also of a listener on [::].
            address: SocketAddr::new(entry.address.ip().to_canonical(), entry.address.port()).to_string(),
            client: entry.client.as_deref().map(text),
            since_unix_ms: entry.since_unix_ms,
        };
        Agents { connected: listed.1.len() as u64, newest: first(listed.1.values().rev().map(agent)) }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Entry>)> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.agents.lock().1.remove(&self.number);
    }
}

impl StatusSources {
    /// Whether the server has this name.
    pub(super) fn has_host(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    }

    /// Notes that `events` of a sender were rejected, or a request whose events were not counted.
    pub(super) fn rejected(&self, rejection: &Rejected<'_>, unix_ms: u64) {
        let Rejected { from, protocol, code, events, reason } = *rejection;
        let (from, reason) = (text(from), text(&first_error(reason)));
        self.rejections.note(
            // Not by the reason, which repeats values of the event: each would be another one.
            |known| known.from == from && known.protocol == protocol && known.code == code,
            |known| {
                (known.unix_ms, known.times, known.events) = (unix_ms, known.times + 1, known.events + events);
                known.reason.clone_from(&reason);
            },
            || Rejection {
                unix_ms,
                from: from.clone(),
                protocol: protocol.to_owned(),
                code: code.to_owned(),
                reason: reason.clone(),
                times: 1,
                events,
            },
        );
    }
}

/// The first error of a NACK that lists them as JSON; of any other text all of it.
fn first_error(reason: &str) -> Cow<'_, str> {
    let rest = reason.strip_prefix('{').and_then(|rest| rest.split_once(r#""error":"#));
    let error = rest.and_then(|(_, rest)| serde_json::Deserializer::from_str(rest).into_iter::<String>().next());
    match error {
        Some(Ok(error)) => Cow::Owned(error),
        _ => Cow::Borrowed(reason),
    }
}

/// What was rejected on receipt.
#[derive(Clone, Copy)]
pub(super) struct Rejected<'a> {
    /// Agent or IP address.
    pub from: &'a str,
    /// `frames` or `http`.
    pub protocol: &'static str,
    /// NACK code or HTTP status.
    pub code: &'a str,
    /// How many; 0: it was not counted.
    pub events: u64,
    /// Why.
    pub reason: &'a str,
}

impl Shared {
    /// The state of the server at this moment, as JSON.
    pub fn status_page(&self, now: Now, draining: bool) -> Vec<u8> {
        self.status_at(now, draining).to_json()
    }

    fn status_at(&self, now: Now, draining: bool) -> Status {
        let monotonic = now.monotonic;
        let mut reasons: Vec<String> = draining.then(|| "draining".to_owned()).into_iter().collect();
        reasons.extend(self.not_ready(monotonic).into_iter().map(str::to_owned));
        let sinks = (self.status.sinks)(monotonic);
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: crate::time::unix_nano(now.wall) / 1_000_000,
            uptime_seconds: monotonic.saturating_duration_since(self.status.started).as_secs(),
            is_ready: reasons.is_empty(),
            reasons,
            agents: self.status.agents.shown(),
            event_loops: self.event_loops() as u64,
            sinks_total: sinks.len() as u64,
            sinks: listed(sinks),
            rejections: self.status.rejections.newest(),
            ..Status::default()
        };
        status.connections.capacity = self.limits.max_connections as u64;
        for (index, state) in self.states.iter().enumerate() {
            let shown = self.shown_loop(index, state, monotonic);
            for (sum, part) in [(&mut status.ring, shown.ring), (&mut status.buffers, shown.buffers)] {
                (sum.used, sum.capacity) = (sum.used + part.used, sum.capacity + part.capacity);
            }
            if status.loops.len() < STATUS_LIST_MAX {
                status.loops.push(shown);
            }
        }
        self.metrics.fill_status(&mut status);
        status.dead_on_receipt = self.metrics.events_dead("ingest").get();
        self.metrics.fill_sinks(&mut status);
        status
    }

    fn shown_loop(&self, index: usize, state: &LoopState, now: Instant) -> Loop {
        Loop {
            busy_ratio: state.busy.ratio(now),
            connections: self.loops.connections_of(LoopId(index as u8)) as u64,
            ring: state.ring_use(),
            buffers: state.buffer_use(),
        }
    }
}

/// The first sinks. One that needs attention is never left out for one that does not.
fn listed(mut sinks: Vec<Sink>) -> Vec<Sink> {
    if sinks.len() > STATUS_LIST_MAX {
        sinks.sort_by_key(|sink| !sink.needs_attention());
    }
    first(sinks.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_open_where_nobody_needs_a_token_and_closed_else() {
        let token = || Tokens::from_lines("secret", false);
        let open = PagesAccess::default();
        assert_eq!((open.admit(None, false, true), open.admit(Some(b"x"), false, true)), (Ok(()), Ok(())));
        assert_eq!(open.admit(Some(b"secret"), true, false), Err(Denied::NotSet));
        let closed = PagesAccess { token: token() };
        for is_open in [false, true] {
            assert_eq!(closed.admit(None, true, is_open), Err(Denied::Missing));
            assert_eq!(closed.admit(Some(b"other"), true, is_open), Err(Denied::Wrong));
            assert_eq!(closed.admit(Some(b"secret"), true, is_open), Ok(()));
            assert_eq!(closed.admit(Some(b"secret"), false, is_open), Err(Denied::Wrong), "it may be intercepted");
        }
    }

    #[test]
    fn agents_are_listed_as_long_as_they_are_connected_the_newest_first() {
        let agents = Arc::<ConnectedAgents>::default();
        let origin = |number: usize| {
            let agent = Some(format!("agent {number}"));
            Arc::new(Origin { agent_id: None, agent, default_source: String::new(), epoch: 0 })
        };
        let address = "[::1]:5".parse().unwrap();
        let mut listed: Vec<_> =
            (0..100).map(|number| agents.enter(&origin(number), address, Some("api"), 7)).collect();
        let shown = agents.shown();
        assert_eq!((shown.connected, shown.newest.len()), (100, STATUS_LIST_MAX));
        assert_eq!(shown.newest[0].name, "agent 99");
        assert_eq!((&*shown.newest[0].address, shown.newest[0].client.as_deref()), ("[::1]:5", Some("api")));
        let mapped = "[::ffff:192.0.2.1]:5".parse().unwrap();
        listed.push(agents.enter(&origin(100), mapped, None, 7));
        assert_eq!(agents.shown().newest[0].address, "192.0.2.1:5");
        listed.truncate(99);
        listed.drain(..97);
        let names: Vec<_> = agents.shown().newest.into_iter().map(|agent| agent.name).collect();
        assert_eq!(names, ["agent 98", "agent 97"]);
    }

    #[test]
    fn a_sink_in_trouble_is_listed_however_many_there_are() {
        let sink =
            |number: usize, state: &str| Sink { name: number.to_string(), state: state.to_owned(), ..Sink::default() };
        let states = |count: usize| {
            (0..count).map(|number| sink(number, if number == 17 || number == 28 { "down" } else { "ok" }))
        };
        let names = |sinks: Vec<Sink>| sinks.into_iter().map(|sink| sink.name).collect::<Vec<_>>();
        assert_eq!(names(listed(states(30).collect()))[..4], ["17", "28", "0", "1"]);
        assert_eq!(listed(states(30).collect()).len(), STATUS_LIST_MAX);
        assert_eq!(
            names(listed(states(20).collect()))[..3],
            ["0", "1", "2"],
            "all of them in the order of the settings"
        );
    }

    #[test]
    fn the_first_error_of_a_list_is_shown() {
        let list = r#"{"accepted":2,"rejected":[{"index":2,"error":"a \"name\""},{"index":3,"error":"b"}]}"#;
        assert_eq!(first_error(list), r#"a "name""#);
        for text in ["not protobuf", "", "{", r#"{"error":"#, r#"{"error":5}"#] {
            assert_eq!(first_error(text), text);
        }
    }

    #[test]
    fn what_is_rejected_again_is_counted() {
        let sources = StatusSources::default();
        let rejected = Rejected { from: "api", protocol: "frames", code: "INVALID", events: 2, reason: "no name" };
        sources.rejected(&rejected, 1);
        sources.rejected(&Rejected { from: "10.0.0.1", protocol: "http", code: "401", events: 0, reason: "token" }, 2);
        sources.rejected(&rejected, 3);
        let shown = sources.rejections.newest();
        assert_eq!(shown.len(), 2);
        assert_eq!((&*shown[0].from, shown[0].times, shown[0].events, shown[0].unix_ms), ("api", 2, 4, 3));
    }

    #[test]
    fn a_sender_with_a_thousand_reasons_does_not_hide_the_others() {
        let sources = StatusSources::default();
        let reject = |from: &str, reason: &str, unix_ms| {
            sources.rejected(&Rejected { from, protocol: "http", code: "400", events: 1, reason }, unix_ms);
        };
        reject("10.0.0.1", "no name", 1);
        (0..1_000).for_each(|number| reject("10.0.0.2", &format!("unknown key {number}"), 2));
        let shown = sources.rejections.newest();
        let shown: Vec<_> = shown.iter().map(|entry| (&*entry.from, &*entry.reason, entry.times)).collect();
        assert_eq!(shown, [("10.0.0.2", "unknown key 999", 1_000), ("10.0.0.1", "no name", 1)]);
    }
}
