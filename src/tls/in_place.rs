//! Cipher suites of TLS 1.3 whose plaintext is taken from where it was decrypted.
//!
//! rustls decrypts a record where it was received, copies the plaintext into a vector of its own, and lends that; its unbuffered API is
//! prepared to lend the plaintext itself, but does not do it yet. Here its decrypters are wrapped: rustls is shown the first byte of the
//! plaintext only, and the thread notes where the whole of it is. rustls lends that byte where it accepts the record: it is the receipt
//! for which the note is taken.
//!
//! ```text
//!  wire of the caller: │ header │ plaintext ............ │ tag │      decrypted in place, by the decrypter of rustls
//!                               └┬┘                    │
//!                       first byte ─▶ rustls: is application data expected now? ─▶ lent: the receipt ─┐
//!                               └── note: where it is ────────────────────────────────────────────────┴▶ place
//! ```
//!
//! All that makes TLS secure stays in rustls: keys, nonces, tags, padding, and which record is allowed when. A record that rustls does not
//! accept has no receipt, and its plaintext is not delivered.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
use rustls::{CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite};

/// Where the plaintext of a record is: its address, and its bytes.
type Note = (usize, usize);

thread_local! {
    /// Of the record that this thread decrypted last, until it is taken or forgotten.
    static NOTE: Cell<Option<Note>> = const { Cell::new(None) };
}

/// The cryptography of the server's connections: that of [`super::provider`]. Whoever uses it calls [`forget`] before bytes are
/// decrypted, and [`place`] for each payload that rustls lends.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let provider = CryptoProvider::clone(&super::provider());
        let cipher_suites = provider.cipher_suites.iter().copied().map(in_place).collect();
        Arc::new(CryptoProvider { cipher_suites, ..provider })
    });
    PROVIDER.clone()
}

/// rustls keeps references to suites for as long as the process runs. Of version 1.2, which is not worth it, they are as they were.
fn in_place(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: _ }) = suite else {
        return suite;
    };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = *common;
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: *hkdf_provider,
        aead_alg: Box::leak(Box::new(Algorithm(*aead_alg))),
        quic: None,
    })))
}

/// No record is noted: what is noted from now on comes from what is decrypted from now on.
pub(super) fn forget() {
    NOTE.set(None);
}

/// Where the plaintext of the record is for which rustls has lent `receipt`, in bytes that begin at the address `wire`. `None`: the
/// receipt is the plaintext itself.
pub(super) fn place(receipt: &[u8], wire: usize) -> Option<Place> {
    let &[first] = receipt else { return None };
    let (address, bytes) = NOTE.take()?;
    Some(Place { start: address.wrapping_sub(wire), bytes, first })
}

/// Where the plaintext of a record is.
pub(super) struct Place {
    start: usize,
    bytes: usize,
    first: u8,
}

impl Place {
    /// The plaintext, in the bytes that were decrypted.
    ///
    /// # Errors
    /// It is not there: these are other bytes.
    pub(super) fn payload<'a>(&self, wire: &'a [u8]) -> Result<&'a [u8], Error> {
        let payload = wire.get(self.start..).and_then(|rest| rest.get(..self.bytes));
        payload
            .filter(|payload| payload.first() == Some(&self.first))
            .ok_or_else(|| Error::General("a decrypted record is not where it was".to_owned()))
    }
}

