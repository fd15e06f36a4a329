//! Records that are sealed with the keys of the connection: what rustls itself never sends, and all sizes of what it does. The server with
//! the cipher suites of [`in_place`] and one with those of rustls must do the same.

use std::sync::Mutex;

use ring::{aead, hkdf};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, ClientConnection, KeyLog, RootCertStore};

use super::tests::{Server, assert_records, shake};
use super::*;
use crate::random::Random;
use crate::tls::testing::{Authority, Issued, acceptor, connect, sent_by, show};

// Types of records (RFC 8446, appendix B.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// The secrets that a client has agreed on.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push((label.to_owned(), secret.to_owned()));
    }
}

impl Secrets {
    fn get(&self, label: &str) -> Vec<u8> {
        let secrets = self.0.lock().unwrap();
        secrets.iter().find(|(name, _)| name == label).map(|(_, secret)| secret.clone()).unwrap()
    }
}

/// Seals records as RFC 8446, section 5.2 has it.
struct Sealer {
    suite: CipherSuite,
    key: aead::LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
    /// The secret after the next KeyUpdate.
    next: Vec<u8>,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Sealer {
    fn new(suite: CipherSuite, secret: &[u8]) -> Self {
        let (algorithm, hash) = match suite {
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            _ => (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256),
        };
        let (of, hash_bytes) = (hkdf::Prk::new_less_safe(hash, secret), secret.len());
        // HKDF-Expand-Label (section 7.1).
        let expand = |label: &[u8], length: usize| {
            let label = [b"tls13 ", label].concat();
            let info = [&[0, length as u8, label.len() as u8][..], &label, &[0]].concat();
            let (info, mut bytes) = ([&info[..]], vec![0; length]);
            of.expand(&info, Length(length)).unwrap().fill(&mut bytes).unwrap();
            bytes
        };
        let key = aead::UnboundKey::new(algorithm, &expand(b"key", algorithm.key_len())).unwrap();
        let (iv, next) = (expand(b"iv", aead::NONCE_LEN), expand(b"traffic upd", hash_bytes));
        Self { suite, key: aead::LessSafeKey::new(key), iv, sequence: 0, next }
    }

    /// After a KeyUpdate.
    fn renew(&mut self) {
        *self = Self::new(self.suite, &self.next);
    }

    /// A record of `content`, of this type, before `padding` zeroes.
    fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let header = [&[DATA, 3, 3][..], &((inner.len() + aead::MAX_TAG_LEN) as u16).to_be_bytes()].concat();
        let mut nonce: [u8; aead::NONCE_LEN] = self.iv[..].try_into().unwrap();
        for (nonce, byte) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *nonce ^= byte;
        }
        self.sequence += 1;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, aead::Aad::from(&header), &mut inner).unwrap();
        [header, inner].concat()
    }
}

/// The servers that are compared, and a client for them.
struct Pair {
    issued: Issued,
    in_place: Arc<ServerConfig>,
    of_rustls: Arc<ServerConfig>,
}

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

impl Pair {
    fn new() -> Self {
        let issued = Issued::self_signed("localhost");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let of_rustls = ServerConfig::builder_with_provider(crate::tls::provider()).with_protocol_versions(&[&TLS13]);
        let of_rustls = of_rustls.unwrap().with_no_client_auth();
        let of_rustls = Arc::new(of_rustls.with_single_cert(vec![issued.der.clone().into()], key).unwrap());
        let in_place = acceptor(&issued, None).config();
        assert!(Arc::ptr_eq(in_place.crypto_provider(), &in_place::provider()));
        Self { in_place, of_rustls, issued }
    }

    /// A client of this suite, and where its secrets will be.
    fn client(&self, suite: CipherSuite) -> (ClientConnection, Arc<Secrets>) {
        let mut provider = CryptoProvider::clone(&crate::tls::provider());
        provider.cipher_suites.retain(|known| known.suite() == suite);
        let mut roots = RootCertStore::empty();
        roots.add(self.issued.der.clone().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[&TLS13]);
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        let secrets = Arc::new(Secrets::default());
        config.key_log = secrets.clone();
        (connect(&Arc::new(config)), secrets)
    }

