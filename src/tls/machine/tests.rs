use std::io::Write;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, HandshakeKind, SupportedProtocolVersion};

use super::*;
use crate::limits::TLS_WIRE_BYTES;
use crate::random::Random;
use crate::tls::testing::{Authority, Issued, acceptor, client, connect, sent_by, show};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const FAR: (i32, u8, u8) = (2120, 1, 1);

/// A server's machine with the buffers that a loop has.
pub(super) struct Server {
    machine: Machine,
    pub(super) wire: Vec<u8>,
    /// To be sent, and not shown to the client yet.
    pub(super) out: Vec<u8>,
    pub(super) plain: Vec<u8>,
    pub(super) has_ended: bool,
    /// How often something was received.
    reads: usize,
}

impl Server {
    pub(super) fn new(config: Arc<ServerConfig>) -> Self {
        let machine = Machine::new(config).unwrap();
        Self { machine, wire: vec![0; TLS_WIRE_BYTES], out: Vec::new(), plain: Vec::new(), has_ended: false, reads: 0 }
    }

    /// Receives `bytes` as a socket would deliver them in pieces of at most `piece`, into rooms of `room` bytes.
    pub(super) fn receive(&mut self, mut bytes: &[u8], piece: usize, room: usize) -> Result<(), Error> {
        let mut room = vec![0; room];
        loop {
            let plain = self.machine.take_plain(&mut room);
            if plain > 0 {
                self.plain.extend_from_slice(&room[..plain]);
                continue;
            }
            if let Some(error) = self.machine.take_failure() {
                return Err(error);
            }
            if self.machine.is_at_end() {
                self.has_ended = true;
            }
            if bytes.is_empty() || self.has_ended {
                return Ok(());
            }
            let at = self.machine.receive_at(room.len(), Fill::Within);
            let count = bytes.len().min(piece).min(at.len()).min(TLS_WIRE_BYTES - at.start);
            let end = at.start + count;
            self.wire[at.start..end].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.reads += 1;
            match self.machine.receive(&mut self.wire[..end], &mut room, &mut self.out)? {
                Received::Bytes(count) => self.plain.extend_from_slice(&room[..count]),
                Received::Nothing => {}
                Received::End => self.has_ended = true,
            }
            assert!(self.machine.kept_bytes() <= TLS_HELD_BYTES_MAX + TLS_RECORD_BYTES_MAX);
        }
    }

    pub(super) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Runs the handshake, in pieces.
pub(super) fn shake(server: &mut Server, client: &mut ClientConnection, piece: usize) {
    for _ in 0..4 {
        let bytes = sent_by(client);
        server.receive(&bytes, piece, 1024).unwrap();
        show(client, &server.take_out()).unwrap();
    }
    assert!(!client.is_handshaking() && !server.machine.is_handshaking());
}

fn pair(version: &'static SupportedProtocolVersion) -> (Server, ClientConnection) {
    let issued = Issued::self_signed("localhost");
    let mut server = Server::new(acceptor(&issued, None).config());
    let mut client = connect(&self::client(&issued, None, version));
    shake(&mut server, &mut client, usize::MAX);
    (server, client)
}

#[test]
fn bytes_arrive_in_any_pieces_and_through_any_room() {
    let issued = Issued::self_signed("localhost");
    let acceptor = acceptor(&issued, None);
    let mut random = Random::seeded(7);
    let sent: Vec<u8> = (0..100_000).map(|_| random.next_u64() as u8).collect();
    for version in VERSIONS {
        for (piece, room) in
            [(usize::MAX, 1 << 20), (1, 7), (13, 1056), (1_460, 64 << 10), (16_000, 1), (40_000, 20_000)]
        {
            let mut server = Server::new(acceptor.config());
            let mut client = connect(&self::client(&issued, None, version));
            shake(&mut server, &mut client, piece);
            assert_eq!(server.machine.kept_bytes(), 0, "nothing is kept of a handshake");
            for part in sent.chunks(30_000) {
                client.writer().write_all(part).unwrap();
                let bytes = sent_by(&mut client);
                server.receive(&bytes, piece, room).unwrap();
            }
            assert!(server.plain == sent, "{version:?} {piece} {room}");
            assert_eq!((server.machine.held.capacity(), server.machine.plain.capacity()), (0, 0));
            server.machine.encrypt(&sent, &mut server.out).unwrap();
            assert!(show(&mut client, &server.take_out()).unwrap() == sent);
        }
    }
}

#[test]
fn answers_follow_after_the_client_has_ended() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version);
        client.writer().write_all(b"last").unwrap();
        client.send_close_notify();
        let bytes = sent_by(&mut client);
        server.receive(&bytes, 1, 100).unwrap();
        assert_eq!((&server.plain[..], server.has_ended), (&b"last"[..], true), "{version:?}");
        for answer in ["first", "second"] {
            server.machine.encrypt(answer.as_bytes(), &mut server.out).unwrap();
            assert_eq!(show(&mut client, &server.take_out()).unwrap(), answer.as_bytes());
        }
        server.machine.end_sending(&mut server.out);
        show(&mut client, &server.take_out()).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
        // Again: there is nothing more to send.
        server.machine.end_sending(&mut server.out);
        assert_eq!(server.out, b"");
    }
}

