//! Events as NDJSON: the JSON that is accepted plus server_id, position, received_at and agent.

use std::io::{self, Write};

use super::Identity;
use crate::batch::{Delivery, Record};
use crate::event::{JsonRecord, write_json};
use crate::limits;

/// Every line begins so.
pub(super) const LINE_START: &[u8] = b"{\"server_id\":\"";

/// Appends the event as one JSON object, without a newline.
pub(crate) fn write_record(server_id: &[u8; 16], record: &Record<'_>, out: &mut Vec<u8>) {
    let record = JsonRecord {
        server_id: Some(*server_id),
        position: Some(record.position),
        received_unix_nano: Some(record.received_unix_nano),
        agent: record.origin.agent.as_deref(),
        source: record.source(),
        time_unix_nano: record.time_unix_nano(),
        event: record.event,
    };
    write_json(&record, out);
}

/// Writes deliveries as lines, in bounded chunks that end with a line.
pub(super) struct Lines {
    server_id: [u8; 16],
    chunk: Vec<u8>,
}

impl Lines {
    /// A writer of lines that name this server.
    pub(super) fn new(identity: &Identity) -> Self {
        Self { server_id: identity.server_id, chunk: Vec::new() }
    }

    /// Writes the events of `delivery`.
    pub(super) fn write(&mut self, delivery: &Delivery, out: &mut impl Write) -> io::Result<()> {
        self.chunk.clear();
        for record in delivery.records() {
            write_record(&self.server_id, &record, &mut self.chunk);
            self.chunk.push(b'\n');
            if self.chunk.len() >= limits::NDJSON_CHUNK_BYTES {
                out.write_all(&self.chunk)?;
                self.chunk.clear();
            }
        }
        out.write_all(&self.chunk)?;
        out.flush()
    }
}
