//! The error that a server, or a pooler in front of it, sends last before it closes the connection.
//!
//! The `postgres` crate reports such a connection as closed and drops the message with the reason. So the messages are
//! looked at as they are read (PostgreSQL manual, "Message Formats"): a type (one byte), a length (four bytes, itself
//! counted), and for an ErrorResponse its fields.

use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;

/// Of one connection; a clone is another handle.
#[derive(Debug, Clone, Default)]
pub(super) struct LastError(Arc<Mutex<Reader>>);

/// An error as the server sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
}

/// The messages of a connection while they are read.
#[derive(Debug, Default)]
struct Reader {
    /// Of the message that is read: type and length, as far as they have come.
    head: Vec<u8>,
    /// Bytes of the message that are still to come; its head is whole then.
    left: usize,
    /// The first bytes of an ErrorResponse.
    body: Vec<u8>,
    last: Option<ServerError>,
}

const HEAD_BYTES: usize = 5;
const ERROR_RESPONSE: u8 = b'E';
const READY_FOR_QUERY: u8 = b'Z';

impl LastError {
    /// Bytes that came from the server.
    pub(super) fn read(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(bytes);
    }

    /// Forgets everything: a new connection begins.
    pub(super) fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Reader::default();
    }

    /// The error after which the server was not ready for another statement.
    pub(super) fn take(&self) -> Option<ServerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.take()
    }
}

impl Reader {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at((HEAD_BYTES - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                let [_, length @ ..] = self.head.as_slice() else { return };
                let Ok(length) = length.try_into().map(u32::from_be_bytes) else { return };
                self.body.clear();
                self.left = (length as usize).saturating_sub(size_of::<u32>());
            }
            let (body, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= body.len();
            bytes = rest;
            if self.head.first() == Some(&ERROR_RESPONSE) {
                let room = limits::POSTGRES_ERROR_BYTES_MAX - self.body.len();
                self.body.extend_from_slice(body.get(..room.min(body.len())).unwrap_or_default());
            }
            if self.left == 0 {
                self.message_ended();
            }
        }
    }

    fn message_ended(&mut self) {
        match self.head.first() {
            Some(&ERROR_RESPONSE) => self.last = Some(parse(&self.body)),
            Some(&READY_FOR_QUERY) => self.last = None,
            _ => {}
        }
        self.head.clear();
    }
}

/// The fields of an ErrorResponse: each a letter and a text that ends with a zero.
fn parse(body: &[u8]) -> ServerError {
    let field = |letter: u8| {
        let field = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[letter]));
        String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
    };
    ServerError { code: field(b'C'), message: field(b'M') }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    fn error() -> Vec<u8> {
        message(b'E', b"SFATAL\0C08P01\0Mnot in this mode\0\0")
    }

    #[test]
    fn the_last_error_is_found_however_its_bytes_come() {
        let talk =
            [message(b'R', &[0; 4]), message(b'Z', b"I"), message(b'D', b"E"), message(b'C', b""), error()].concat();
        let expected = Some(ServerError { code: "08P01".into(), message: "not in this mode".into() });
        for size in 1..=talk.len() {
            let last = LastError::default();
            talk.chunks(size).for_each(|bytes| last.read(bytes));
            assert_eq!(last.take(), expected, "{size}");
            assert_eq!(last.take(), None);
        }
    }

    #[test]
    fn an_error_after_which_the_server_goes_on_is_not_why_it_closed() {
        let last = LastError::default();
        last.read(&error());
        last.read(&message(b'Z', b"E"));
        assert_eq!(last.take(), None);
        last.read(&error());
        last.reset();
        assert_eq!(last.take(), None);
    }

    #[test]
    fn what_is_no_message_of_postgresql_is_bounded() {
        let last = LastError::default();
        last.read(&[b'E'; 100_000]);
        last.read(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(last.0.lock().unwrap().body.len() <= limits::POSTGRES_ERROR_BYTES_MAX);
        let last = LastError::default();
        last.read(&message(b'E', b""));
        assert_eq!(last.take(), Some(ServerError { code: String::new(), message: String::new() }));
        last.read(&[b'E', 0, 0, 0, 0, b'Z']);
    }
}
