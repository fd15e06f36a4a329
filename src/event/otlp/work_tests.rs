//! The work of a request is linear in its bytes, however its values are nested.

use super::fuzz::protobuf;
use super::*;
use crate::event::protobuf::{DELIMITED, key, put_varint, work};

/// Values nested in each other; each level is three messages, and a request may have 100.
const LEVELS: usize = 28;
/// Members of the innermost list.
const MEMBERS: usize = 2_000;

fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    put_varint(&mut field, key(number, DELIMITED).into());
    put_varint(&mut field, content.len() as u64);
    field.extend_from_slice(content);
    field
}

fn key_value(value: &[u8]) -> Vec<u8> {
    [field(1, b"k"), field(2, value)].concat()
}

/// A log record with this `AnyValue` as an attribute and as its body.
fn request(value: &[u8]) -> Vec<u8> {
    let record = [field(5, value), field(6, &key_value(value))].concat();
    field(1, &field(2, &field(2, &record)))
}

/// Fields that are read of a request whose value is nested `levels` deep.
fn fields_read(levels: usize, nest: impl Fn(&[u8]) -> Vec<u8>) -> u64 {
    let member = field(1, &key_value(&field(1, b"v")));
    let mut value = field(6, &member.repeat(MEMBERS));
    for _ in 0..levels {
        value = nest(&value);
    }
    let body = request(&value);
    let before = work::FIELDS.get();
    assert!(protobuf(Signal::Logs, &body).is_ok());
    work::FIELDS.get() - before
}

#[test]
fn nested_values_are_read_as_often_as_flat_ones() {
    const LIST: u32 = 6;
    const ARRAY: u32 = 5;
    let list = |value: &[u8]| field(LIST, &field(1, &key_value(value)));
    let array = |value: &[u8]| field(ARRAY, &field(1, value));
    let empty = |number| field(number, b"");
    type Nest<'n> = (&'static str, &'n dyn Fn(&[u8]) -> Vec<u8>);
    let ways: [Nest; 8] = [
        ("a list", &list),
        ("an array", &array),
        ("a list in two fields", &|value| [empty(LIST), list(value)].concat()),
        ("an array in two fields", &|value| [empty(ARRAY), array(value)].concat()),
        ("a list after an array", &|value| [array(b""), list(value)].concat()),
        ("a list after a list that an array has replaced", &|value| {
            [list(b""), array(b""), empty(LIST), list(value)].concat()
        }),
        ("a value in two fields", &|value| field(LIST, &field(1, &[key_value(b""), field(2, value)].concat()))),
        ("a value in two fields, and in each a list in two", &|value| {
            let halves = [field(2, &empty(LIST)), field(2, &[empty(LIST), list(value)].concat())].concat();
            field(LIST, &field(1, &[field(1, b"k"), halves].concat()))
        }),
    ];
    let flat = fields_read(0, |value| value.to_vec());
    for (what, nest) in ways {
        let levels = if what.ends_with("in two") { LEVELS / 2 } else { LEVELS };
        let nested = fields_read(levels, nest);
        assert!(nested < 2 * flat, "{what}: {nested} fields are read, {flat} where nothing is nested");
    }
}
