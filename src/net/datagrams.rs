//! Syslog over UDP: one message per datagram. The sender does not learn whether it was received.
//!
//! While there is no memory or no slot of the ring, the socket is not read: the kernel keeps what fits into its buffer and drops
//! the rest, which `/metrics` counts.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use socket2::{Domain, Protocol, Socket, Type};

use crate::batch::Origin;
use crate::event::syslog::{Message, SyslogDecoder};
use crate::limits::{DATAGRAM_BUFFER_BYTES, DATAGRAM_PEERS_MAX, DATAGRAMS_PER_TURN};
use crate::metrics;
use crate::net::collector::Collector;
use crate::net::ingress::Ingress;

/// How long after a datagram the kernel is asked for its drops.
const COUNT_DROPS_AFTER: Duration = Duration::from_secs(1);

/// A socket on which datagrams arrive.
pub struct BoundDatagrams(std::net::UdpSocket);

/// Takes the address for datagrams.
///
/// # Errors
/// As [`bind`](super::bind).
pub fn bind_datagrams(address: SocketAddr) -> io::Result<BoundDatagrams> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // As much as the kernel allows: bursts wait there.
    let _ = socket.set_recv_buffer_size(DATAGRAM_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(BoundDatagrams(socket.into()))
}

/// The socket and what was received from whom.
pub(super) struct Datagrams {
    socket: UdpSocket,
    /// Datagrams may wait.
    is_ready: bool,
    /// There was no room for them: the loop is woken once there may be.
    is_starved: bool,
    decoder: SyslogDecoder,
    /// Who sent the datagrams that are being collected.
    sender: IpAddr,
    origins: HashMap<IpAddr, Arc<Origin>>,
    /// When the kernel is asked again how many datagrams it has dropped.
    count_drops_at: Option<Instant>,
    /// What it answered.
    kernel_drops: u64,
}

impl Datagrams {
    /// A socket that may have datagrams.
    pub(super) fn new(BoundDatagrams(socket): BoundDatagrams) -> Self {
        Self {
            socket: UdpSocket::from_std(socket),
            is_ready: true,
            is_starved: false,
            decoder: SyslogDecoder::new(),
            sender: IpAddr::from([0; 4]),
            origins: HashMap::new(),
            count_drops_at: None,
            kernel_drops: 0,
        }
    }

    /// The socket, to be added to or removed from a poll.
    pub(super) fn source(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    /// Notes that the poll reported the socket as ready.
    pub(super) fn set_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether the next turn has datagrams to receive without an event of the poll.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready && !self.is_starved
    }

    /// When drops of the kernel are to be counted; `None`: nothing was received since they were.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.count_drops_at
    }

    /// Receives a share of one turn into `read`, which has room for the largest datagram.
    pub(super) fn receive(&mut self, read: &mut [u8], ingress: &mut Ingress) {
        self.is_starved = false;
        let mut open = None;
        for _ in 0..DATAGRAMS_PER_TURN {
            if !self.is_ready {
                break;
            }
            if open.as_ref().is_some_and(|open: &Collector| !open.has_room()) {
                self.hand_on(open.take(), ingress);
            }
            if open.is_none() {
                open = Collector::begin(ingress);
            }
            if open.is_none() {
                self.starve(ingress);
                break;
            }
            match self.socket.recv_from(read) {
                Ok((bytes, peer)) => open = self.take(read.get(..bytes).unwrap_or_default(), peer, open, ingress),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_ready = false,
                // An error that an earlier datagram has caused, or a signal.
                Err(_) => {}
            }
        }
        self.hand_on(open, ingress);
        if self.count_drops_at.is_some_and(|at| ingress.now >= at) {
            self.count_drops_at = None;
            self.count_drops(&ingress.shared.metrics);
        }
    }

    /// Appends a datagram to those of the same sender; a slot has one.
    fn take(
        &mut self,
        datagram: &[u8],
        peer: SocketAddr,
        mut open: Option<Collector>,
        ingress: &mut Ingress,
    ) -> Option<Collector> {
        self.count_drops_at.get_or_insert(ingress.now + COUNT_DROPS_AFTER);
        let address = peer.ip().to_canonical();
        let needs_tls = || ingress.policy.encryption.access_without_tls(address).refused.is_some();
        if !ingress.shared.syslog.as_ref().is_some_and(|allowed| allowed.contain(address)) || needs_tls() {
            self.refuse(peer, ingress);
            return open;
        }
        if self.sender != address {
            if open.as_ref().is_some_and(|open| open.events() > 0) {
                self.hand_on(open, ingress);
                open = Collector::begin(ingress);
            }
            self.sender = address;
        }
        if let Some(limit) = ingress.limit_on(address, None) {
            ingress.counts.limited(limit.scope, 1);
            ingress.shared.metrics.syslog_dropped("limited").inc();
            return open;
        }
        let message = Message { bytes: datagram, truncated: false };
        match &mut open {
            Some(open) => open.push(self.decoder.decode(message, ingress.received_unix_nano())),
            // It is read already.
            None => ingress.shared.metrics.syslog_dropped("no_room").inc(),
        }
        open
    }

    fn hand_on(&mut self, open: Option<Collector>, ingress: &mut Ingress) {
        match open {
            Some(open) if open.events() > 0 => {
                let origin = self.origin(self.sender);
                let received = open.finish(metrics::Protocol::Syslog, &origin, ingress);
                ingress.received(self.sender, None, received);
            }
            Some(open) => open.put_back(ingress),
            None => {}
        }
    }

    /// The loop is woken once there may be room.
    fn starve(&mut self, ingress: &mut Ingress) {
        self.is_starved = true;
        ingress.ring.wait_for_room();
        ingress.intake.wait_for_room();
        // Looked at once more: nothing that is freed meanwhile goes unnoticed.
        if ingress.has_slots() && ingress.intake.prepare() {
            self.is_starved = false;
        }
    }

    fn origin(&mut self, address: IpAddr) -> Arc<Origin> {
        if let Some(origin) = self.origins.get(&address) {
            return origin.clone();
        }
        if self.origins.len() >= DATAGRAM_PEERS_MAX {
            self.origins.clear();
        }
        let origin = Origin { agent_id: None, agent: None, default_source: address.to_string(), epoch: 0 };
        self.origins.entry(address).or_insert(Arc::new(origin)).clone()
    }

    fn refuse(&self, peer: SocketAddr, ingress: &Ingress) {
        let shared = &ingress.shared;
        shared.metrics.syslog_dropped("not_allowed").inc();
        if let Some(allow) = &shared.syslog
            && let Some(datagrams) = shared.log_lines.syslog_refused.allows(1, ingress.now)
        {
            let allow = allow.to_string();
            tracing::warn!(datagrams, %peer, allow, "syslog from a network that is not allowed, dropped; see syslog.allow and tls.plaintext");
        }
    }

    /// Adds what the kernel has dropped since the last call to the metrics.
    fn count_drops(&mut self, metrics: &metrics::Metrics) {
        let is_ipv4 = self.socket.local_addr().is_ok_and(|address| address.is_ipv4());
        let Some(drops) = metrics::kernel_drops(&self.socket, is_ipv4) else { return };
        metrics.syslog_dropped("kernel").inc_by(drops.saturating_sub(self.kernel_drops));
        self.kernel_drops = self.kernel_drops.max(drops);
    }
}
