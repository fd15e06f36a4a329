//! The mapping of OTLP in place agrees with a plain one over the types of prost, and requests in JSON with those in protobuf:
//! over generated requests, over damaged ones, and over noise.

use telemetryx::event::otlp::Signal;
use telemetryx::event::otlp::fuzz::{compare_with_prost, json_body, protobuf, request};
use telemetryx::random::Random;

fn seed() -> u64 {
    let given = std::env::var("TELEMETRYX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_nanos() as u64
    });
    println!("TELEMETRYX_TEST_SEED={seed}");
    seed
}

/// One or more bytes changed, taken out, put in or doubled.
fn damaged(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..1 + random.next_u64() % 3 {
        if bytes.is_empty() {
            return bytes;
        }
        let at = (random.next_u64() % bytes.len() as u64) as usize;
        let end = (at + 1 + (random.next_u64() % 20) as usize).min(bytes.len());
        match random.next_u64() % 6 {
            0 => bytes[at] ^= 1 << (random.next_u64() % 8),
            1 => bytes[at] = [0, 0xff, 0x80, 0x0a][(random.next_u64() % 4) as usize],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next_u64() as u8),
            4 => drop(bytes.drain(at..end)),
            _ => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

#[test]
fn generated_requests_are_mapped_as_by_the_plain_twin() {
    let mut random = Random::seeded(seed());
    let mut events = [0; 3];
    for _ in 0..400 {
        for (signal, events) in Signal::ALL.into_iter().zip(&mut events) {
            let bytes = request(signal, &mut random);
            compare_with_prost(&bytes);
            *events += protobuf(signal, &bytes).map_or(0, |(decoded, _)| decoded.events);
        }
    }
    assert!(events.iter().all(|events| *events > 300), "{events:?} events of logs, metrics and traces");
}

#[test]
fn damaged_requests_are_refused_by_both_or_mapped_alike() {
    let mut random = Random::seeded(seed());
    for _ in 0..300 {
        for signal in Signal::ALL {
            let bytes = request(signal, &mut random);
            for _ in 0..4 {
                compare_with_prost(&damaged(bytes.clone(), &mut random));
            }
        }
    }
}

#[test]
fn noise_is_refused_by_both() {
    let mut random = Random::seeded(seed());
    for length in 0..2_000 {
        let bytes: Vec<u8> = (0..length % 40).map(|_| random.next_u64() as u8).collect();
        compare_with_prost(&bytes);
        json_body(&bytes);
    }
    for first in 0..=255 {
        for second in 0..=255 {
            compare_with_prost(&[first, second]);
            // Within a resource's group, and within a scope's.
            compare_with_prost(&[0x0a, 2, first, second]);
            compare_with_prost(&[0x0a, 4, 0x12, 2, first, second]);
            compare_with_prost(&[0x0a, 6, 0x12, 4, 0x12, 2, first, second]);
        }
    }
}

/// Values within values, up to and beyond the depth that prost reads.
#[test]
fn nested_values_are_refused_where_prost_refuses_them() {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend_from_slice(content);
        bytes
    }
    for list in [false, true] {
        for depth in 1..60 {
            let mut value = field(1, b"x");
            for _ in 0..depth {
                // An array of one value, or a list of one key and value.
                value = if list {
                    let member = [field(1, b"k"), field(2, &value)].concat();
                    field(6, &field(1, &member))
                } else {
                    field(5, &field(1, &value))
                };
            }
            let attribute = [field(1, b"key"), field(2, &value)].concat();
            for log in [field(5, &value), field(6, &attribute)] {
                compare_with_prost(&field(1, &field(2, &field(2, &log))));
            }
            compare_with_prost(&field(1, &field(1, &field(1, &attribute))));
        }
    }
}
