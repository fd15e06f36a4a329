//! A delivery as requests: cut into bounded parts, each written from the slices of its events as they stand.
//!
//! ```text
//!  delivery   e7 e8 e9 … │ except e8 │ taken before: e20–e31 │ … e99
//!  parts      7..=19, without 8                               32..=71     72..=99      each ≤ 1 MiB, ≤ 10,000 events
//!  a request  server_id · sink · batch (the events' own bytes) · positions, packed · runs
//! ```

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::event::proto::{DeliverResponse, Run};
use crate::limits;
use crate::pipeline::batch::{Delivery, Origin, Record};

/// What all requests of a sink have in common.
#[derive(Debug)]
pub struct Head {
    pub server_id: [u8; 16],
    pub sink: String,
}

/// One request. Holds the delivery's batches, not a copy of them.
#[derive(Debug)]
pub struct Part {
    head: Arc<Head>,
    /// Its first and last event are in the request.
    delivery: Delivery,
    except: Arc<[u64]>,
    events: usize,
    /// Of the EventBatch.
    batch_bytes: usize,
}

/// Cuts what is left of `delivery` into requests: without the events at `except` (sorted), and without what lies in
/// `taken`.
pub fn parts(head: &Arc<Head>, delivery: &Delivery, except: &[u64], taken: &[RangeInclusive<u64>]) -> Vec<Part> {
    let except: Arc<[u64]> = except.into();
    let mut parts = Vec::new();
    let mut open: Option<Open> = None;
    let mut close = |open: Option<Open>| {
        let Some(Open { first, last, events, batch_bytes, .. }) = open else { return };
        let (head, except, delivery) = (head.clone(), except.clone(), delivery.part(first..=last));
        parts.push(Part { head, delivery, except, events, batch_bytes });
    };
    for record in delivery.records() {
        if taken.iter().any(|range| range.contains(&record.position)) {
            close(open.take());
        } else if except.binary_search(&record.position).is_err() {
            let part = match open.take() {
                Some(part) if part.has_room(&record) => part,
                full => {
                    close(full);
                    Open { first: record.position, ..Open::default() }
                }
            };
            open = Some(part.with(&record));
        }
    }
    close(open);
    parts
}

/// A part that may grow.
#[derive(Default)]
struct Open {
    first: u64,
    last: u64,
    events: usize,
    batch_bytes: usize,
    /// Beside the batch: positions and runs, at most.
    other_bytes: usize,
}

impl Open {
    fn has_room(&self, record: &Record<'_>) -> bool {
        let bytes = self.batch_bytes + self.other_bytes + event_bytes(record) + other_bytes(record);
        self.events < limits::GRPC_REQUEST_EVENTS_MAX && bytes <= limits::GRPC_REQUEST_BYTES_MAX
    }

    fn with(self, record: &Record<'_>) -> Self {
        Self {
            first: self.first,
            last: record.position,
            events: self.events + 1,
            batch_bytes: self.batch_bytes + event_bytes(record),
            other_bytes: self.other_bytes + other_bytes(record),
        }
    }
}

/// Of one event in an EventBatch.
fn event_bytes(record: &Record<'_>) -> usize {
    let len = record.event.bytes().len();
    1 + encoded_len_varint(len as u64) + len
}

/// A position and, as if each event came alone, a run with its numbers and lengths.
fn other_bytes(record: &Record<'_>) -> usize {
    let origin = record.origin;
    10 + 32 + origin.agent.as_deref().unwrap_or_default().len() + origin.default_source.len()
}

impl Part {
    pub fn positions(&self) -> RangeInclusive<u64> {
        self.delivery.first_position()..=self.delivery.last_position()
    }

    pub fn events(&self) -> usize {
        self.events
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.delivery.records().filter(|record| self.except.binary_search(&record.position).is_err())
    }

    /// The positions of the events, by their index in the request.
    pub fn position_of_each(&self) -> impl Iterator<Item = u64> + use<> {
        let (positions, except) = (self.positions(), self.except.clone());
        positions.filter(move |position| except.binary_search(position).is_err())
    }

    /// Writes the DeliverRequest.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_bytes(SERVER_ID, &self.head.server_id, out);
        put_bytes(SINK, self.head.sink.as_bytes(), out);
        encode_key(BATCH, WireType::LengthDelimited, out);
        encode_varint(self.batch_bytes as u64, out);
        let mut positions = Vec::with_capacity(self.events * encoded_len_varint(self.delivery.last_position()));
        let mut runs = Runs::default();
        for record in self.records() {
            put_bytes(EVENTS, record.event.bytes(), out);
            encode_varint(record.position, &mut positions);
            runs.add(&record);
        }
        put_bytes(POSITIONS, &positions, out);
        out.put_slice(&runs.end());
    }
}

// The fields of DeliverRequest, and of EventBatch, in proto/events.proto.
const SERVER_ID: u32 = 1;
const SINK: u32 = 2;
const BATCH: u32 = 3;
const POSITIONS: u32 = 4;
const RUNS: u32 = 5;
const EVENTS: u32 = 1;

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
    fn add(&mut self, record: &Record<'a>) {
        match &mut self.open {
            Some((origin, run))
                if std::ptr::eq(*origin, record.origin) && run.received_unix_nano == record.received_unix_nano =>
            {
                run.events += 1;
            }
            _ => {
                self.close();
                let run = Run {
                    events: 1,
                    agent: record.origin.agent.clone().unwrap_or_default(),
                    default_source: record.origin.default_source.clone(),
                    received_unix_nano: record.received_unix_nano,
                };
                self.open = Some((record.origin, run));
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
pub struct DeliverCodec;

pub type Answer = Result<DeliverResponse, prost::DecodeError>;

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
        out.reserve(part.batch_bytes + 10 * part.events + 1024);
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
