//! The body of a request, and the header that says which events are in it.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::ndjson::write_record;
use super::settings::Format;
use crate::limits;
use crate::pipeline::batch::Delivery;

/// Number of `EventBatch.events`.
const EVENTS_FIELD: u32 = 1;

/// The positions of `delivery` without those at `except` (sorted), as ranges in order. Empty: nothing is left.
pub fn positions(delivery: &Delivery, except: &[u64]) -> Vec<RangeInclusive<u64>> {
    let (first, last) = (delivery.first_position(), delivery.last_position());
    let mut ranges = Vec::new();
    let mut next = first;
    for refused in except.iter().copied().filter(|position| (first..=last).contains(position)) {
        if next < refused {
            ranges.push(next..=refused - 1);
        }
        next = refused + 1;
    }
    if next <= last {
        ranges.push(next..=last);
    }
    ranges
}

/// `1-4,6-9`. The n-th event of the body has the n-th of these positions, whatever the format.
pub fn header(positions: &[RangeInclusive<u64>]) -> String {
    let ranges: Vec<String> = positions.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
    ranges.join(",")
}

/// The events of `delivery` that are not in `except`, in order, in one piece: a `Content-Length` is what every service
/// understands. Compressed as it grows, so that only what is sent is held.
pub fn encode(
    format: Format,
    gzip: bool,
    server_id: &[u8; 16],
    delivery: &Delivery,
    except: &[u64],
) -> io::Result<Vec<u8>> {
    let mut compressed = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let mut plain = Vec::new();
    let mut separator = b'[';
    for record in delivery.records().filter(|record| except.binary_search(&record.position).is_err()) {
        match format {
            Format::Json => {
                plain.push(separator);
                separator = b',';
                write_record(server_id, &record, &mut plain);
            }
            Format::Ndjson => {
                write_record(server_id, &record, &mut plain);
                plain.push(b'\n');
            }
            Format::Protobuf => {
                let event = record.event.bytes();
                encode_key(EVENTS_FIELD, WireType::LengthDelimited, &mut plain);
                encode_varint(event.len() as u64, &mut plain);
                plain.extend_from_slice(event);
            }
        }
        if let Some(compressed) = &mut compressed
            && plain.len() >= limits::NDJSON_CHUNK_BYTES
        {
            compressed.write_all(&plain)?;
            plain.clear();
        }
    }
    if format == Format::Json {
        plain.push(b']');
    }
    match compressed {
        None => Ok(plain),
        Some(mut compressed) => {
            compressed.write_all(&plain)?;
            compressed.finish()
        }
    }
}