#[test]
fn answers_are_encrypted_while_a_part_of_a_record_waits_for_the_rest() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version);
        client.writer().write_all(&[7; 100]).unwrap();
        let bytes = sent_by(&mut client);
        for at in 0..bytes.len() - 1 {
            server.receive(&bytes[at..=at], usize::MAX, 1_000).unwrap();
            server.machine.encrypt(b"answer", &mut server.out).unwrap();
            assert_eq!(show(&mut client, &server.take_out()).unwrap(), b"answer", "{version:?} {at}");
        }
        server.receive(&bytes[bytes.len() - 1..], usize::MAX, 1_000).unwrap();
        assert_eq!(server.plain, [7; 100]);
    }
}

#[test]
fn a_client_may_send_after_the_server_has_ended() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version);
        server.machine.encrypt(b"goodbye", &mut server.out).unwrap();
        server.machine.end_sending(&mut server.out);
        assert_eq!(show(&mut client, &server.take_out()).unwrap(), b"goodbye");
        client.writer().write_all(b"still here").unwrap();
        let bytes = sent_by(&mut client);
        server.receive(&bytes, usize::MAX, 100).unwrap();
        assert_eq!(server.plain, b"still here", "{version:?}");
    }
}

#[test]
fn what_is_left_before_the_end_is_read_before_the_end() {
    let (mut server, mut client) = pair(&TLS13);
    client.writer().write_all(&[7; 50]).unwrap();
    client.send_close_notify();
    let bytes = sent_by(&mut client);
    let at = server.machine.receive_at(10, Fill::Within);
    server.wire[at.start..at.start + bytes.len()].copy_from_slice(&bytes);
    let (mut room, mut out) = ([0; 10], Vec::new());
    let received = server.machine.receive(&mut server.wire[..bytes.len()], &mut room, &mut out);
    assert_eq!(received.unwrap(), Received::Bytes(10));
    for left in [40, 30, 20, 10] {
        assert!(!server.machine.is_at_end());
        assert_eq!(server.machine.kept_bytes(), left);
        assert_eq!(server.machine.take_plain(&mut room), 10);
    }
    assert!(server.machine.is_at_end());
}

#[test]
fn nothing_is_left_of_what_is_decrypted_into_a_room_for_a_record() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version);
        let (mut room, mut plain) = (vec![0; TLS_RECORD_BYTES_MAX], 0);
        for part in 0..20 {
            client.writer().write_all(&vec![part; 1_000 * usize::from(part)]).unwrap();
            let mut bytes = &sent_by(&mut client)[..];
            while !bytes.is_empty() {
                let at = server.machine.receive_at(room.len(), Fill::Within);
                let (next, rest) = bytes.split_at(bytes.len().min(at.len()).min(7_000));
                server.wire[at.start..at.start + next.len()].copy_from_slice(next);
                let wire = &mut server.wire[..at.start + next.len()];
                if let Received::Bytes(count) = server.machine.receive(wire, &mut room, &mut server.out).unwrap() {
                    plain += count;
                }
                assert!(!server.machine.has_plain(), "{version:?}");
                bytes = rest;
            }
        }
        assert_eq!(plain, (0..20).sum::<usize>() * 1_000);
    }
}

