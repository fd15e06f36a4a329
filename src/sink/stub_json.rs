//! TEMPORARY: until event/json_out.rs lands.
use crate::event::EventRef;

pub fn rfc3339(out: &mut String, unix_nano: u64) {
    use std::fmt::Write;
    let (seconds, nanos) = (unix_nano / 1_000_000_000, unix_nano % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z");
}

pub fn write_attributes_json(_event: &EventRef<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{}");
}

pub fn write_json(event: &EventRef<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"name\":");
    write_string(event.name(), out);
    out.push(b'}');
}

pub fn write_string(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}

pub fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let pad = digit > chunk.len();
            out.push(if pad { b'=' } else { ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize] });
        }
    }
}
