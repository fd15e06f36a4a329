//! Random requests, by the tables: every field, in any order, packed and expanded, in several parts, with unknown fields.

use crate::event::otlp::Signal;
use crate::event::otlp::request::Messages;
use crate::event::otlp::schema::{Field, Kind, Message};
use crate::event::protobuf::{DELIMITED, VARINT, key, put_varint};
use crate::random::Random;

/// A request in protobuf. It is well-formed; what it holds may break rules.
pub fn request(signal: Signal, random: &mut Random) -> Vec<u8> {
    Generator { random }.message(Messages::of(signal).request, 0)
}

struct Generator<'r> {
    random: &'r mut Random,
}

impl Generator<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.random.next_u64() % end
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    fn message(&mut self, message: &'static Message, depth: usize) -> Vec<u8> {
        let mut fields = Vec::new();
        let chosen = self.chosen(message, depth);
        let buckets = self.below(4) as usize;
        for field in message.fields {
            if !chosen.contains(&field.number) {
                continue;
            }
            let count = match (field.repeated, field.name) {
                (true, "bucket_counts") if message.name == "HistogramDataPoint" => buckets + 1,
                (true, "explicit_bounds") => buckets,
                (true, _) => self.below(4) as usize,
                (false, _) if self.below(40) == 0 => 2,
                (false, _) => 1,
            };
            self.field(field, count, depth, &mut fields);
        }
        if self.below(20) == 0 {
            let mut unknown = Vec::new();
            put_varint(&mut unknown, key(1000, VARINT).into());
            put_varint(&mut unknown, self.below(300));
            fields.push(unknown);
        }
        if self.below(5) == 0 {
            for last in (1..fields.len()).rev() {
                fields.swap(last, self.below(last as u64 + 1) as usize);
            }
        }
        fields.concat()
    }

    /// Numbers of the fields that are set. Mostly one of those of which only one may be.
    fn chosen(&mut self, message: &Message, depth: usize) -> Vec<u32> {
        let alternatives: &[u32] = match message.name {
            "AnyValue" if depth > 8 => &[1, 2, 3, 4, 7],
            "AnyValue" => &[1, 1, 1, 2, 3, 4, 5, 6, 7, 8],
            "Metric" => &[5, 7, 9, 10, 11],
            "NumberDataPoint" => &[4, 6],
            "Exemplar" => &[3, 6],
            _ => &[],
        };
        let is_alternative = |number: &u32| alternatives.contains(number) || message.name == "AnyValue";
        let others = message.fields.iter().map(|field| field.number).filter(|number| !is_alternative(number));
        let mut chosen: Vec<_> = others.collect();
        chosen.retain(|number| *number <= 3 || self.below(4) > 0);
        if !alternatives.is_empty() && self.below(30) > 0 {
            chosen.push(self.one_of(alternatives));
            if self.below(20) == 0 {
                chosen.push(self.one_of(alternatives));
            }
        }
        chosen
    }

    fn field(&mut self, field: &'static Field, count: usize, depth: usize, fields: &mut Vec<Vec<u8>>) {
        let wire_type = field.kind.wire_type();
        if field.repeated && wire_type != DELIMITED && self.below(2) == 0 {
            let mut packed = Vec::new();
            (0..count).for_each(|_| self.scalar(field, &mut packed));
            fields.push(delimited(field, &packed));
            return;
        }
        for _ in 0..count {
            let content = match field.kind {
                Kind::Message(nested) => {
                    let content = self.message(nested, depth + 1);
                    fields.push(delimited(field, &content));
                    continue;
                }
                Kind::Text => self.text(field).into_bytes(),
                Kind::Bytes => (0..self.below(5)).map(|byte| byte as u8 * 60).collect(),
                Kind::Id => self.id(field),
                _ => {
                    let mut bytes = Vec::new();
                    put_varint(&mut bytes, key(field.number, wire_type).into());
                    self.scalar(field, &mut bytes);
                    fields.push(bytes);
                    continue;
                }
            };
            fields.push(delimited(field, &content));
        }
    }

    fn text(&mut self, field: &Field) -> String {
        let long = ["k".repeat(130), "ä".repeat(90), "x".repeat(300)];
        if self.below(100) == 0 {
            return self.one_of(&[&long[0], &long[1], &long[2]]).clone();
        }
        let keys = ["service.name", "host.name", "a", "b.c", "unit", "", "key with spaces", "schlüssel"];
        let texts = ["", "text", "grüße", "\u{0}\"\\\n", "0123456789012345678901234567890123456789"];
        (if field.name == "key" { self.one_of(&keys) } else { self.one_of(&texts) }).to_owned()
    }

    fn id(&mut self, field: &Field) -> Vec<u8> {
        let length = match self.below(20) {
            0 => 0,
            1 => 7,
            _ if field.name == "trace_id" => 16,
            _ => 8,
        };
        let byte = if self.below(30) == 0 { 0 } else { 1 + self.below(255) as u8 };
        vec![byte; length]
    }

    fn scalar(&mut self, field: &Field, bytes: &mut Vec<u8>) {
        let any = self.random.next_u64();
        let time = 1_795_464_948_000_000_000 + self.below(1_000_000_000_000);
        match field.kind {
            Kind::Fixed64 if field.name.ends_with("nano") => {
                let number = self.one_of(&[time, time, time, time, time, time, time, 0, 1 << 63]);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Fixed64 | Kind::SFixed64 => {
                let number = self.one_of(&[0, 1, 7, 1 << 53, (1 << 53) + 1, u64::MAX, any]);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Double => {
                let number = self.one_of(&[0.0, -0.0, 1.5, -2.0, f64::NAN, f64::INFINITY, f64::MIN, 1e-300]);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Fixed32 => bytes.extend_from_slice(&self.one_of(&[0, 1, 0x301, any as u32]).to_le_bytes()),
            Kind::Enum => put_varint(bytes, self.one_of(&[0, 1, 2, 5, 9, 24, 25, -1_i64]) as u64),
            Kind::Bool => put_varint(bytes, self.one_of(&[0, 1, 1, 2])),
            _ => put_varint(bytes, self.one_of(&[0, 1, 2, 300, u64::MAX, any])),
        }
    }
}

fn delimited(field: &Field, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, key(field.number, DELIMITED).into());
    put_varint(&mut bytes, content.len() as u64);
    bytes.extend_from_slice(content);
    bytes
}
