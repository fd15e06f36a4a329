//! The golden vectors of the protocol, and every way in which a frame's bytes can be wrong.

use super::answer::{self, Goaway};
use super::header::{MAGIC, VERSION};
use super::hello::HelloError;
use super::*;

const CAPS: PayloadCaps = PayloadCaps { data: 1024 };

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn frame(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

const DATA_FRAMING_ONLY: &str = "f5544c58 01030000 05000000 05000000 0100000000000000 82d84254 7ae286a3 0a03616263";
const ACK_1: &str = "f5544c58 01040000 00000000 00001000 0100000000000000 00000000 e3e9dd88";
const DATA_HELLO: &str = "f5544c58 01030000 09000000 09000000 0100000000000000 d331d0b2 64200e08 0a072a0568656c6c6f";
const HELLO_API: &str = "f5544c58 01010000 33000000 00000000 0000000000000000 90322bbf 6de7770c
    0101 0100 00000000 000102030405060708090a0b0c0d0e0f 0000000000000000 0100000000000000 0000 0300 00000000 617069";

#[test]
fn golden_data_frames_encode_and_decode() {
    for (vector, payload) in [(DATA_FRAMING_ONLY, &b"\x0a\x03abc"[..]), (DATA_HELLO, b"\x0a\x07\x2a\x05hello")] {
        let bytes = unhex(vector);
        assert_eq!(frame(Header::data(1, payload), payload), bytes);
        let Ok(Decoded::Frame { header, payload: decoded }) = decode(&bytes, CAPS) else { panic!("{vector}") };
        assert_eq!((header.kind, header.seq, header.arg), (FrameKind::Data, 1, payload.len() as u32));
        assert_eq!(decoded, payload);
    }
}

#[test]
fn golden_ack_encodes_and_decodes() {
    let mut out = Vec::new();
    answer::ack(1, 1 << 20, &mut out);
    assert_eq!(out, unhex(ACK_1));
    let Ok(Decoded::Frame { header, payload: [] }) = decode(&out, CAPS) else { panic!() };
    assert_eq!(header, Header::empty(FrameKind::Ack, 1, 1 << 20));
}

#[test]
fn golden_hello_encodes_and_decodes() {
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        codecs: 1,
        ack: Ok(None),
        agent_id: std::array::from_fn(|i| i as u8),
        epoch: 0,
        oldest_seq: 1,
        token: b"",
        name: "api",
    };
    let mut out = Vec::new();
    hello.encode(&mut out);
    assert_eq!(out, unhex(HELLO_API));
    let Ok(Decoded::Frame { header, payload }) = decode(&out, CAPS) else { panic!() };
    assert_eq!(header.kind, FrameKind::Hello);
    assert_eq!(Hello::decode(payload), Ok(hello));
}