    /// What both servers make of the records that `seal` returns, which a client sends after its handshake, in pieces and through rooms.
    fn outcome(&self, suite: CipherSuite, mut seal: impl FnMut(&mut Sealer) -> Vec<u8>) -> Outcome {
        let mut first = None;
        for config in [&self.in_place, &self.of_rustls] {
            for (piece, room) in [(usize::MAX, 1 << 20), (usize::MAX, 3), (1, 1 << 15), (1_460, 20_000)] {
                let (mut client, secrets) = self.client(suite);
                let mut server = Server::new(config.clone());
                shake(&mut server, &mut client, usize::MAX);
                let bytes = seal(&mut Sealer::new(suite, &secrets.get("CLIENT_TRAFFIC_SECRET_0")));
                let outcome = outcome_of(&mut server, &bytes, piece, room);
                let expected = first.get_or_insert_with(|| outcome.clone());
                assert!(
                    *expected == outcome,
                    "{suite:?}, pieces of {piece}, room {room}: {expected:?}, then {outcome:?}"
                );
            }
        }
        first.unwrap()
    }
}

/// What a server makes of what it receives.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    plain: Vec<u8>,
    error: Option<String>,
    has_ended: bool,
    /// Bytes to send.
    out: usize,
}

impl Outcome {
    /// All of it was read, and nothing is to be sent.
    fn read(plain: &[u8]) -> Self {
        Self { plain: plain.to_vec(), error: None, has_ended: false, out: 0 }
    }
}

fn outcome_of(server: &mut Server, bytes: &[u8], piece: usize, room: usize) -> Outcome {
    let error = server.receive(bytes, piece, room).err().map(|error| error.to_string());
    let out = server.take_out();
    assert_records(&out);
    Outcome { plain: std::mem::take(&mut server.plain), error, has_ended: server.has_ended, out: out.len() }
}

#[test]
fn records_of_all_sizes_with_and_without_padding_are_read() {
    let (pair, mut random) = (Pair::new(), Random::seeded(11));
    for suite in SUITES {
        let sizes: Vec<(usize, usize)> = [0, 1, 2, 15, 16, 17, 255, 1_000, 16_383, 16_384]
            .into_iter()
            .flat_map(|bytes| [(bytes, 0), (bytes, 1), (bytes, random.next_u64() as usize % 300)])
            .filter(|(bytes, padding)| bytes + padding <= 16_384)
            .collect();
        let sent: Vec<Vec<u8>> =
            sizes.iter().map(|(bytes, _)| (0..*bytes).map(|_| random.next_u64() as u8).collect()).collect();
        let outcome = pair.outcome(suite, |sealer| {
            sizes.iter().zip(&sent).flat_map(|((_, padding), sent)| sealer.seal(DATA, sent, *padding)).collect()
        });
        assert!(outcome == Outcome::read(&sent.concat()), "{suite:?}");
    }
}

// Whole messages.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

#[test]
fn keys_are_renewed_between_records() {
    let pair = Pair::new();
    for suite in SUITES {
        for message in [KEY_UPDATE, KEY_UPDATE_REQUESTED] {
            let outcome = pair.outcome(suite, |sealer| {
                let mut bytes = Vec::new();
                for _ in 0..40 {
                    bytes.extend(sealer.seal(DATA, b"old keys, ", 0));
                    bytes.extend(sealer.seal(HANDSHAKE, &message, 3));
                    sealer.renew();
                    bytes.extend(sealer.seal(DATA, b"new keys. ", 0));
                }
                bytes
            });
            assert_eq!(outcome, Outcome::read(&b"old keys, new keys. ".repeat(40)), "{suite:?}");
        }
    }
}

#[test]
fn keys_that_are_renewed_again_and_again_end_the_connection() {
    let outcome = Pair::new().outcome(SUITES[0], |sealer| {
        let renewed = |_| {
            let bytes = sealer.seal(HANDSHAKE, &KEY_UPDATE, 0);
            sealer.renew();
            bytes
        };
        (0..40).flat_map(renewed).collect()
    });
    let error = outcome.error.unwrap();
    assert!(!error.contains("decrypt"), "{error}");
}

