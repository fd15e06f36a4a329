//! `json_quick` against the visitors: the same bytes and rejections, or the same error.

use std::fmt::Write;

use super::fuzz::compare_with_visitors;
use super::json_key::FIELD_NAMES;
use super::json_quick::{Trials, read_event};
use super::json_scan::skip_space;
use crate::random::Random;

/// Room for every event here.
const ROOM_BYTES: usize = 4096;

/// The encoded event, key and length of the batch left out; `None`: it is not ordinary.
fn read(text: &str) -> Option<Vec<u8>> {
    let mut room = vec![0; ROOM_BYTES];
    let (event, rest) = read_event(text.as_bytes(), &mut room)?;
    assert!(skip_space(rest).is_empty(), "{text}");
    Some(room[event].to_vec())
}

/// Events that are read without the visitors.
const ORDINARY: &[&str] = &[
    r#"{"name":"n"}"#,
    r#"{"time":"2026-11-23T20:15:48.123456789Z","kind":"log","severity":9,"source":"checkout","name":"http.request","body":"GET /","attributes":{"http.route":"/a/{id}","user.id":"u-1","http.status_code":200,"duration_ms":123.456}}"#,
    r#"{"body":"täxt \"\\\/\b\f\n\r\t \u20ac\u0000 \ud83d\ude00 \u00e4","kind":"span","severity":"warn","value":-1.5,"duration_nano":1500,"trace_id":"000102030405060708090A0B0C0D0e0f","span_id":"0001020304050607","parent_span_id":"ffffffffffffffff"}"#,
    "{ \"name\" : \"n\" ,\r\n\t\"attributes\" : { \"a\" : 1 , \"b\" : true } }",
    r#"{"name":"n","attributes":{"a":{"b":{"c":"x","d":-7},"e":false},"f":{},"g":null,"h":{"i":null,"j":0.1}}}"#,
    r#"{"source":null,"name":"n","time":0,"attributes":{}}"#,
    r#"{"name":"n","time":1795464948123456789,"value":9007199254740993}"#,
    r#"{"name":"n","time":"2026-11-23T20:15:48Z","value":0}"#,
    r#"{"name":"n","time":"2026-11-23 21:15:48.5+01:00"}"#,
    r#"{"name":"","body":"b"}"#,
];

/// Values of every kind, ordinary or not, valid or not.
const VALUES: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "00",
    "01",
    "-",
    "1.",
    ".5",
    "1.0",
    "-0.0",
    "0.1",
    "1e3",
    "1E-3",
    "1.5e300",
    "1e999",
    "9",
    "24",
    "25",
    "1795464948",
    "1795464948123456789",
    "9007199254740991",
    "9007199254740992.5",
    "900719925474099.25",
    "0.30000000000000004",
    "123456789012345678",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "12345678901234567890.5",
    "1234567.1234567",
    "12345678.12345678",
    "0.0000001",
    "1.00000000000000000000",
    "3.141592653589793",
    "4.35",
    "2.675",
    "1x",
    "1 2",
    "true",
    "false",
    "null",
    "nul",
    "tru",
    "True",
    "NaN",
    "[]",
    "[1]",
    "[1,{\"a\":[]}]",
    "{}",
    "{\"a\":1}",
    "{\"a\":{\"b\":{}}}",
    "{\"a\":1,}",
    "{a:1}",
    "{\"\":1}",
    "{\"\":null}",
    "\"\"",
    "\"a\"",
    "\"NaN\"",
    "\"Infinity\"",
    "\"log\"",
    "\"gauge\"",
    "\"counter\"",
    "\"span\"",
    "\"histogram\"",
    "\"summary\"",
    "\"Log\"",
    "\"logs\"",
    "\"trace\"",
    "\"debug\"",
    "\"info\"",
    "\"warn\"",
    "\"error\"",
    "\"fatal\"",
    "\"INFO\"",
    "\"in\\u0066o\"",
    "\"a\\nb\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud83d\"",
    "\"\\ude00\"",
    "\"\\ud83d\\u0041\"",
    "\"\\u00zz\"",
    "\"\\x\"",
    "\"\\",
    "\"",
    "\"tab\there\"",
    "\"ä€😀\"",
    "\"\u{7f}\u{80}\"",
    "'a'",
    "\"2026-11-23T20:15:48.123456789Z\"",
    "\"2026-11-23T20:15:48Z\"",
    "\"2026-11-23T20:15:48.1Z\"",
    "\"2026-11-23T20:15:48.12345678Z\"",
    "\"2026-11-23T20:15:48.1234567890Z\"",
    "\"2026-11-23T20:15:48.Z\"",
    "\"2026-11-23T20:15:48+01:00\"",
    "\"2026-11-23t20:15:48z\"",
    "\"2026-02-29T20:15:48Z\"",
    "\"2024-02-29T20:15:48Z\"",
    "\"2026-13-23T20:15:48Z\"",
    "\"2026-11-31T20:15:48Z\"",
    "\"2026-11-23T24:15:48Z\"",
    "\"2026-11-23T20:60:48Z\"",
    "\"2016-12-31T23:59:60Z\"",
    "\"1970-01-01T00:00:00Z\"",
    "\"1969-12-31T23:59:59Z\"",
    "\"2261-12-31T23:59:59.999999999Z\"",
    "\"2262-04-11T23:47:16.854775807Z\"",
    "\"2262-04-11T23:47:16.854775808Z\"",
    "\"000102030405060708090a0b0c0d0e0f\"",
    "\"000102030405060708090A0B0C0D0E0F\"",
    "\"0001020304050607\"",
    "\"000102030405060g\"",
    "\"00010203040506\"",
];