#[test]
fn one_read_takes_what_fills_the_room_for_the_rest_of_a_frame() {
    let sent: Vec<u8> = (0..200_000).map(|index| (index % 251) as u8).collect();
    for version in VERSIONS {
        for (missing, piece) in [(150_000, 65_000), (16_384, 100_000), (100, 100_000), (90_112, 16_384)] {
            let (mut server, mut client) = pair(version);
            client.set_buffer_limit(None);
            let mut bytes = Vec::new();
            for part in sent.chunks(piece) {
                client.writer().write_all(part).unwrap();
                bytes.extend_from_slice(&sent_by(&mut client));
            }
            let mut room = vec![0; missing];
            let at = server.machine.receive_at(room.len(), Fill::Whole);
            let (next, rest) = bytes.split_at(at.len());
            server.wire[at.clone()].copy_from_slice(next);
            let received = server.machine.receive(&mut server.wire[..at.end], &mut room, &mut server.out).unwrap();
            assert_eq!(received, Received::Bytes(missing), "{version:?}");
            assert!(server.machine.kept_bytes() <= 2 * TLS_FULL_RECORD_BYTES, "{}", server.machine.kept_bytes());
            server.receive(rest, usize::MAX, 1 << 20).unwrap();
            assert!([room, std::mem::take(&mut server.plain)].concat() == sent, "{version:?} {missing}");
        }
    }
}

#[test]
fn whole_records_end_with_the_last_that_has_come() {
    for version in VERSIONS {
        let (mut server, mut client) = pair(version);
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for length in [1, 300, 2_000] {
            client.writer().write_all(&vec![7; length]).unwrap();
            bytes.extend_from_slice(&sent_by(&mut client));
            ends.push(bytes.len());
        }
        let last_end = |count: usize| ends.iter().copied().filter(|end| *end <= count).max().unwrap();
        for count in 0..=bytes.len() {
            assert_eq!(server.machine.whole_records(&bytes[..count]), last_end(count), "{count}");
        }
        for held in [3, ends[1] - 1] {
            let (mut server, mut client) = pair(version);
            client.writer().write_all(&[7; 1]).unwrap();
            let first = sent_by(&mut client);
            server.receive(&first[..held], usize::MAX, 100).unwrap();
            assert!(server.machine.holds_part_of_record());
            assert_eq!(server.machine.whole_records(&first[held..first.len() - 1]), 0);
            assert_eq!(server.machine.whole_records(&first[held..]), first.len() - held);
        }
        server.receive(&bytes, usize::MAX, 100).unwrap();
        assert_eq!(server.plain.len(), 2_301);
    }
}

#[test]
fn what_was_decrypted_before_a_wrong_record_is_returned_before_the_error() {
    for version in VERSIONS {
        for room in [3, 100, 1 << 15] {
            let (mut server, mut client) = pair(version);
            client.writer().write_all(b"the first").unwrap();
            let mut bytes = sent_by(&mut client);
            bytes.extend_from_slice(&record(23, V, &[7; 40]));
            assert!(server.receive(&bytes, usize::MAX, room).is_err(), "{version:?} {room}");
            assert_eq!(server.plain, b"the first", "{version:?} {room}");
            assert!(show(&mut client, &server.take_out()).is_err(), "the client gets an alert");
            assert!(server.receive(b"\x17\x03\x03\x00\x01x", usize::MAX, room).is_err());
        }
    }
}

#[test]
fn sessions_are_resumed() {
    let issued = Issued::self_signed("localhost");
    let acceptor = acceptor(&issued, None);
    for version in VERSIONS {
        let config = self::client(&issued, None, version);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let (mut server, mut client) = (Server::new(acceptor.config()), connect(&config));
            shake(&mut server, &mut client, usize::MAX);
            assert_eq!(client.handshake_kind(), Some(kind), "{version:?}");
            client.writer().write_all(b"hello").unwrap();
            server.receive(&sent_by(&mut client), usize::MAX, 100).unwrap();
            assert_eq!(server.plain, b"hello", "{version:?} {kind:?}");
        }
    }
}

