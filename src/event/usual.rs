//! Reading of events in the usual form, as encoders write them: each field at most once, in the order of the numbers, keys and lengths
//! as short as they can be. Whatever else comes is left to `view`, which reads every form.

use super::view::{
    ATTRIBUTES, BODY, DURATION_NANO, EventRef, Findings, KIND, NAME, PARENT_SPAN_ID, SEVERITY, SOURCE, SPAN_ID,
    TIME_UNIX_NANO, TRACE_ID, VALUE,
};

impl<'a> EventRef<'a> {
    /// Reads fields as far as they come as encoders write them: each at most once, in the order of their numbers, and with lengths
    /// below 16,384. Returns what is left for [`EventRef::locate_rest`], and what it has to know. Reading accepted events is most
    /// of what a filter costs.
    #[inline(always)]
    pub(super) fn locate_usual(&mut self) -> (&'a [u8], Findings) {
        let mut findings = Findings::default();
        let mut rest = self.locate_usual_head();
        usual_delimited(&mut rest, BODY, &mut self.body);
        let from_attributes = rest;
        // Most are short.
        loop {
            while let [first, length @ ..0x80, ..] = rest
                && u32::from(*first) == ATTRIBUTES
                && let Some(after) = rest.get(2 + usize::from(*length)..)
            {
                rest = after;
            }
            if !usual_delimited(&mut rest, ATTRIBUTES, &mut &[][..]) {
                break;
            }
        }
        let attributes_bytes = from_attributes.len() - rest.len();
        if attributes_bytes > 0 {
            // Their number is not needed, only that there are some.
            findings.attributes = 1;
            findings.first_attribute = self.bytes.len() - from_attributes.len();
            self.attributes = from_attributes.get(..attributes_bytes).unwrap_or_default();
        }
        if !rest.is_empty() {
            usual_fixed64(&mut rest, VALUE, |bits| self.value = Some(f64::from_bits(bits)));
            usual_fixed64(&mut rest, DURATION_NANO, |bits| self.duration_nano = bits);
            usual_delimited(&mut rest, TRACE_ID, &mut self.trace_id);
            usual_delimited(&mut rest, SPAN_ID, &mut self.span_id);
            usual_delimited(&mut rest, PARENT_SPAN_ID, &mut self.parent_span_id);
        }
        (rest, findings)
    }

    /// Reads the head as far as it is in the usual form, and returns what follows.
    #[inline(always)]
    pub(super) fn locate_usual_head(&mut self) -> &'a [u8] {
        let mut rest = self.bytes;
        usual_fixed64(&mut rest, TIME_UNIX_NANO, |bits| self.time_unix_nano = bits);
        usual_varint(&mut rest, KIND, &mut self.kind);
        usual_varint(&mut rest, SEVERITY, &mut self.severity);
        usual_delimited(&mut rest, SOURCE, &mut self.source);
        usual_delimited(&mut rest, NAME, &mut self.name);
        rest
    }
}

/// If `rest` begins with the field of `key`, passes it.
#[inline(always)]
fn usual_fixed64(rest: &mut &[u8], key: u32, set: impl FnOnce(u64)) {
    if let [first, after @ ..] = *rest
        && u32::from(*first) == key
        && let Some((bits, after)) = after.split_first_chunk()
    {
        set(u64::from_le_bytes(*bits));
        *rest = after;
    }
}

/// If `rest` begins with the field of `key` and a value of one byte, passes it.
#[inline(always)]
fn usual_varint(rest: &mut &[u8], key: u32, field: &mut i32) {
    if let [first, value @ ..0x80, after @ ..] = *rest
        && u32::from(*first) == key
    {
        *field = i32::from(*value);
        *rest = after;
    }
}

/// If `rest` begins with the field of `key` and a length of one or two bytes, passes it; whether it did.
#[inline(always)]
pub(super) fn usual_delimited<'a>(rest: &mut &'a [u8], key: u32, field: &mut &'a [u8]) -> bool {
    let [first, length, ..] = *rest else { return false };
    if u32::from(*first) != key {
        return false;
    }
    let (head_bytes, length) = match (*length, *rest) {
        (length @ ..0x80, _) => (2, usize::from(length)),
        (low, [_, _, high @ ..0x80, ..]) => (3, usize::from(low & 0x7F) | usize::from(*high) << 7),
        _ => return false,
    };
    let Some((whole, after)) = rest.split_at_checked(head_bytes + length) else { return false };
    let Some((_, bytes)) = whole.split_at_checked(head_bytes) else { return false };
    (*field, *rest) = (bytes, after);
    true
}