#[test]
fn golden_vectors_are_partial_at_every_cut() {
    for vector in [DATA_FRAMING_ONLY, ACK_1, DATA_HELLO, HELLO_API] {
        let bytes = unhex(vector);
        for cut in 0..bytes.len() {
            match decode(&bytes[..cut], CAPS) {
                Ok(Decoded::NeedHeader) => assert!(cut < 32),
                Ok(Decoded::Partial { total, .. }) => assert!(cut >= 32 && total == bytes.len()),
                other => panic!("{vector} cut at {cut}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_found() {
    let bytes = unhex(DATA_HELLO);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&damaged, CAPS).is_err(), "bit {bit}");
    }
}

/// A header with any field set, its checksum right.
fn forged(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = Header::data(1, b"").encode().to_vec();
    change(&mut bytes);
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn bad_headers_are_refused_with_their_reason() {
    let table: &[(&str, Vec<u8>, FrameError)] = &[
        ("text", b"GET / HTTP/1.1\r\n".to_vec(), FrameError::Magic(*b"GET ")),
        ("one byte", b"x".to_vec(), FrameError::Magic([b'x', 0, 0, 0])),
        ("magic's second byte", vec![MAGIC[0], 0], FrameError::Magic([MAGIC[0], 0, 0, 0])),
        ("version 0", forged(|h| h[4] = 0), FrameError::Version(0)),
        ("version 2", forged(|h| h[4] = VERSION + 1), FrameError::Version(2)),
        ("type 0", forged(|h| h[5] = 0), FrameError::Type(0)),
        ("type 9", forged(|h| h[5] = 9), FrameError::Type(9)),
        ("type 127", forged(|h| h[5] = 127), FrameError::Type(127)),
        ("flag bit 4", forged(|h| h[6] = 0x10), FrameError::Flags(0x10)),
        ("flag bit 15", forged(|h| h[7] = 0x80), FrameError::Flags(0x8000)),
        ("codec on PING", forged(|h| (h[5], h[6]) = (6, 1)), FrameError::Flags(1)),
        ("arg on PING", forged(|h| (h[5], h[12]) = (6, 1)), FrameError::Arg { kind: FrameKind::Ping, arg: 1 }),
        ("arg on HELLO", forged(|h| (h[5], h[12]) = (1, 1)), FrameError::Arg { kind: FrameKind::Hello, arg: 1 }),
        (
            "DATA above the cap",
            forged(|h| h[8..12].copy_from_slice(&1025u32.to_le_bytes())),
            FrameError::TooLong { kind: FrameKind::Data, length: 1025, max: 1024 },
        ),
        (
            "DATA of 4 GiB",
            forged(|h| h[8..12].fill(0xff)),
            FrameError::TooLong { kind: FrameKind::Data, length: u32::MAX, max: 1024 },
        ),
        (
            "PING with a payload",
            forged(|h| (h[5], h[8]) = (6, 1)),
            FrameError::TooLong { kind: FrameKind::Ping, length: 1, max: 0 },
        ),
        (
            "HELLO above 1 KiB",
            forged(|h| (h[5], h[8], h[9]) = (1, 1, 4)),
            FrameError::TooLong { kind: FrameKind::Hello, length: 1025, max: 1024 },
        ),
        ("checksum of an empty payload", forged(|h| h[24] = 1), FrameError::PayloadCrc { found: 1, computed: 0 }),
    ];
    for (name, bytes, error) in table {
        assert_eq!(decode(bytes, CAPS), Err(*error), "{name}");
    }
}

#[test]
fn unknown_types_with_bit_7_are_skippable_frames() {
    let header = Header::of_payload(FrameKind::Skippable(0x99), 7, 0, b"later");
    let bytes = frame(header, b"later");
    assert_eq!(decode(&bytes, CAPS), Ok(Decoded::Frame { header, payload: b"later" }));
}

#[test]
fn bad_hellos_are_refused_with_their_reason() {
    let sound = &unhex(HELLO_API)[32..];
    let changed = |at: usize, value: u8| {
        let mut bytes = sound.to_vec();
        bytes[at] = value;
        bytes
    };
    let mut no_id = sound.to_vec();
    no_id[8..24].fill(0);
    let table: &[(&str, Vec<u8>, HelloError)] = &[
        ("empty", vec![], HelloError::Short(0)),
        ("47 bytes", sound[..47].to_vec(), HelloError::Short(47)),
        ("1025 bytes", [sound, &[b'x'; 974]].concat(), HelloError::Long(1025)),
        ("cut name", sound[..50].to_vec(), HelloError::Lengths { said: 3, found: 2 }),
        ("bytes behind the name", [sound, b"x"].concat(), HelloError::Lengths { said: 3, found: 4 }),
        ("token longer than the frame", changed(41, 1), HelloError::Lengths { said: 259, found: 3 }),
        ("name not UTF-8", changed(48, 0xff), HelloError::Name),
        ("reserved", changed(44, 1), HelloError::Reserved),
        ("agent_id zero", no_id, HelloError::AgentId),
        ("codec bit 0 clear", changed(2, 2), HelloError::Codecs),
        ("oldest_seq 0", changed(32, 0), HelloError::OldestSeq),
        ("epoch 2^62", changed(31, 0x40), HelloError::Epoch(1 << 62)),
    ];
    for (name, bytes, error) in table {
        assert_eq!(Hello::decode(bytes), Err(*error), "{name}");
    }
    assert_eq!(Hello::decode(&changed(4, 9)).map(|hello| hello.ack), Ok(Err(9)));
}

#[test]
fn welcome_round_trips_and_refuses_other_sizes() {
    let welcome = Welcome {
        version: 1,
        ack: AckLevel::Synced,
        codecs: 1,
        max_frame: 1 << 20,
        max_raw: 1 << 20,
        window_bytes: 4 << 20,
        window_frames: 64,
        keepalive_seconds: 30,
        resumed: true,
        epoch: 42,
        last_seq: 7,
        server_id: [9; 16],
    };
    let mut out = Vec::new();
    welcome.encode(&mut out);
    let Ok(Decoded::Frame { payload, .. }) = decode(&out, CAPS) else { panic!() };
    assert_eq!(payload.len(), 56);
    assert_eq!(Welcome::decode(payload), Ok(welcome));
    assert!(Welcome::decode(&payload[..55]).is_err());
    assert!(Welcome::decode(&[payload, b"x"].concat()).is_err());
}

#[test]
fn goaway_and_nack_round_trip_with_every_code() {
    for code in GoawayCode::ALL {
        let mut out = Vec::new();
        Goaway { code: Ok(code), retry_ms: 5, text: "why" }.encode(3, &mut out);
        let Ok(Decoded::Frame { header, payload }) = decode(&out, CAPS) else { panic!() };
        assert_eq!((header.kind, header.seq), (FrameKind::Goaway, 3));
        assert_eq!(Goaway::decode(payload), Some(Goaway { code: Ok(code), retry_ms: 5, text: "why" }));
    }
    for code in NackCode::ALL {
        let mut out = Vec::new();
        answer::nack(3, code, "why", &mut out);
        let Ok(Decoded::Frame { header, payload }) = decode(&out, CAPS) else { panic!() };
        assert_eq!((header.kind, header.seq, header.arg, payload), (FrameKind::Nack, 3, code as u32, &b"why"[..]));
    }
}

#[test]
fn long_reasons_are_cut_between_characters() {
    let reason = "é".repeat(crate::limits::REASON_BYTES_MAX);
    let mut out = Vec::new();
    answer::nack(1, NackCode::Invalid, &reason[1 - 1..], &mut out);
    let Ok(Decoded::Frame { payload, .. }) = decode(&out, CAPS) else { panic!() };
    assert!(payload.len() <= crate::limits::REASON_BYTES_MAX && std::str::from_utf8(payload).is_ok());
}

#[test]
fn versions_meet_where_the_ranges_overlap() {
    use super::hello::common_version;
    for (min, max, chosen) in
        [(1, 1, Some(1)), (0, 1, Some(1)), (1, 9, Some(1)), (0, 0, None), (2, 3, None), (2, 1, None)]
    {
        assert_eq!(common_version(min, max), chosen, "{min}..={max}");
    }
}