#[test]
fn a_record_that_is_not_allowed_ends_the_connection_after_those_before_it() {
    let pair = Pair::new();
    let many_empty = [(DATA, &b""[..]); 40];
    type Records<'a> = &'a [(u8, &'a [u8])];
    let cases: [(&str, Records<'_>); 17] = [
        ("nothing but padding", &[(0, b"")]),
        ("nothing but padding, and much of it", &[(0, &[0; 16_384])]),
        ("more plaintext than is allowed", &[(DATA, &[7; 16_385])]),
        ("an unknown type", &[(99, b"hello")]),
        ("change cipher spec", &[(CHANGE_CIPHER_SPEC, &[1])]),
        ("a fatal alert", &[(ALERT, &[2, 80])]),
        ("an alert of one byte", &[(ALERT, &[1])]),
        ("an empty alert", &[(ALERT, b"")]),
        ("many empty records", &many_empty),
        ("an empty record within a message", &[(HANDSHAKE, &KEY_UPDATE[..3]), (HANDSHAKE, b""), (DATA, b"")]),
        ("a second ClientHello", &[(HANDSHAKE, &[1, 0, 0, 0])]),
        ("a second Finished", &[(HANDSHAKE, &[20, 0, 0, 0])]),
        ("an unknown handshake message", &[(HANDSHAKE, &[200, 0, 0, 0])]),
        ("KeyUpdate of an unknown kind", &[(HANDSHAKE, &[24, 0, 0, 1, 7])]),
        ("data within a handshake message", &[(HANDSHAKE, &KEY_UPDATE[..3]), (DATA, b"not allowed here")]),
        ("data behind a KeyUpdate with the keys before it", &[(HANDSHAKE, &KEY_UPDATE), (DATA, b"old keys")]),
        ("a KeyUpdate that does not end its record", &[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])]),
    ];
    for (index, (name, records)) in cases.into_iter().enumerate() {
        let outcome = pair.outcome(SUITES[index % SUITES.len()], |sealer| {
            let mut bytes = sealer.seal(DATA, b"before", 0);
            bytes.extend(records.iter().flat_map(|(kind, content)| sealer.seal(*kind, content, 0)));
            bytes
        });
        assert_eq!((&outcome.plain[..], outcome.has_ended), (&b"before"[..], false), "{name}: {:?}", outcome.error);
        // What is wrong is found behind the decryption: the keys are the right ones.
        let error = outcome.error.unwrap();
        assert_eq!(error.contains("decrypt"), name.ends_with("the keys before it"), "{name}: {error}");
    }
}

#[test]
fn nothing_is_read_after_the_end() {
    for suite in SUITES {
        let outcome = Pair::new().outcome(suite, |sealer| {
            [(DATA, &b"before"[..]), (ALERT, &CLOSE_NOTIFY), (DATA, b"too late")]
                .into_iter()
                .flat_map(|(kind, content)| sealer.seal(kind, content, 0))
                .collect()
        });
        assert_eq!(outcome, Outcome { has_ended: true, ..Outcome::read(b"before") }, "{suite:?}");
    }
}

#[test]
fn a_changed_record_is_not_read_and_those_before_it_are() {
    let (pair, mut random) = (Pair::new(), Random::seeded(12));
    for changed in 0..12 {
        let (place, bit) = (random.next_u64() as usize, 1 << (changed % 8));
        let outcome = pair.outcome(SUITES[changed % SUITES.len()], |sealer| {
            let mut bytes = sealer.seal(DATA, b"before", 0);
            let mut wrong = sealer.seal(DATA, &[7; 900], 20);
            // Not in the header: another length only waits for more.
            let length = wrong.len();
            wrong[5 + place % (length - 5)] ^= bit;
            bytes.extend(wrong);
            bytes.extend(sealer.seal(DATA, b"after", 0));
            bytes
        });
        assert_eq!((&outcome.plain[..], outcome.error.is_some()), (&b"before"[..], true), "{changed}");
    }
}

/// All connections of a loop use one thread and one wire.
#[test]
fn connections_that_share_a_wire_get_only_what_was_sent_to_them() {
    let pair = Pair::new();
    let connected = |suite| {
        let (mut client, secrets) = pair.client(suite);
        let mut server = Server::new(pair.in_place.clone());
        shake(&mut server, &mut client, usize::MAX);
        (server, Sealer::new(suite, &secrets.get("CLIENT_TRAFFIC_SECRET_0")))
    };
    let mut connections: Vec<_> = SUITES.into_iter().map(connected).collect();
    let mut wire = Vec::new();
    let mut receive = |(server, sealer): &mut (Server, Sealer), content: &[u8]| {
        let bytes = sealer.seal(DATA, content, 0);
        std::mem::swap(&mut server.wire, &mut wire);
        server.wire.resize(crate::limits::TLS_WIRE_BYTES, 0);
        let outcome = outcome_of(server, &bytes, usize::MAX, 100);
        std::mem::swap(&mut server.wire, &mut wire);
        outcome
    };
    for length in (0..50).rev() {
        for (connection, letter) in connections.iter_mut().zip(b"abc") {
            let sent = vec![*letter; length];
            assert_eq!(receive(connection, &sent), Outcome::read(&sent));
        }
    }
    // A record that was decrypted, and rejected: it would end within a handshake message.
    let (server, sealer) = &mut connections[0];
    server.receive(&sealer.seal(HANDSHAKE, &KEY_UPDATE[..3], 0), usize::MAX, 100).unwrap();
    let rejected = receive(&mut connections[0], b"bbb");
    let error = rejected.error.unwrap();
    assert!(rejected.plain.is_empty() && !error.contains("decrypt"), "{error}");
    assert_eq!(receive(&mut connections[1], b"b"), Outcome::read(b"b"));
}

/// A client has not shown yet that it takes part in this handshake: nothing of it may be delivered, with whatever keys.
#[test]
fn data_before_the_end_of_the_handshake_is_never_delivered() {
    let pair = Pair::new();
    let asks_for_certificate = acceptor(&pair.issued, Some((&Authority::new("clients"), &[]))).config();
    let no_certificate = [11, 0, 0, 4, 0, 0, 0, 0];
    for suite in SUITES {
        for config in [&pair.in_place, &pair.of_rustls, &asks_for_certificate] {
            for case in 0..4 {
                let (mut client, secrets) = pair.client(suite);
                let mut server = Server::new(config.clone());
                server.receive(&sent_by(&mut client), usize::MAX, 100).unwrap();
                show(&mut client, &server.take_out()).unwrap();
                let mut of_handshake = Sealer::new(suite, &secrets.get("CLIENT_HANDSHAKE_TRAFFIC_SECRET"));
                let mut of_data = Sealer::new(suite, &secrets.get("CLIENT_TRAFFIC_SECRET_0"));
                let bytes = match case {
                    0 => of_handshake.seal(DATA, b"too early", 0),
                    1 => of_data.seal(DATA, b"too early", 0),
                    2 => {
                        let bytes = secrets.get("CLIENT_TRAFFIC_SECRET_0").len();
                        let wrong_finished = [&[20, 0, 0, bytes as u8][..], &vec![7; bytes]].concat();
                        let finished = of_handshake.seal(HANDSHAKE, &wrong_finished, 0);
                        [finished, of_data.seal(DATA, b"too early", 0)].concat()
                    }
                    // Expected by the server that asks for one; Finished is not there yet.
                    _ => {
                        let certificate = of_handshake.seal(HANDSHAKE, &no_certificate, 0);
                        [certificate, of_handshake.seal(DATA, b"too early", 0)].concat()
                    }
                };
                let outcome = outcome_of(&mut server, &bytes, usize::MAX, 1 << 15);
                assert_eq!((&outcome.plain[..], outcome.error.is_some()), (&b""[..], true), "{suite:?}, {case}");
            }
        }
    }
}