#[test]
fn the_first_dns_name_says_who_a_client_is() {
    let (issued, authority) = (Issued::self_signed("localhost"), Authority::new("clients"));
    let acceptor = acceptor(&issued, Some((&authority, &[])));
    for version in VERSIONS {
        for (names, name) in [
            (&["api.example.org", "other.example.org"][..], Some("api.example.org")),
            (&["192.0.2.1", "edge"], Some("edge")),
            (&["192.0.2.1"], None),
        ] {
            let own = authority.issue(names, 7, FAR);
            let (mut server, mut client) =
                (Server::new(acceptor.config()), connect(&self::client(&issued, Some(&own), version)));
            shake(&mut server, &mut client, usize::MAX);
            let certificate = server.machine.client_certificate().unwrap();
            assert_eq!(first_dns_name(certificate).as_deref(), name, "{version:?}");
        }
        let (mut server, mut client) = (Server::new(acceptor.config()), connect(&self::client(&issued, None, version)));
        shake(&mut server, &mut client, usize::MAX);
        assert!(server.machine.client_certificate().is_none(), "a client may show none");
    }
}

/// A handshake message may be longer than a record.
#[test]
fn a_long_certificate_of_a_client_is_received_in_a_few_reads() {
    let (issued, authority) = (Issued::self_signed("localhost"), Authority::new("clients"));
    let acceptor = acceptor(&issued, Some((&authority, &[])));
    let names: Vec<String> = (0..900).map(|number| format!("{number}.clients.example.org")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let own = authority.issue(&names, 7, FAR);
    assert!((22_000..TLS_HELD_BYTES_MAX - 2_000).contains(&own.der.len()), "{}", own.der.len());
    for version in VERSIONS {
        let (mut server, mut client) =
            (Server::new(acceptor.config()), connect(&self::client(&issued, Some(&own), version)));
        shake(&mut server, &mut client, usize::MAX);
        assert!(server.machine.client_certificate().is_some() && server.reads < 10, "{version:?}: {}", server.reads);
        assert_eq!(server.machine.kept_bytes(), 0);
    }
}

#[test]
fn clients_that_are_not_trusted_are_refused_and_told() {
    let (issued, authority) = (Issued::self_signed("localhost"), Authority::new("clients"));
    let acceptor = acceptor(&issued, Some((&authority, &[7])));
    let expired = authority.issue(&["api"], 1, (2020, 1, 1));
    let revoked = authority.issue(&["api"], 7, FAR);
    let untrusted = Authority::new("others").issue(&["api"], 1, FAR);
    for version in VERSIONS {
        for (own, alert, hint) in [
            (&expired, AlertDescription::CertificateExpired, "expired"),
            (&revoked, AlertDescription::CertificateRevoked, "tls.client_crl_file"),
            (&untrusted, AlertDescription::UnknownCA, "tls.client_ca_file"),
        ] {
            let (mut server, mut client) =
                (Server::new(acceptor.config()), connect(&self::client(&issued, Some(own), version)));
            let mut failed = None;
            for _ in 0..3 {
                let bytes = sent_by(&mut client);
                failed = failed.or(server.receive(&bytes, usize::MAX, 100).err());
                let shown = show(&mut client, &server.take_out());
                if let Some(error) = &failed {
                    assert_eq!(shown, Err(Error::AlertReceived(alert)), "{version:?}");
                    assert!(explain(error).contains(hint), "{error}");
                }
                if failed.is_some() {
                    break;
                }
            }
            assert!(failed.is_some(), "{version:?} {hint}");
            // Nothing works after that, and nothing panics.
            assert!(server.receive(b"\x17\x03\x03\x00\x01x", 1, 100).is_err());
            server.machine.encrypt(b"answer", &mut server.out).unwrap();
            server.machine.end_sending(&mut server.out);
            assert_eq!(server.out, b"");
        }
    }
}

#[test]
fn a_client_that_does_not_trust_the_server_is_explained() {
    let (issued, other) = (Issued::self_signed("localhost"), Issued::self_signed("other"));
    let acceptor = acceptor(&issued, None);
    for version in VERSIONS {
        let (mut server, mut client) = (Server::new(acceptor.config()), connect(&self::client(&other, None, version)));
        let bytes = sent_by(&mut client);
        server.receive(&bytes, usize::MAX, 100).unwrap();
        assert!(show(&mut client, &server.take_out()).is_err());
        let bytes = sent_by(&mut client);
        let error = server.receive(&bytes, usize::MAX, 100).unwrap_err();
        assert!(explain(&error).contains("does not trust the certificate in tls.cert_file"), "{error}");
    }
}

/// A record of this type and version.
fn record(kind: u8, version: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&[kind, version[0], version[1]], &(payload.len() as u16).to_be_bytes()[..], payload].concat()
}

