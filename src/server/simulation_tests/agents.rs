//! The agents: sans-IO sessions with what they are going to send.

use std::time::Instant;

use prost::Message;

use super::life::Life;
use super::store::POISON;
use crate::event::proto::{Event, EventBatch};
use crate::random::Random;
use crate::session::agent::{Action, Agent, Settings, Stopped};
use crate::time::Now;
use crate::wire::AckLevel;

/// First byte of a payload that is not an `EventBatch`.
const GARBAGE: u8 = 0xff;
const FRAMES: u64 = 15;
const EVENTS_MAX: u64 = 5;

/// Names of events that a step leaves out end with this.
pub(super) const LEFT_OUT: &str = " debug";

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The store has it.
    Stored,
    /// The store refuses it.
    Dead,
    /// A step of the sink leaves it out.
    LeftOut,
    /// It is rejected on receipt.
    Rejected,
}

/// One agent and its end of the network.
pub(super) struct Client {
    index: usize,
    agent: Agent,
    /// Number of its connection.
    pub connection: Option<u64>,
    /// When it has something to do without any bytes; `None`: never.
    pub waits_until: Option<Instant>,
    frames_left: u64,
    filters: bool,
    /// Names of its events and what has to become of them, in the order in which they are sent.
    pub sent: Vec<(String, Fate)>,
}

impl Client {
    /// `filters`: whether the sink has [`steps`](super::life::steps).
    pub(super) fn new(index: usize, filters: bool, random: &mut Random, now: Now) -> Self {
        let ack = [AckLevel::Synced, AckLevel::Delivered][random.next_u64() as usize % 2];
        let settings = Settings {
            agent_id: [index as u8 + 1; 16],
            name: format!("agent-{index}"),
            token: Vec::new(),
            ack: Some(ack),
            queue_bytes: 1 << 16,
            seed: random.next_u64(),
        };
        let agent = Agent::new(settings, now.monotonic).unwrap();
        Self { index, agent, connection: None, waits_until: None, frames_left: FRAMES, filters, sent: Vec::new() }
    }

    /// Everything is sent, acknowledged, and its BYE is sent.
    pub(super) fn is_finished(&self) -> bool {
        self.agent.stopped() == Some(&Stopped::Finished)
    }

    /// Acknowledged and refused events.
    pub(super) fn settled_events(&self) -> u64 {
        let progress = self.agent.progress();
        progress.acknowledged_events + progress.refused_events
    }

    /// Queues a frame, or closes after the last one.
    pub(super) fn queue(&mut self, random: &mut Random) {
        if self.frames_left == 0 {
            return self.agent.close();
        }
        self.frames_left -= 1;
        if random.next_u64().is_multiple_of(10) {
            let name = self.name(Fate::Rejected);
            let payload = [&[GARBAGE], name.as_bytes()].concat();
            self.agent.queue(&payload, 1).unwrap();
            return;
        }
        let events = (0..random.next_u64() % (EVENTS_MAX + 1)).map(|_| self.event(random)).collect::<Vec<_>>();
        let count = events.len() as u32;
        self.agent.queue(&EventBatch { events }.encode_to_vec(), count).unwrap();
    }

    fn event(&mut self, random: &mut Random) -> Event {
        match random.next_u64() % 20 {
            // With neither name nor body.
            0 => Event { source: self.name(Fate::Rejected), ..Event::default() },
            1 => Event { name: self.name(Fate::Dead), ..Event::default() },
            2..7 if self.filters => Event { name: self.name(Fate::LeftOut), ..Event::default() },
            _ => Event { name: self.name(Fate::Stored), ..Event::default() },
        }
    }

    fn name(&mut self, fate: Fate) -> String {
        let poison = if fate == Fate::Dead { POISON } else { "" };
        let left_out = if fate == Fate::LeftOut { LEFT_OUT } else { "" };
        let name = format!("{poison}agent-{} event-{}{left_out}", self.index, self.sent.len());
        self.sent.push((name.clone(), fate));
        name
    }

    /// Does what the session asks for. `true`: something was done.
    pub(super) fn act(&mut self, life: &mut Life, now: Now) -> bool {
        let action = self.agent.poll(now.monotonic);
        self.waits_until = None;
        match action {
            Action::Wait(until) => {
                self.waits_until = until;
                return false;
            }
            Action::Stop => return false,
            Action::Connect => {
                self.connection = Some(life.connect(now));
                self.agent.connected(now.monotonic);
            }
            Action::Write(bytes) => {
                if let Some(connection) = self.connection {
                    life.send(connection, &bytes);
                }
            }
            Action::HalfClose => self.connection.into_iter().for_each(|connection| life.end_sending(connection)),
            Action::Close => {
                self.connection.take().into_iter().for_each(|connection| life.leave(connection, usize::MAX))
            }
        }
        true
    }

    /// Takes some of the bytes that the server has sent. `true`: there were some, or the connection has ended.
    pub(super) fn receive(&mut self, life: &mut Life, random: &mut Random, now: Now) -> bool {
        let Some(connection) = self.connection else { return false };
        match life.receive(connection, random) {
            Some(bytes) => {
                self.agent.receive(&bytes, now.monotonic);
                !bytes.is_empty()
            }
            None => {
                self.lose("closed by the server", now);
                true
            }
        }
    }

    /// The connection is cut; what is on its way to the server is lost after some bytes.
    pub(super) fn cut(&mut self, life: &mut Life, random: &mut Random, now: Now) {
        if let Some(connection) = self.connection {
            life.leave(connection, random.next_u64() as usize % 200);
            self.lose("cut", now);
        }
    }

    /// The agent finds that its connection has ended.
    pub(super) fn lose(&mut self, reason: &str, now: Now) {
        self.connection = None;
        self.agent.disconnected(reason.to_owned(), now.monotonic);
    }
}