/// Keys that are not names of fields; most of them differ from one in a single character.
const OTHER_KEYS: &[&str] =
    &["events", "nmae", "", "names", "nam", "time_", "ti", "t\\u0069me", "parent_span_id2", "value\\\""];

#[test]
fn ordinary_events_are_read_as_the_visitors_read_them() {
    for text in ORDINARY {
        assert!(read(text).is_some(), "{text}");
        for body in [
            text.to_string(),
            format!("[{text}]"),
            format!(" [ {text} , {text}\n] "),
            format!("{{\"events\":[{text}]}}"),
        ] {
            compare_with_visitors(body.as_bytes());
        }
    }
}

#[test]
fn every_value_under_every_key_is_read_as_the_visitors_read_it() {
    for key in FIELD_NAMES.iter().chain(OTHER_KEYS) {
        for value in VALUES {
            for event in [
                format!("{{\"{key}\":{value}}}"),
                format!(
                    "{{\"name\":\"n\",\"{key}\":{value},\"attributes\":{{\"k\":{value}, \"o\": {{\"k\":{value},\"l\":{value}}}}}}}"
                ),
            ] {
                compare_with_visitors(event.as_bytes());
                compare_with_visitors(format!("[{event},{{\"name\":\"m\"}}]").as_bytes());
            }
        }
    }
}

#[test]
fn a_text_that_ends_anywhere_is_read_as_the_visitors_read_it() {
    for text in ORDINARY {
        let body = format!("[{text},{text}]");
        for end in 0..body.len() {
            compare_with_visitors(&body.as_bytes()[..end]);
            // And what follows is something else.
            let other: Vec<_> = body.bytes().take(end).chain(*b"\"}").chain(body.bytes().skip(end + 1)).collect();
            compare_with_visitors(&other);
        }
    }
}

#[test]
fn an_event_needs_no_more_room_than_it_has_bytes() {
    for text in ORDINARY {
        let whole = read(text).unwrap();
        let mut room = vec![0; ROOM_BYTES];
        for bytes in 0..ROOM_BYTES.min(whole.len() + 40) {
            let read = read_event(text.as_bytes(), &mut room[..bytes]);
            assert!(read.is_none_or(|(event, _)| room[event] == whole), "{text} in {bytes}");
        }
        assert!(read_event(text.as_bytes(), &mut room[..whole.len() + 4]).is_some() || text.contains("null"), "{text}");
    }
}

#[test]
fn texts_and_keys_of_every_length_are_read_as_the_visitors_read_them() {
    for bytes in (0..300).chain([16_370, 16_380, 16_384, 16_400, 65_535, 65_536, 65_537]) {
        let long = "x".repeat(bytes);
        compare_with_visitors(
            format!("[{{\"body\":\"{long}\"}},{{\"name\":\"{long}\"}},{{\"name\":\"n\",\"source\":\"{long}\"}}]")
                .as_bytes(),
        );
        compare_with_visitors(
            format!("[{{\"name\":\"n\",\"attributes\":{{\"{long}\":1,\"k\":\"{long}\",\"o\":{{\"k\":\"{long}\",\"{long}\":2,\"z\":3}}}}}}]").as_bytes(),
        );
    }
    let many = |count: usize| (0..count).map(|index| format!("\"k{index}\":{index}")).collect::<Vec<_>>().join(",");
    for count in [127, 128, 129] {
        compare_with_visitors(format!("[{{\"name\":\"n\",\"attributes\":{{{}}}}}]", many(count)).as_bytes());
    }
    for depth in 1..140 {
        let nested = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        compare_with_visitors(format!("[{{\"name\":\"n\",\"attributes\":{nested}}}]").as_bytes());
        let arrays = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        compare_with_visitors(format!("[{{\"name\":\"n\",\"attributes\":{{\"a\":{arrays}}}}},{arrays}]").as_bytes());
    }
}

#[test]
fn few_events_are_tried_where_none_is_ordinary() {
    let mut trials = Trials::default();
    let mut tried = |events: usize, is_ordinary| {
        let is_tried = |_: &usize| {
            let is_due = trials.is_due();
            if is_due {
                trials.note(is_ordinary);
            }
            is_due
        };
        (0..events).filter(is_tried).count()
    };
    assert_eq!(tried(1_000, true), 1_000);
    let among_unusual = tried(1_000, false);
    assert!((10..30).contains(&among_unusual), "{among_unusual}");
    assert!(tried(1_000, true) > 900);
}