/// The legacy version of records.
const V: [u8; 2] = [3, 3];

/// A handshake message of this kind, in a record.
fn handshake(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    record(22, V, &[&[kind], length, payload].concat())
}

/// A ClientHello with these extensions.
fn extended(extensions: &[u8]) -> Vec<u8> {
    let random = [7; 32];
    let head = [&V[..], &random, &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    handshake(1, &[&head, &(extensions.len() as u16).to_be_bytes()[..], extensions].concat())
}

/// What is not a handshake, mostly: a name, and the bytes.
fn bad_inputs(hello: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    [bad_records(hello), bad_messages(hello), bad_hellos(hello)].concat()
}

fn bad_records(hello: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("only the first byte is of TLS", b"\x16GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an empty handshake record", record(22, V, b"")),
        ("many empty handshake records", record(22, V, b"").repeat(100)),
        ("a record of SSL 2", vec![22, 2, 0, 0, 4, 1, 0, 0, 0]),
        ("a record of version 0.0", record(22, [0, 0], &hello[5..])),
        ("a record of version 255.255", record(22, [255, 255], &hello[5..])),
        ("a length of 65535", vec![22, 3, 1, 255, 255, 1, 2, 3, 4]),
        ("a length of 16641 and its bytes", record(22, V, &[1; 16_641])),
        ("a length of 18433 and its bytes", record(22, V, &[1; 18_433])),
        ("application data first", record(23, V, b"hello")),
        ("an alert first", record(21, V, &[2, 40])),
        ("a warning first", record(21, V, &[1, 0])),
        ("many warnings", record(21, V, &[1, 90]).repeat(100)),
        ("an alert of one byte", record(21, V, &[2])),
        ("an alert of an unknown level", record(21, V, &[9, 40])),
        ("change cipher spec first", record(20, V, &[1])),
        ("many change cipher specs", record(20, V, &[1]).repeat(100)),
        ("change cipher spec of another value", record(20, V, &[7])),
        ("a heartbeat", record(24, V, &[1, 255, 255])),
        ("an unknown type of record", record(99, V, b"hello")),
    ]
}

