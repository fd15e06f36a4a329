//! A keep-alive connection that posts JSON: the next request goes out once the last one is answered.

use super::sample::SampleBatch;
use super::talk::{Answered, Message, Talk, TalkError};
use crate::wire::AckLevel;

#[derive(Default)]
pub(super) struct Http {
    waiting: bool,
}

impl Http {
    /// `token`: empty, or without control characters.
    pub(super) fn message(batch: &SampleBatch, host: &str, token: &[u8], ack: Option<AckLevel>) -> Message {
        let query = ack.map_or(String::new(), |level| format!("?ack={}", level.name()));
        let mut body = format!(
            "POST /v1/events{query} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            batch.json.len()
        )
        .into_bytes();
        if !token.is_empty() {
            body.extend_from_slice(&[b"Authorization: Bearer ", token, b"\r\n"].concat());
        }
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(&batch.json);
        Message { body, crc: 0 }
    }
}

impl Talk for Http {
    fn greeting(&self) -> Vec<u8> {
        Vec::new()
    }

    fn is_greeted(&self) -> bool {
        true
    }

    fn may_send(&self, _: usize) -> bool {
        !self.waiting
    }

    fn begin(&mut self, _: &Message, _: &mut Vec<u8>) {
        self.waiting = true;
    }

    fn receive(&mut self, bytes: &mut Vec<u8>, answered: &mut Answered) -> Result<(), TalkError> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return Ok(()),
            Err(error) => return Err(TalkError::Unexpected(format!("answer: {error}"))),
        };
        let status = response.code.unwrap_or_default();
        let length = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
            .ok_or_else(|| TalkError::Unexpected("answer without Content-Length".to_owned()))?;
        let Some(body) = bytes.get(head..head.saturating_add(length)) else { return Ok(()) };
        if status != 200 {
            return Err(TalkError::Status { status, body: String::from_utf8_lossy(body).into_owned() });
        }
        answered.messages += 1;
        if !body.ends_with(b"\"rejected\":[]}") && body.starts_with(b"{\"accepted\"") {
            answered.refused += 1;
        }
        bytes.drain(..head + length);
        self.waiting = false;
        Ok(())
    }
}