/// Random bodies: ordinary events, whose keys, values and bytes are replaced now and then.
struct Bodies(Random);

impl Bodies {
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn space(&mut self) -> &'static str {
        if self.one_in(6) { self.any(&[" ", "  ", "\n", "\r\n\t", "\t"]) } else { "" }
    }

    fn text(&mut self) -> String {
        const PIECES: &[&str] = &[
            "a",
            "GET /",
            "ä",
            "€",
            "😀",
            "\\n",
            "\\\"",
            "\\\\",
            "\\u00e4",
            "\\ud83d\\ude00",
            "0123456789abcdef",
            " ",
            "{",
            "}",
            ":",
            ",",
        ];
        let pieces = if self.one_in(20) { 60 } else { self.below(8) };
        (0..pieces).map(|_| self.any(PIECES)).collect()
    }

    fn number(&mut self) -> String {
        let (whole, fraction) = (self.0.next_u64() >> self.below(64), self.0.next_u64() >> self.below(64));
        let sign = if self.one_in(4) { "-" } else { "" };
        match self.below(3) {
            0 => format!("{sign}{whole}"),
            1 => format!("{sign}{whole}.{fraction}"),
            _ => format!("{sign}{}", f64::from_bits(self.0.next_u64())),
        }
    }

    fn value(&mut self, depth: usize) -> String {
        match self.below(10) {
            0..=3 => format!("\"{}\"", self.text()),
            4..=6 => self.number(),
            7 if depth < 4 => self.members(depth + 1),
            7 | 8 => self.any(&["true", "false", "null"]).to_owned(),
            _ => self.any(VALUES).to_owned(),
        }
    }

    fn members(&mut self, depth: usize) -> String {
        let members: Vec<_> = (0..self.below(4))
            .map(|_| {
                let key = self.any(&["a", "http.route", "user.id", "k", "ä", "q\\\"", "a.long.key.of.an.attribute"]);
                format!(
                    "{}\"{key}\"{}:{}{}{}",
                    self.space(),
                    self.space(),
                    self.space(),
                    self.value(depth),
                    self.space()
                )
            })
            .collect();
        format!("{{{}}}", members.join(","))
    }

    fn event(&mut self) -> String {
        let mut event = String::from("{");
        let first = self.below(FIELD_NAMES.len());
        for field in 0..1 + self.below(9) {
            let key = if self.one_in(30) { self.any(OTHER_KEYS) } else { FIELD_NAMES[(first + 5 * field) % 12] };
            let value = match key {
                _ if self.one_in(20) => self.value(0),
                "time" => self
                    .any(&["\"2026-11-23T20:15:48.123456Z\"", "\"2026-11-23T20:15:48Z\"", "1795464948123456789"])
                    .to_owned(),
                "kind" => self.any(&["\"log\"", "\"gauge\"", "\"span\""]).to_owned(),
                "severity" => self.any(&["9", "\"info\"", "17"]).to_owned(),
                "attributes" => self.members(0),
                "value" => self.number(),
                "duration_nano" => self.0.next_u64().to_string(),
                "trace_id" => format!("\"{:032x}\"", self.0.next_u64()),
                "span_id" | "parent_span_id" => format!("\"{:016X}\"", self.0.next_u64()),
                _ => format!("\"{}\"", self.text()),
            };
            let comma = if field == 0 { "" } else { "," };
            let (before, colon, after) = (self.space(), self.space(), self.space());
            // Writing to a String cannot fail.
            let _ = write!(event, "{comma}{before}\"{key}\"{colon}:{after}{value}");
        }
        event + self.space() + "}"
    }

    fn body(&mut self) -> Vec<u8> {
        let events: Vec<_> = (0..self.below(5)).map(|_| self.event()).collect();
        let separator = [",", ",\n", " , ", "\n"][self.below(4)];
        let body = match self.below(4) {
            0 => events.join("\n"),
            1 => format!("{{\"events\":{}[{}]}}", self.space(), events.join(separator)),
            _ => format!("[{}]", events.join(separator)),
        };
        let mut body = body.into_bytes();
        for _ in 0..[0, 0, 1, 2][self.below(4)] {
            let at = self.below(body.len() + 1);
            let end = body.len().min(at + self.below(3));
            let new =
                self.any(&["", "\"", "{", "}", "[", "]", ",", ":", "\\", "0", ".", "e", "-", " ", "n", "\u{1}", "ä"]);
            body.splice(at..end, new.bytes());
            if self.one_in(10) {
                body.truncate(at);
            }
        }
        body
    }
}

#[test]
fn random_bodies_are_read_as_the_visitors_read_them() {
    let seed = std::env::var("TELEMETRYX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Random::from_system().next_u64());
    println!("TELEMETRYX_TEST_SEED={seed}");
    let mut bodies = Bodies(Random::seeded(seed));
    for _ in 0..5_000 {
        compare_with_visitors(&bodies.body());
    }
}
