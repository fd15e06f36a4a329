//! What bytes of a head may be part of: a table, so that each is looked up once.

/// Of a line of a head: no control byte except HTAB. The CRLF at its end is not part of it.
pub(super) const LINE: u8 = 1;
/// Of a token (RFC 9110, section 5.6.2).
pub(super) const TOKEN: u8 = 2;
/// Of a target: RFC 3986, and the brackets that some clients leave as they are in a query.
pub(super) const TARGET: u8 = 4;
/// Of a host's name.
pub(super) const HOST: u8 = 8;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    add(&mut classes, TOKEN, b"!#$%&'*+-.^_`|~");
    add(&mut classes, TARGET, b"-._~!$&'()*+,;=:@/?%[]");
    add(&mut classes, HOST, b"-._");
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            classes[byte] |= TOKEN | TARGET | HOST;
        }
        if matches!(byte as u8, b'\t' | b' '..=b'~' | 0x80..) {
            classes[byte] |= LINE;
        }
        byte += 1;
    }
    classes
};

const fn add(classes: &mut [u8; 256], class: u8, bytes: &[u8]) {
    let mut index = 0;
    while index < bytes.len() {
        classes[bytes[index] as usize] |= class;
        index += 1;
    }
}

/// Whether `byte` may be part of this.
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// RFC 9110, section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Whether all of `bytes` may be, and there is one.
pub(super) fn are(bytes: &[u8], class: u8) -> bool {
    !bytes.is_empty() && bytes.iter().fold(class, |all, &byte| all & CLASSES[usize::from(byte)]) != 0
}

/// How many bytes at the beginning of `bytes` may be part of a line.
pub(super) fn line_length(bytes: &[u8]) -> usize {
    // Without a table and without an early end: the compiler looks at all of a piece at once.
    let is_line = |all: bool, &byte: &u8| all & (byte >= b' ' && byte != 0x7F || byte == b'\t');
    let pieces = bytes.chunks_exact(16).take_while(|piece| piece.iter().fold(true, is_line)).count();
    let rest = bytes.get(16 * pieces..).unwrap_or_default();
    16 * pieces + rest.iter().take_while(|byte| is(**byte, LINE)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_its_first_control_byte() {
        for at in 0..70 {
            for control in [b'\r', b'\n', 0, 0x1F, 0x7F] {
                let mut bytes = [[b'a', b'\t'].as_slice(), "é ~".as_bytes()].concat().repeat(12);
                bytes[at] = control;
                assert_eq!(line_length(&bytes), at);
                assert_eq!(line_length(&bytes[..at]), at);
            }
        }
    }

    #[test]
    fn every_byte_has_the_classes_of_the_grammar() {
        for byte in 0..=u8::MAX {
            let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is(byte, TOKEN), is_tchar, "{byte}");
            assert_eq!(is(byte, LINE), byte == b'\t' || !byte.is_ascii_control(), "{byte}");
            assert_eq!(
                are(&[b'a', byte], TARGET | HOST),
                byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&byte)
            );
        }
        assert!(!are(b"", TOKEN) && are(b"x-._", HOST) && !are(b"x/", HOST));
    }
}
