//! Syslog over TCP: messages through scratch memory, their events into the pool's current buffer. Nothing is answered.

use std::time::{Duration, Instant};

use super::{Context, Ending, Priority, Protocol};
use crate::event::syslog::{Framer, Message};
use crate::limits::{
    HELLO_TIMEOUT, HTTP_TORN_HEADS_BYTES_MAX, SYSLOG_KEEPALIVE, SYSLOG_MESSAGES_PER_TURN, SYSLOG_PARTIAL_BYTES,
    SYSLOG_READ_BYTES, SYSLOG_READ_BYTES_LOWEST, TLS_RECORD_BYTES_MAX,
};
use crate::metrics::{self, LimitScope};
use crate::net::collector::Collector;
use crate::net::connection::Peer;
use crate::net::delayed::Delay;
use crate::net::ingress::Ingress;
use crate::net::serve::{Served, after_read, keeps_much, wait_for_budget};
use crate::net::socket::ReadEnd;
use crate::session::rates::Wait;
use crate::session::tokens::Certificate;

/// Why a connection is closed whose peer is outside of `syslog.allow` and shows no certificate of a client, or has not TLS or a
/// certificate where the settings require it.
const NOT_ALLOWED: &str = "syslog_not_allowed";
/// Why a connection is closed that was reset, or ended without close_notify, within a message.
const CUT: &str = "syslog_cut";

/// What became of the messages in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// Every whole one was taken.
    All,
    /// There was no room for the rest.
    NoRoom,
    /// The connection has had its share of the turn.
    Share,
}

/// A message begins with its priority, a count, or a date; and syslog is enabled.
pub(super) fn begins_with(first: u8, ingress: &Ingress) -> bool {
    (first == b'<' || first.is_ascii_digit()) && ingress.shared.syslog.is_some()
}

/// A connection that has sent its first byte.
pub(super) fn open(peer: &Peer, ingress: &Ingress) -> Box<dyn Protocol> {
    let is_in_network = ingress.shared.syslog.as_ref().is_some_and(|allowed| allowed.contain(peer.address.ip()));
    Box::new(Syslog {
        framer: Framer::default(),
        opened: peer.opened,
        paused: None,
        is_in_network,
        is_known: false,
        holds_whole: true,
        is_broken: false,
        left_in_turn: 0,
        delayed_by: None,
    })
}

struct Syslog {
    framer: Framer,
    /// Later by the time in which the connection was not read.
    opened: Instant,
    /// The connection is not read since then, through no fault of the peer's.
    paused: Option<Instant>,
    /// The peer is in one of the networks of the settings.
    is_in_network: bool,
    /// A whole message has come.
    is_known: bool,
    /// What is unparsed may hold whole messages, for which there was no room or no time.
    holds_whole: bool,
    /// The connection was reset: there is nothing to read any more.
    is_broken: bool,
    /// Messages that may still be taken in this turn.
    left_in_turn: usize,
    /// What is read next had to wait for this limit.
    delayed_by: Option<LimitScope>,
}

impl Protocol for Syslog {
    fn serve(&mut self, cx: &mut Context<'_>) -> Served {
        let now = cx.ingress.now;
        self.set_paused(false, now);
        self.left_in_turn = SYSLOG_MESSAGES_PER_TURN;
        let served = self.serve_once(cx);
        if matches!(served, Served::Wait | Served::Delayed(_) | Served::Later(_)) {
            self.set_paused(true, now);
        }
        served
    }

