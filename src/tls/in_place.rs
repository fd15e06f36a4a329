//! Cipher suites of TLS 1.3 whose plaintext is taken from where it was decrypted.
//!
//! rustls decrypts a record where it was received, copies the plaintext into a vector of its own, and lends that; its unbuffered API is
//! prepared to lend the plaintext itself, but does not do it yet. Here its decrypters are wrapped: during a [`capture`] rustls
//! is shown only the first byte of the plaintext, and a variable of the thread notes where all of it is. If rustls accepts the record, it
//! lends that byte, which is the receipt for the place. rustls returns after each record that is not empty, so there is one at a time.
//!
//! ```text
//!  wire of the caller: │ header │ plaintext ............ │ tag │      decrypted in place, by the decrypter of rustls
//!                               └┬┘                    │
//!                       first byte ─▶ rustls: is application data expected now? ─▶ lent: the receipt ─┐
//!                               └── note: where it is ────────────────────────────────────────────────┴▶ Place
//! ```
//!
//! All that makes TLS secure stays in rustls: keys, nonces, tags, padding, and which record is allowed when. For a record that
//! it does not accept, rustls lends nothing, and so nothing is delivered.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
use rustls::{CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite};

/// What this thread's decrypters do with the plaintext of application data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// They show rustls all of it, as those of rustls do.
    Off,
    /// Of the next record that has any, they note where it is.
    Waiting,
    /// The plaintext of a record is there: its address, and its length in bytes. They show all of what follows.
    Noted { address: usize, length: usize },
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Off) };
}

/// The cryptography of the server's connections: that of [`super::provider`], with suites whose plaintext rustls does not copy during a
/// [`capture`].
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let provider = CryptoProvider::clone(&super::provider());
        let cipher_suites = provider.cipher_suites.iter().copied().map(wrapped).collect();
        Arc::new(CryptoProvider { cipher_suites, ..provider })
    });
    PROVIDER.clone()
}

/// Suites of TLS 1.2 are left as they are. What is made here is never freed: rustls keeps references to suites as long as the process runs.
fn wrapped(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: _ }) = suite else {
        return suite;
    };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = *common;
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: *hkdf_provider,
        aead_alg: Box::leak(Box::new(Algorithm(*aead_alg))),
        quic: None, // There is no QUIC here.
    })))
}

/// Until it is dropped, the decrypters of this thread note where the plaintext of one record is.
pub(super) struct Capture(());

/// Begins to note. To be called before rustls decrypts.
pub(super) fn capture() -> Capture {
    MODE.set(Mode::Waiting);
    Capture(())
}

impl Drop for Capture {
    fn drop(&mut self) {
        MODE.set(Mode::Off);
    }
}

impl Capture {
    /// Where the plaintext of the record is for which rustls has lent `receipt`, in bytes that begin at the address `wire`. `None`: the
    /// receipt is the plaintext itself.
    ///
    /// # Errors
    /// The receipt is not that of the record that was noted.
    pub(super) fn place(&self, receipt: &[u8], wire: usize) -> Result<Option<Place>, Error> {
        match (MODE.replace(Mode::Off), receipt) {
            (Mode::Waiting, _) => Ok(None),
            (Mode::Noted { address, length }, &[first]) => {
                Ok(Some(Place { start: address.wrapping_sub(wire), length, first }))
            }
            (Mode::Noted { .. } | Mode::Off, _) => Err(wrong_place()),
        }
    }

    /// To be called when rustls has lent what it lends.
    ///
    /// # Errors
    /// A record was noted, and its receipt did not come.
    pub(super) fn end(self) -> Result<(), Error> {
        match MODE.get() {
            Mode::Noted { .. } => Err(wrong_place()),
            Mode::Off | Mode::Waiting => Ok(()),
        }
    }
}

/// Where the plaintext of a record is.
#[derive(Debug)]
pub(super) struct Place {
    start: usize,
    length: usize,
    first: u8,
}

impl Place {
    /// The plaintext, in the bytes of the records that rustls has read.
    ///
    /// # Errors
    /// It is not there: these are other bytes.
    pub(super) fn payload<'a>(&self, wire: &'a [u8]) -> Result<&'a [u8], Error> {
        let payload = wire.get(self.start..).and_then(|rest| rest.get(..self.length));
        payload.filter(|payload| payload.first() == Some(&self.first)).ok_or_else(wrong_place)
    }
}

/// Not reached as long as rustls returns after each record, and lends what it was shown.
fn wrong_place() -> Error {
    Error::General("a decrypted record is not where it was".to_owned())
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
        // An empty record has no byte to show. rustls only counts such records.
        if plain.typ == ContentType::ApplicationData
            && MODE.get() == Mode::Waiting
            && let Some(receipt @ [_]) = plain.payload.get(..1)
        {
            MODE.set(Mode::Noted { address: plain.payload.as_ptr().addr(), length: plain.payload.len() });
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
        let wire = record.as_ptr().addr();
        let capture = capture();
        assert_eq!(opened(&mut *decrypter, &mut record, 0), b"h");
        let place = capture.place(b"h", wire).unwrap().unwrap();
        assert_eq!(place.payload(&record).unwrap(), b"hello");
        for other in [&b""[..], &record[..9], &[0; 100], &record[1..]] {
            assert!(place.payload(other).is_err(), "{other:?}");
        }
        assert!(capture.place(b"h", wire).is_err(), "once");
        assert!(capture.end().is_ok());
    }

    #[test]
    fn a_record_whose_receipt_does_not_fit_or_does_not_come_is_an_error() {
        let (mut encrypter, mut decrypter) = ciphers();
        for (sequence, receipt) in (0..).zip([Some(&b""[..]), Some(b"he"), Some(b"hello"), None]) {
            let mut record = sealed(&mut *encrypter, ContentType::ApplicationData, b"hello", sequence);
            let capture = capture();
            opened(&mut *decrypter, &mut record, sequence);
            let is_error = match receipt {
                Some(receipt) => capture.place(receipt, record.as_ptr().addr()).is_err(),
                None => capture.end().is_err(),
            };
            assert!(is_error, "{receipt:?}");
        }
    }

    #[test]
    fn what_is_not_noted_is_shown_as_a_whole() {
        let (mut encrypter, mut decrypter) = ciphers();
        let data = ContentType::ApplicationData;
        let mut sequence = 0;
        let mut open = |kind, content: &[u8]| {
            let mut record = sealed(&mut *encrypter, kind, content, sequence);
            sequence += 1;
            opened(&mut *decrypter, &mut record, sequence - 1)
        };
        assert_eq!(open(data, b"no capture"), b"no capture");
        drop(capture());
        assert_eq!(open(data, b"no capture"), b"no capture");
        let capture = capture();
        for (kind, content) in [(ContentType::Handshake, &b"hello"[..]), (ContentType::Alert, b"no"), (data, b"")] {
            assert_eq!(open(kind, content), content);
        }
        assert!(capture.place(b"", 0).unwrap().is_none());
        let capture = self::capture();
        assert_eq!(open(data, b"noted"), b"n");
        assert_eq!(open(data, b"a second one"), b"a second one");
        drop(capture);
        assert_eq!(open(data, b"no capture"), b"no capture");
    }
}
