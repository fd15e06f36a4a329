//! Events as NDJSON: the JSON that the door takes plus server_id, position, received_at and agent.

use std::io::{self, Write};

use super::{Identity, uuid};
use crate::limits;
use crate::pipeline::batch::{Delivery, Record};

/// Every line begins so.
pub const LINE_START: &[u8] = b"{\"server_id\":\"";

/// Writes deliveries as lines, in bounded chunks that end with a line.
pub struct Lines {
    server_id: String,
    chunk: Vec<u8>,
}

impl Lines {
    pub fn new(identity: &Identity) -> Self {
        Self { server_id: uuid(&identity.server_id), chunk: Vec::new() }
    }

    /// Writes the events of `delivery` that are not in `except`.
    pub fn write(&mut self, delivery: &Delivery, except: &[u64], out: &mut impl Write) -> io::Result<()> {
        self.chunk.clear();
        for record in delivery.records().filter(|record| except.binary_search(&record.position).is_err()) {
            write_line(&mut self.chunk, &self.server_id, &record);
            if self.chunk.len() >= limits::NDJSON_CHUNK_BYTES {
                out.write_all(&self.chunk)?;
                self.chunk.clear();
            }
        }
        out.write_all(&self.chunk)?;
        out.flush()
    }
}

fn write_line(out: &mut Vec<u8>, server_id: &str, record: &Record<'_>) {
    let _ = writeln!(
        out,
        "{{\"server_id\":\"{server_id}\",\"position\":{},\"name\":\"{}\"}}",
        record.position,
        record.event.name()
    );
}