    fn name(&self) -> &'static str {
        metrics::Protocol::Syslog.name()
    }

    fn priority(&self) -> Priority {
        if self.is_known { Priority::Others } else { Priority::New }
    }

    fn is_waiting(&self) -> bool {
        false
    }

    fn reads_after_reset(&self) -> bool {
        true
    }

    /// What was received cannot be received again: the sender has dropped it.
    fn waits_for_budget(&self) -> bool {
        true
    }

    fn acknowledge(&mut self, _is_read_next: bool, _cx: &mut Context<'_>) {}

    fn deadline(&self, _pressure: bool) -> Option<Instant> {
        // Afterwards a connection may be quiet for ever: TCP finds out when its peer is gone.
        (!self.is_known && self.paused.is_none()).then(|| self.opened + HELLO_TIMEOUT)
    }

    fn set_paused(&mut self, paused: bool, now: Instant) {
        if paused {
            self.paused = self.paused.or(Some(now));
        } else if let Some(since) = self.paused.take() {
            self.opened += now.saturating_duration_since(since);
        }
    }

    fn handle_timeout(&mut self, _pressure: bool, _cx: &mut Context<'_>) -> Option<&'static str> {
        Some("silent")
    }

    fn policy_changed(&mut self, _forgets_dues: bool, cx: &mut Context<'_>) -> Option<&'static str> {
        cx.peer.client = None;
        let refused = admit(self.is_in_network, cx).err()?;
        log_refused(refused, cx);
        Some(NOT_ALLOWED)
    }

    fn end(&mut self, ending: Ending, cx: &mut Context<'_>) -> Option<&'static str> {
        if ending == Ending::Shutdown {
            // What was read is kept where there is room; what is still in the socket is lost.
            self.left_in_turn = usize::MAX;
            let mut unparsed = std::mem::take(&mut cx.socket.unparsed);
            loop {
                let bytes = cx.socket.take_decrypted(&mut cx.scratch.read);
                if bytes == 0 {
                    break;
                }
                unparsed.extend_from_slice(cx.scratch.read.get(..bytes).unwrap_or_default());
            }
            if self.take_and_keep(unparsed, cx) == Taken::All {
                // Its sender has not ended it.
                self.take_last(true, cx);
            }
        }
        Some("SHUTDOWN")
    }
}

impl Syslog {
    fn serve_once(&mut self, cx: &mut Context<'_>) -> Served {
        if let Err(refused) = admit(self.is_in_network, cx) {
            log_refused(refused, cx);
            return Served::Close(NOT_ALLOWED);
        }
        if cx.peer.overloaded {
            return Served::Close("OVERLOADED");
        }
        if cx.ingress.draining {
            return Served::Close("SHUTDOWN");
        }
        if self.holds_whole {
            let unparsed = std::mem::take(&mut cx.socket.unparsed);
            match self.take_and_keep(unparsed, cx) {
                Taken::All => {}
                Taken::NoRoom => return Served::Wait,
                Taken::Share => return Served::Again,
            }
        }
        if self.is_broken || !cx.socket.is_readable() {
            return if self.is_broken || cx.socket.is_at_end() { self.at_end(cx) } else { Served::Idle };
        }
        if let Some(later) = wait_for_budget(cx) {
            return later;
        }
        if let Some(delay) = self.delay(cx) {
            return Served::Delayed(delay);
        }
        match Collector::begin(cx.ingress) {
            Some(collector) => collector.put_back(cx.ingress),
            None => return Served::Wait,
        }
        let (end, taken) = self.read(cx);
        self.is_broken |= end == ReadEnd::Broken;
        match (taken, end) {
            (Taken::NoRoom, _) => Served::Wait,
            (Taken::Share, _) => Served::Again,
            (Taken::All, ReadEnd::End | ReadEnd::Broken) => self.at_end(cx),
            (Taken::All, end) => after_read(cx.socket, end),
        }
    }

    /// The limit that keeps the connection from being read.
    fn delay(&mut self, cx: &Context<'_>) -> Option<Delay> {
        let client = cx.peer.client;
        let behind_others = || Some(Wait { scope: cx.ingress.line_of(client)?, time: Duration::ZERO });
        let Wait { scope, time } = cx.ingress.limit_on(cx.peer.address.ip(), client).or_else(behind_others)?;
        self.delayed_by = Some(scope);
        Some(Delay { scope, client, until: cx.ingress.now + time })
    }

    /// One read, and what became of its messages.
    fn read(&mut self, cx: &mut Context<'_>) -> (ReadEnd, Taken) {
        let mut read = std::mem::take(&mut cx.scratch.read);
        let limit = read.len().min(match keeps_much(cx.peer, cx.scratch.kept, cx.ingress) {
            false => SYSLOG_READ_BYTES,
            // The smallest unit of TLS is a record: with less room, the rest of it would be kept twice.
            true if cx.socket.tls().is_some() => TLS_RECORD_BYTES_MAX,
            true => SYSLOG_READ_BYTES_LOWEST,
        });
        let end = cx.socket.read(&mut read[..limit], &mut cx.scratch.wire, cx.ingress.now);
        let bytes = if let ReadEnd::Bytes(bytes) = end { &read[..bytes] } else { &[][..] };
        let taken = if cx.socket.unparsed.is_empty() {
            // Most reads begin with a message: nothing but the rest is copied.
            let (used, taken) = self.take(bytes, cx);
            cx.socket.unparsed.extend_from_slice(&bytes[used..]);
            if taken == Taken::All {
                self.cut_at_budget(cx);
            }
            taken
        } else {
            let mut unparsed = std::mem::take(&mut cx.socket.unparsed);
            unparsed.extend_from_slice(bytes);
            self.take_and_keep(unparsed, cx)
        };
        cx.scratch.read = read;
        (end, taken)
    }

    /// Takes the messages of what was not parsed, and keeps the rest.
    fn take_and_keep(&mut self, mut unparsed: Vec<u8>, cx: &mut Context<'_>) -> Taken {
        let (used, taken) = self.take(&unparsed, cx);
        unparsed.drain(..used);
        if unparsed.is_empty() {
            unparsed = Vec::new();
        }
        cx.socket.unparsed = unparsed;
        if taken == Taken::All {
            self.cut_at_budget(cx);
        }
        taken
    }

    /// Takes every whole message, as far as there are room and time. Returns the bytes that are done.
    fn take(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> (usize, Taken) {
        self.holds_whole = false;
        let mut used = 0;
        let mut collector: Option<Collector> = None;
        let now = cx.ingress.received_unix_nano();
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            // Looked at before the step, which cannot be taken back.
            if collector.as_ref().is_some_and(|collector| !collector.has_room()) {
                self.hand_on(collector.take(), cx);
            }
            if self.left_in_turn == 0 && !rest.is_empty() {
                self.holds_whole = true;
                self.hand_on(collector, cx);
                return (used, Taken::Share);
            }
            if collector.is_none() && !rest.is_empty() {
                collector = Collector::begin(cx.ingress);
                if collector.is_none() {
                    self.holds_whole = true;
                    return (used, Taken::NoRoom);
                }
            }
            let Some(step) = self.framer.next(rest) else { break };
            used += step.consumed;
            if let (Some(message), Some(collector)) = (step.message, &mut collector) {
                collector.push(cx.scratch.syslog.decode(message, now));
                self.left_in_turn -= 1;
                self.known(cx);
            }
        }
        self.hand_on(collector, cx);
        (used, Taken::All)
    }

    /// Hands on what is collected, and charges it.
    fn hand_on(&mut self, collector: Option<Collector>, cx: &mut Context<'_>) {
        let Some(collector) = collector else { return };
        let received = collector.finish(metrics::Protocol::Syslog, &cx.peer.origin, cx.ingress);
        if received.accepted > 0 {
            cx.ingress.received(cx.peer.address.ip(), cx.peer.client, received);
            if let Some(scope) = self.delayed_by.take() {
                cx.ingress.counts.limited(scope, received.accepted);
            }
        }
    }

    fn known(&mut self, cx: &mut Context<'_>) {
        if !self.is_known {
            self.is_known = true;
            cx.peer.is_known = true;
            // Without it a peer that is gone would keep its connection.
            let _ = cx.socket.transport().keep_alive(SYSLOG_KEEPALIVE);
        }
    }

    /// The peer has ended its half, or the connection is broken: what is left is its last message. Where the peer has not announced the
    /// end, it may be a part of one: anybody on the way can break a connection. A part of a TLS record is a part of a message, too.
    fn at_end(&mut self, cx: &mut Context<'_>) -> Served {
        let is_cut = self.is_broken || cx.socket.is_cut();
        let Some(has_last) = self.take_last(is_cut, cx) else { return Served::Wait };
        let is_within_message = has_last || cx.socket.holds_part_of_record();
        match (self.is_broken, is_cut && is_within_message) {
            (true, false) => Served::Gone("broken"),
            (true, true) => Served::Gone(CUT),
            (false, true) => Served::Close(CUT),
            (false, false) => Served::End,
        }
    }

    /// Takes the last message, if there is one. `None`: there is no room for it.
    fn take_last(&mut self, is_cut: bool, cx: &mut Context<'_>) -> Option<bool> {
        let unparsed = std::mem::take(&mut cx.socket.unparsed);
        let last = self.framer.end(&unparsed);
        let last = last.map(|last| Message { truncated: last.truncated || is_cut, ..last });
        if !self.take_one(last, cx) {
            cx.socket.unparsed = unparsed;
            return None;
        }
        Some(last.is_some())
    }

    /// A message that is not whole is cut where all connections together keep so much that they would be closed.
    fn cut_at_budget(&mut self, cx: &mut Context<'_>) {
        let budget = kept_budget(cx.ingress);
        // A short rest may stay; but all of them together leave room for the beginnings of other connections.
        let is_short = cx.socket.unparsed.len() <= SYSLOG_PARTIAL_BYTES;
        let budget = if is_short { budget + budget / 2 } else { budget };
        if cx.socket.unparsed.is_empty() || cx.scratch.kept.unparsed <= budget {
            return;
        }
        // What cannot be handed on yet is not cut yet.
        match Collector::begin(cx.ingress) {
            Some(collector) => collector.put_back(cx.ingress),
            None => return,
        }
        let unparsed = std::mem::take(&mut cx.socket.unparsed);
        let cut = self.framer.cut(&unparsed);
        self.take_one(cut, cx);
    }

    fn take_one(&mut self, message: Option<Message<'_>>, cx: &mut Context<'_>) -> bool {
        let Some(message) = message else { return true };
        let Some(mut collector) = Collector::begin(cx.ingress) else { return false };
        collector.push(cx.scratch.syslog.decode(message, cx.ingress.received_unix_nano()));
        self.known(cx);
        self.hand_on(Some(collector), cx);
        true
    }
}

/// Bytes that connections may keep outside the pool before messages are cut: half of all, so that there is room for the beginnings of
/// other connections.
fn kept_budget(ingress: &Ingress) -> usize {
    ingress.shared.part_of(HTTP_TORN_HEADS_BYTES_MAX) / 2
}

/// Why a peer may not send.
enum Refused {
    /// It is outside of `syslog.allow`, and no certificate says who it is.
    Network,
    /// `tls.plaintext` or `tls.client_auth` refuses it.
    Encryption(&'static str),
}

/// Syslog has no tokens. The certificate of a client identifies the peer as its token does, from any address. Everybody else is admitted
/// by address.
fn admit(is_in_network: bool, cx: &mut Context<'_>) -> Result<(), Refused> {
    let access = cx.peer.access;
    if let Some(reason) = access.refused {
        return Err(Refused::Encryption(reason));
    }
    let policy = &cx.ingress.policy;
    match access.certificate {
        Certificate::Client(client) => cx.peer.client = Some(client),
        Certificate::Other if policy.encryption.requires_certificate && !policy.tokens.is_empty() => {
            return Err(Refused::Encryption("the certificate is not that of a client (certificate_name)"));
        }
        Certificate::Other | Certificate::None if !is_in_network => return Err(Refused::Network),
        Certificate::Other | Certificate::None => {}
    }
    Ok(())
}

fn log_refused(refused: Refused, cx: &mut Context<'_>) {
    let (shared, peer) = (&cx.ingress.shared, cx.peer.address);
    let Some(connections) = shared.log_lines.syslog_refused.allows(1, cx.ingress.now) else { return };
    match refused {
        Refused::Encryption(reason) => {
            tracing::warn!(connections, %peer, reason, "syslog without TLS or a certificate, closed");
        }
        Refused::Network => {
            let allow = shared.syslog.as_ref().map(ToString::to_string);
            tracing::warn!(
                connections,
                %peer,
                allow,
                "syslog from a network that is not allowed, closed; see syslog.allow, or give the sender the certificate of a client"
            );
        }
    }
}