struct Algorithm(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Algorithm {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Decrypter(self.0.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Decrypter(Box<dyn MessageDecrypter>);

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let mut plain = self.0.decrypt(message, sequence)?;
        let bytes = plain.payload.len();
        // An empty one stays what it is: rustls checks that a payload lies in the buffer. And a second one, before the first was taken, is
        // copied by rustls as it always was.
        if plain.typ == ContentType::ApplicationData
            && NOTE.get().is_none()
            && let Some(receipt @ [_]) = plain.payload.get(..1)
        {
            NOTE.set(Some((plain.payload.as_ptr().addr(), bytes)));
            plain.payload = receipt;
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
    use rustls::{CipherSuite, ProtocolVersion};

    use super::*;

    const HEADER_BYTES: usize = 5;

    /// What both directions of a connection have that uses AES-256-GCM.
    fn ciphers() -> (Box<dyn MessageEncrypter>, Box<dyn MessageDecrypter>) {
        let provider = provider();
        let suites = provider.cipher_suites.iter().filter_map(SupportedCipherSuite::tls13);
        let suite = suites.into_iter().find(|suite| suite.common.suite == CipherSuite::TLS13_AES_256_GCM_SHA384);
        let algorithm = suite.unwrap().aead_alg;
        let (key, iv) = (|| AeadKey::from([7; 32]), || Iv::new([8; 12]));
        (algorithm.encrypter(key(), iv()), algorithm.decrypter(key(), iv()))
    }

    fn sealed(encrypter: &mut dyn MessageEncrypter, typ: ContentType, content: &[u8], sequence: u64) -> Vec<u8> {
        let version = ProtocolVersion::TLSv1_2;
        let message = OutboundPlainMessage { typ, version, payload: OutboundChunks::Single(content) };
        encrypter.encrypt(message, sequence).unwrap().encode()
    }

    /// What rustls is shown.
    fn opened(decrypter: &mut dyn MessageDecrypter, record: &mut [u8], sequence: u64) -> Vec<u8> {
        let (typ, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        let message = InboundOpaqueMessage::new(typ, version, &mut record[HEADER_BYTES..]);
        decrypter.decrypt(message, sequence).unwrap().payload.to_vec()
    }

    #[test]
    fn the_suites_are_those_of_rustls_in_their_order() {
        let names = |provider: &CryptoProvider| {
            provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect::<Vec<_>>()
        };
        assert_eq!(names(&provider()), names(&super::super::provider()));
        assert!(Arc::ptr_eq(&provider(), &provider()), "made once");
    }

    #[test]
    fn rustls_is_shown_one_byte_and_the_rest_stays_where_it_was_decrypted() {
        let (mut encrypter, mut decrypter) = ciphers();
        let mut record = sealed(&mut *encrypter, ContentType::ApplicationData, b"hello", 0);
        forget();
        let receipt = opened(&mut *decrypter, &mut record, 0);
        assert_eq!(receipt, b"h");
        let found = place(&receipt, record.as_ptr().addr()).unwrap();
        assert_eq!(found.payload(&record).unwrap(), b"hello");
        for other in [&b""[..], &record[..9], &[0; 100], &record[1..]] {
            assert!(found.payload(other).is_err(), "{other:?}");
        }
        assert!(place(&receipt, record.as_ptr().addr()).is_none(), "it was taken");
    }

    #[test]
    fn a_second_record_before_the_first_was_taken_is_shown_as_a_whole() {
        let (mut encrypter, mut decrypter) = ciphers();
        let mut records = [b"first", b"later"]
            .iter()
            .zip(0..)
            .map(|(content, sequence)| sealed(&mut *encrypter, ContentType::ApplicationData, *content, sequence))
            .collect::<Vec<_>>();
        forget();
        let first = opened(&mut *decrypter, &mut records[0], 0);
        assert_eq!(opened(&mut *decrypter, &mut records[1], 1), b"later");
        let found = place(&first, records[0].as_ptr().addr()).unwrap();
        assert_eq!(found.payload(&records[0]).unwrap(), b"first");
        assert!(place(b"later", records[1].as_ptr().addr()).is_none());
    }

    #[test]
    fn other_records_and_empty_ones_are_shown_as_they_are() {
        let (mut encrypter, mut decrypter) = ciphers();
        forget();
        for (sequence, (kind, content)) in
            [(ContentType::Handshake, &b"hello"[..]), (ContentType::Alert, b"no"), (ContentType::ApplicationData, b"")]
                .into_iter()
                .enumerate()
        {
            let mut record = sealed(&mut *encrypter, kind, content, sequence as u64);
            assert_eq!(opened(&mut *decrypter, &mut record, sequence as u64), content);
            assert!(place(b"h", record.as_ptr().addr()).is_none(), "{kind:?}");
        }
    }
}
