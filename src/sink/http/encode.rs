//! The body of a request, and the header that names the events in it.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::ndjson::write_record;
use super::settings::Format;
use crate::batch::Delivery;
use crate::limits;

/// `1-4,6-9`. The n-th event of the body has the n-th of these positions, whatever the format.
pub(super) fn header(positions: &[RangeInclusive<u64>]) -> String {
    let ranges: Vec<String> = positions.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    ranges.join(",")
}

/// The events of `delivery`, in order, in one piece: a `Content-Length` is what every service understands. Compressed as
/// it grows, so that only what is sent is held.
pub(super) fn encode(format: Format, gzip: bool, server_id: &[u8; 16], delivery: &Delivery) -> io::Result<Vec<u8>> {
    let mut body =
        Body { compressed: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())), plain: Vec::new() };
    match format {
        Format::Json => {
            let mut separator = b'[';
            for record in delivery.records() {
                body.plain.push(separator);
                separator = b',';
                write_record(server_id, &record, &mut body.plain);
                body.compress()?;
            }
            body.plain.push(b']');
        }
        Format::Ndjson => {
            for record in delivery.records() {
                write_record(server_id, &record, &mut body.plain);
                body.plain.push(b'\n');
                body.compress()?;
            }
        }
        // Joined, they are an EventBatch.
        Format::Protobuf => {
            for pick in delivery.picks() {
                body.plain.extend_from_slice(pick.payload());
                body.compress()?;
            }
        }
    }
    body.end()
}

struct Body {
    compressed: Option<GzEncoder<Vec<u8>>>,
    /// What is not compressed yet; all of it where nothing is.
    plain: Vec<u8>,
}

impl Body {
    /// Compresses what has gathered, if that is enough to be worth it.
    fn compress(&mut self) -> io::Result<()> {
        if let Some(compressed) = &mut self.compressed
            && self.plain.len() >= limits::NDJSON_CHUNK_BYTES
        {
            compressed.write_all(&self.plain)?;
            self.plain.clear();
        }
        Ok(())
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self.compressed {
            None => Ok(self.plain),
            Some(mut compressed) => {
                compressed.write_all(&self.plain)?;
                compressed.finish()
            }
        }
    }
}
