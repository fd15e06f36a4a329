//! What is said to a server, by kind of server: bytes out, bytes in, no socket.
//!
//! ```text
//!  greeting ──▶ greeted? ──▶ may_send ─▶ head + body of a message ─▶ … ─▶ receive: so many messages answered
//!                               ▲ window                                        │
//!                               └───────────────────────────────────────────────┘
//! ```

/// A message that is encoded once and sent many times.
pub(super) struct Message {
    pub body: Vec<u8>,
    /// Checksum of the body, where its protocol has one.
    pub crc: u32,
}

/// What was answered since the last look, in the order of sending.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    pub messages: u64,
    /// Those whose events were refused, all or some.
    pub refused: u64,
}

/// Why there is no talking on.
#[derive(Debug, thiserror::Error)]
pub(super) enum TalkError {
    #[error("the server sent bytes that are not a frame: {0}")]
    Frame(#[from] crate::wire::FrameError),
    #[error("{0}")]
    Welcome(#[from] crate::wire::hello::WelcomeError),
    #[error("the server ends the connection: {0}")]
    Goaway(String),
    #[error("the server sent an unexpected {0}")]
    Unexpected(String),
    #[error("the server answers {status}: {body}")]
    Status { status: u16, body: String },
}

/// One connection's talk.
pub(super) trait Talk: Send {
    /// The first words.
    fn greeting(&self) -> Vec<u8>;
    /// The greeting is answered.
    fn is_greeted(&self) -> bool;
    /// Whether the window has room for one more message of so many bytes.
    fn may_send(&self, body_bytes: usize) -> bool;
    /// The next message is `message`: appends what stands before its body.
    fn begin(&mut self, message: &Message, head: &mut Vec<u8>);
    /// Takes whole answers off the front of `bytes`.
    fn receive(&mut self, bytes: &mut Vec<u8>, answered: &mut Answered) -> Result<(), TalkError>;
    /// What is written once everything is answered, before the connection is closed; may be empty.
    fn farewell(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Whether a message is ever answered. Where not, it counts once it is written.
    fn answers(&self) -> bool {
        true
    }
}
