//! SKELETON, to be replaced: signatures that other stages are written against.

pub use super::proto::EventKind;

/// A value of an attribute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttributeValue<'a> {
    /// The oneof is not set.
    Null,
    String(&'a str),
    Int(i64),
    Double(f64),
    Bool(bool),
    Bytes(&'a [u8]),
}

/// An event, borrowed from its encoded bytes.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    bytes: &'a [u8],
}

impl<'a> EventRef<'a> {
    /// The encoded event.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// 0: unset.
    pub fn time_unix_nano(&self) -> u64 {
        0
    }
    /// Log where unset.
    pub fn kind(&self) -> EventKind {
        EventKind::Log
    }
    /// 1 to 24; 0: unset.
    pub fn severity(&self) -> u8 {
        0
    }
    /// Empty: unset.
    pub fn source(&self) -> &'a str {
        ""
    }
    pub fn name(&self) -> &'a str {
        ""
    }
    pub fn body(&self) -> &'a str {
        ""
    }
    pub fn value(&self) -> Option<f64> {
        None
    }
    /// 0: unset.
    pub fn duration_nano(&self) -> u64 {
        0
    }
    pub fn trace_id(&self) -> Option<&'a [u8; 16]> {
        None
    }
    pub fn span_id(&self) -> Option<&'a [u8; 8]> {
        None
    }
    pub fn parent_span_id(&self) -> Option<&'a [u8; 8]> {
        None
    }
    /// Attributes in the order of the bytes, duplicates included (a later one wins).
    pub fn attributes(&self) -> impl Iterator<Item = (&'a str, AttributeValue<'a>)> + use<'a> {
        std::iter::empty()
    }
}

/// The events of an `EventBatch` that was accepted at the door.
pub struct Events<'a> {
    payload: &'a [u8],
}

impl<'a> Events<'a> {
    /// `payload` has been accepted: every event in it is sound.
    pub fn accepted(payload: &'a [u8]) -> Self {
        Self { payload }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = EventRef<'a>;
    fn next(&mut self) -> Option<EventRef<'a>> {
        let _ = self.payload;
        None
    }
}
