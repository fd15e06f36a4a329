//! A delivery as requests: cut into bounded parts, each written from the slices of its events as they were received.
//!
//! ```text
//!  delivery   picks e7, e9–e99 │ taken before: e20–e31
//!  parts      7, 9–19            32–71     72–99                  each ≤ 1 MiB, ≤ 10,000 events
//!  a request  server_id · sink · batch (the events' own bytes) · positions, packed · runs
//! ```

use std::mem;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::batch::{self, Delivery, Origin, Pick};
use crate::event::proto::{DeliverResponse, Run};
use crate::limits;

/// What all requests of a sink have in common.
#[derive(Debug)]
pub(super) struct Head {
    /// The server that received the events.
    pub server_id: [u8; 16],
    /// The sink's name in the settings.
    pub sink: String,
}

/// One request. Holds the delivery's batches, not a copy of them.
#[derive(Debug)]
pub(super) struct Part {
    head: Arc<Head>,
    /// Exactly the events of the request.
    delivery: Delivery,
    /// Of the EventBatch.
    batch_bytes: usize,
}

/// Cuts `delivery` into requests, without what lies in `taken`: no request spans any of it.
pub(super) fn parts(head: &Arc<Head>, delivery: &Delivery, taken: &[RangeInclusive<u64>]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut open = Open::default();
    let mut close = |open: &mut Open<'_>| {
        let Open { picks, batch_bytes, .. } = mem::take(open);
        if !picks.is_empty() {
            parts.push(Part { head: head.clone(), delivery: delivery.of_picks(picks), batch_bytes });
        }
    };
    for pick in delivery.picks() {
        let mut left = Some(pick);
        while let Some(pick) = left.take() {
            let first = pick.first_position();
            if let Some(range) = taken.iter().find(|range| range.contains(&first)) {
                close(&mut open);
                left = pick.split_at(range.end() + 1).1;
                continue;
            }
            let taken_next = taken.iter().map(|range| *range.start()).filter(|start| *start > first).min();
            let untaken = taken_next.map_or(u64::MAX, |start| start - first);
            let run = pick.run();
            let (fitting, rest) =
                pick.cut(|events, bytes| u64::from(events) <= untaken && open.has_room(run, events, bytes));
            match fitting {
                Some(fitting) => open.add(fitting),
                None => close(&mut open),
            }
            left = rest;
        }
    }
    close(&mut open);
    parts
}

/// A part that may grow.
#[derive(Default)]
struct Open<'a> {
    picks: Vec<Pick<'a>>,
    events: usize,
    batch_bytes: usize,
    /// Beside the batch: positions and runs, at most.
    other_bytes: usize,
}

impl<'a> Open<'a> {
    /// Whether so many events of `run` fit, whose batch has so many bytes. The first one always does.
    fn has_room(&self, run: &batch::Run, events: u32, batch_bytes: usize) -> bool {
        if self.picks.is_empty() && events == 1 {
            return true;
        }
        let bytes = self.batch_bytes + batch_bytes + self.other_bytes + other_bytes(run, events);
        self.events + events as usize <= limits::GRPC_REQUEST_EVENTS_MAX && bytes <= limits::GRPC_REQUEST_BYTES_MAX
    }

    fn add(&mut self, pick: Pick<'a>) {
        self.events += pick.events() as usize;
        self.batch_bytes += pick.payload().len();
        self.other_bytes += other_bytes(pick.run(), pick.events());
        self.picks.push(pick);
    }
}

/// Positions and, as if each event came alone, runs with their numbers and lengths.
fn other_bytes(run: &batch::Run, events: u32) -> usize {
    let origin = &run.origin;
    events as usize * (10 + 32 + origin.agent.as_deref().unwrap_or_default().len() + origin.default_source.len())
}

impl Part {
    /// From its first event to its last.
    pub(super) fn positions(&self) -> RangeInclusive<u64> {
        self.delivery.first_position()..=self.delivery.last_position()
    }

    /// Number of events, at least 1.
    pub(super) fn events(&self) -> usize {
        usize::try_from(self.delivery.events()).unwrap_or(usize::MAX)
    }

    /// The positions of the events, by their index in the request.
    pub(super) fn position_of_each(&self) -> impl Iterator<Item = u64> + use<> {
        self.delivery.position_ranges().into_iter().flatten()
    }

    /// Writes the DeliverRequest.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        put_bytes(SERVER_ID, &self.head.server_id, out);
        put_bytes(SINK, self.head.sink.as_bytes(), out);
        encode_key(BATCH, WireType::LengthDelimited, out);
        encode_varint(self.batch_bytes as u64, out);
        let mut positions = Vec::with_capacity(self.events() * encoded_len_varint(self.delivery.last_position()));
        let mut runs = Runs::default();
        for pick in self.delivery.picks() {
            // As it was received: joined, they are an EventBatch.
            out.put_slice(pick.payload());
            runs.add(&pick);
        }
        self.position_of_each().for_each(|position| encode_varint(position, &mut positions));
        put_bytes(POSITIONS, &positions, out);
        out.put_slice(&runs.end());
    }
}

// The fields of DeliverRequest in proto/events.proto.
const SERVER_ID: u32 = 1;
const SINK: u32 = 2;
const BATCH: u32 = 3;
const POSITIONS: u32 = 4;
const RUNS: u32 = 5;

fn put_bytes(field: u32, bytes: &[u8], out: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

/// Neighbours of one origin and time are one run.
#[derive(Default)]
struct Runs<'a> {
    encoded: Vec<u8>,
    open: Option<(&'a Origin, Run)>,
}

impl<'a> Runs<'a> {
    fn add(&mut self, pick: &Pick<'a>) {
        let from = pick.run();
        match &mut self.open {
            Some((origin, run))
                if std::ptr::eq(*origin, &*from.origin) && run.received_unix_nano == from.received_unix_nano =>
            {
                run.events += pick.events();
            }
            _ => {
                self.close();
                let run = Run {
                    events: pick.events(),
                    agent: from.origin.agent.clone().unwrap_or_default(),
                    default_source: from.origin.default_source.clone(),
                    received_unix_nano: from.received_unix_nano,
                };
                self.open = Some((&from.origin, run));
            }
        }
    }

    fn close(&mut self) {
        if let Some((_, run)) = self.open.take() {
            put_bytes(RUNS, &run.encode_to_vec(), &mut self.encoded);
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.close();
        self.encoded
    }
}

/// Parts out, answers in. An answer that is none is a value here, so that it is not taken for the receiver's status.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeliverCodec;

/// A receiver's answer to one request, or why it cannot be decoded.
pub(super) type Answer = Result<DeliverResponse, prost::DecodeError>;

impl Codec for DeliverCodec {
    type Encode = Part;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for DeliverCodec {
    type Item = Part;
    type Error = Status;

    fn encode(&mut self, part: Part, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // All but the runs: it grows by little then.
        out.reserve(part.batch_bytes + 10 * part.events() + 1024);
        part.encode(out);
        Ok(())
    }
}

impl Decoder for DeliverCodec {
    type Item = Answer;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<Answer>, Status> {
        // All of it, also where it cannot be read: the library goes on behind it.
        let bytes = answer.copy_to_bytes(answer.remaining());
        Ok(Some(DeliverResponse::decode(bytes)))
    }
}