fn bad_messages(hello: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ServerHello", handshake(2, &hello[9..])),
        ("Finished", handshake(20, &[0; 12])),
        ("HelloRequest", handshake(0, b"")),
        ("Certificate", handshake(11, &[0, 0, 0])),
        ("ClientKeyExchange", handshake(16, &[0; 66])),
        ("KeyUpdate", handshake(24, &[1])),
        ("an unknown handshake message", handshake(200, b"hello")),
        ("an empty ClientHello", handshake(1, b"")),
        ("a ClientHello of zeroes", handshake(1, &[0; 200])),
        ("a ClientHello of 255", handshake(1, &[255; 200])),
        ("a ClientHello without extensions", extended(b"")),
        ("an extension that is cut off", extended(&[0, 10, 255, 255, 1])),
        ("the same extension twice", extended(&[0, 23, 0, 0, 0, 23, 0, 0])),
        ("an empty list of groups", extended(&[0, 10, 0, 2, 0, 0])),
        ("an empty key share", extended(&[0, 51, 0, 2, 0, 0, 0, 43, 0, 3, 2, 3, 4])),
        ("only version 1.1", extended(&[0, 43, 0, 3, 2, 3, 2])),
        ("a server name with a zero", extended(&[0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', 0, b'b'])),
        ("a handshake message of 16 MiB", record(22, V, &[1, 255, 255, 255, 3, 3])),
        (
            "a handshake message of 16 MiB, and much of it",
            record(22, V, &[&[1, 255, 255, 255][..], &[0; 16_000]].concat()).repeat(8),
        ),
    ]
}

/// Those that begin as a real one, or nearly.
fn bad_hellos(hello: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, byte: u8| {
        let mut bytes = hello.to_vec();
        bytes[at] = byte;
        bytes
    };
    let mut inputs = vec![
        ("a ClientHello that is longer than said", with(8, 1)),
        ("a ClientHello that is shorter than said", with(7, 255)),
        ("ClientHello twice", hello.repeat(2)),
        ("ClientHello and plain application data", [hello, &record(23, V, &[7; 100])].concat()),
        ("ClientHello and a plain Finished", [hello, &handshake(20, &[0; 32])].concat()),
        ("ClientHello between which is another record", {
            let (one, two) = hello[5..].split_at(20);
            [record(22, V, one), record(21, V, &[1, 0]), record(22, V, two)].concat()
        }),
        ("a ClientHello in records of one byte, then a wrong one", {
            let mut bytes: Vec<u8> = hello[5..].iter().flat_map(|byte| record(22, V, &[*byte])).collect();
            bytes.extend_from_slice(&record(99, V, b"x"));
            bytes
        }),
    ];
    let mut random = Random::seeded(3);
    inputs.extend((0..20).map(|_| {
        let mut bytes = hello.to_vec();
        for _ in 0..4 {
            let at = random.next_u64() as usize % bytes.len();
            bytes[at] = random.next_u64() as u8;
        }
        ("a ClientHello with random bytes", bytes)
    }));
    inputs
}

/// Fails where `bytes` are not whole records.
pub(super) fn assert_records(mut bytes: &[u8]) {
    while let [_, 3, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(*high) << 8 | usize::from(*low)..];
    }
    assert_eq!(bytes, b"");
}

#[test]
fn bad_input_never_panics_and_ends_alike_in_any_pieces() {
    let issued = Issued::self_signed("localhost");
    let acceptor = acceptor(&issued, None);
    for version in VERSIONS {
        let hello = sent_by(&mut connect(&self::client(&issued, None, version)));
        let inputs = bad_inputs(&hello);
        assert!(inputs.len() >= 60);
        for (name, bytes) in inputs {
            let outcome = |pieces: &[&[u8]], piece: usize| {
                let mut server = Server::new(acceptor.config());
                let failed = pieces.iter().try_for_each(|part| server.receive(part, piece, 100)).err();
                assert_eq!(server.plain, b"", "{name}");
                if let Some(error) = &failed {
                    let _ = explain(error);
                    assert_records(&server.out);
                }
                failed.map(|error| error.to_string())
            };
            let whole = outcome(&[&bytes], usize::MAX);
            assert_eq!(outcome(&[&bytes], 1), whole, "{name}, byte by byte");
            let step = (bytes.len() / 200).max(1);
            for at in (0..bytes.len()).step_by(step) {
                let (one, two) = bytes.split_at(at);
                assert_eq!(outcome(&[one, two], usize::MAX), whole, "{name}, split at {at}");
            }
        }
    }
}

#[test]
fn records_that_were_changed_on_the_way_end_the_connection() {
    for version in VERSIONS {
        let (_, mut client) = pair(version);
        client.writer().write_all(b"hello").unwrap();
        let length = sent_by(&mut client).len();
        for at in 0..length {
            let (mut server, mut client) = pair(version);
            client.writer().write_all(b"hello").unwrap();
            let mut bytes = sent_by(&mut client);
            bytes[at] ^= 0x40;
            let received = server.receive(&bytes, usize::MAX, 100);
            // The version has no meaning, and a longer length only waits for more.
            assert!(received.is_err() || (1..5).contains(&at), "{at}");
            assert!(server.plain.is_empty() || at == 2, "{at}");
            if received.is_err() {
                assert!(show(&mut client, &server.take_out()).is_err(), "the client is told");
            }
        }
    }
}
