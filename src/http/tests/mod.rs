//! The state machine against the peer and the ingress of [`super::fuzz`].

mod conformance;
mod events;
mod limited;
mod maps;
mod messages;
mod otlp;
mod pages;
mod profiles;
mod refused;
mod requests;
mod room;
mod timers;

use std::time::{Duration, Instant};

use super::fuzz::{FakeIngress, Outcome, Peer, SETTINGS, exchange_within, outcome_of};
use super::{Connection, Settings};
use crate::batch::pool::Pool;
use crate::metrics::RejectReason;
use crate::wire::AckLevel;

impl Peer {
    fn later(&mut self, time: Duration) {
        self.now += time;
        self.connection.handle_timeout(self.now, &mut self.ingress, &mut self.out);
        self.written.append(&mut self.out);
    }
}

fn exchange_with(input: impl AsRef<[u8]>, prepare: impl Fn(&mut FakeIngress)) -> Outcome {
    exchange_within(SETTINGS, input.as_ref(), &prepare)
}

fn exchange(input: impl AsRef<[u8]>) -> Outcome {
    exchange_with(input, |_| {})
}

fn post(content_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_with(&format!("Content-Type: {content_type}\r\n"), body)
}

/// `fields`: header fields with their CRLF.
fn post_with(fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An `EventBatch` of events with these names.
fn batch(names: &[&str]) -> Vec<u8> {
    let events = names
        .iter()
        .map(|name| crate::event::proto::Event { name: (*name).to_owned(), ..Default::default() })
        .collect();
    prost::Message::encode_to_vec(&crate::event::proto::EventBatch { events })
}

const PROTOBUF: &str = "application/x-protobuf";
