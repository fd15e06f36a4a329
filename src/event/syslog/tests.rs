//! What messages become, and what broken ones become: whole, byte by byte, and split at every place.

use serde_json::{Value, json};

use super::*;
use crate::event::{EventRef, Events, JsonRecord, rfc3339, write_json};
use crate::limits::SYSLOG_COUNT_BYTES_MAX;

/// 2026-11-27T12:00:00Z.
const NOW: u64 = 1_795_780_800_000_000_000;

/// The event as JSON, without what all have: kind and name. Checks that it is a valid one.
fn event(message: Message<'_>, now: u64) -> Value {
    let mut decoder = SyslogDecoder::new();
    let field = decoder.decode(message, now);
    let event = Events::accepted(field).next().expect("one event");
    EventRef::check(event.bytes())
        .unwrap_or_else(|error| panic!("{error}: {:?}", message.bytes.escape_ascii().to_string()));
    assert_eq!(event.name(), EVENT_NAME);
    let mut json = Vec::new();
    write_json(&JsonRecord::event(event), &mut json);
    let mut json: Value = serde_json::from_slice(&json).unwrap();
    let fields = json.as_object_mut().unwrap();
    fields.remove("kind");
    fields.remove("name");
    json
}

fn of(text: &[u8]) -> Value {
    event(Message { bytes: text, truncated: false }, NOW)
}

#[test]
fn messages_of_rfc_5424() {
    for (text, expected) in [
        (
            "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick on /dev/pts/8",
            json!({"time":"2003-10-11T22:14:15.003000000Z","severity":18,"source":"su",
                "body":"'su root' failed for lonvick on /dev/pts/8",
                "attributes":{"syslog.facility":4,"host.name":"mymachine.example.com","syslog.msgid":"ID47"}}),
        ),
        (
            "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
            json!({"time":"2003-08-24T12:14:15.000003000Z","severity":10,"source":"myproc",
                "body":"%% It's time to make the do-nuts.",
                "attributes":{"syslog.facility":20,"host.name":"192.0.2.1","syslog.procid":"8710"}}),
        ),
        (
            r#"<165>1 2003-10-11T22:14:15.003Z mymachine evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"] An event"#,
            json!({"time":"2003-10-11T22:14:15.003000000Z","severity":10,"source":"evntslog","body":"An event",
                "attributes":{"syslog.facility":20,"host.name":"mymachine","syslog.msgid":"ID47",
                    "sd.exampleSDID@32473.iut":"3","sd.exampleSDID@32473.eventSource":"Application",
                    "sd.exampleSDID@32473.eventID":"1011","sd.examplePriority@32473.class":"high"}}),
        ),
        (
            r#"<13>1 - - - - - [a x="\"q\" \\ \] \n é"][b][c y=""]"#,
            json!({"severity":10,"attributes":{"syslog.facility":1,"sd.a.x":r#""q" \ ] \n é"#,"sd.b":true,"sd.c.y":""}}),
        ),
        ("<0>1 - - - - - -", json!({"severity":21,"attributes":{"syslog.facility":0}})),
        ("<191>1 - h - - - - ", json!({"severity":5,"source":"h","attributes":{"syslog.facility":23,"host.name":"h"}})),
        (
            "<14>1 - - - - - -  two  spaces ",
            json!({"severity":9,"body":" two  spaces ","attributes":{"syslog.facility":1}}),
        ),
        ("<14>1 - - - - - - a\nb\n", json!({"severity":9,"body":"a\nb","attributes":{"syslog.facility":1}})),
    ] {
        assert_eq!(of(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn messages_of_rfc_3164_and_what_programs_make_of_it() {
    let facility = |number: u8| json!({"syslog.facility": number});
    let host = |name: &str| json!({"syslog.facility":4,"host.name":name});
    let time = "2026-10-11T22:14:15.000000000Z";
    for (text, expected) in [
        (
            "<34>Oct 11 22:14:15 mymachine su: 'su root' failed",
            json!({"time":time,"severity":18,"source":"su","body":"'su root' failed","attributes":host("mymachine")}),
        ),
        (
            "<34>Oct 11 22:14:15 mymachine sshd[812]: Accepted",
            json!({"time":time,"severity":18,"source":"sshd","body":"Accepted",
                "attributes":{"syslog.facility":4,"host.name":"mymachine","syslog.procid":"812"}}),
        ),
        // Without a host, as programs write to a local socket.
        (
            "<34>Oct 11 22:14:15 su: 'su root' failed",
            json!({"time":time,"severity":18,"source":"su","body":"'su root' failed","attributes":facility(4)}),
        ),
        (
            "<34>Oct 11 22:14:15 postfix/smtpd[7]: connect",
            json!({"time":time,"severity":18,"source":"postfix/smtpd","body":"connect",
                "attributes":{"syslog.facility":4,"syslog.procid":"7"}}),
        ),
        // Without a space after the tag.
        (
            "<34>Oct 11 22:14:15 mymachine sshd[812]:Accepted [x]: y",
            json!({"time":time,"severity":18,"source":"sshd","body":"Accepted [x]: y",
                "attributes":{"syslog.facility":4,"host.name":"mymachine","syslog.procid":"812"}}),
        ),
        (
            "<34>Oct 11 22:14:15 sshd[812]:Accepted",
            json!({"time":time,"severity":18,"source":"sshd","body":"Accepted",
                "attributes":{"syslog.facility":4,"syslog.procid":"812"}}),
        ),
        (
            "<34>a[1]:b c",
            json!({"severity":18,"source":"a","body":"b c","attributes":{"syslog.facility":4,"syslog.procid":"1"}}),
        ),
        // Neither an index nor an address is one.
        ("<34>x[i]:y z", json!({"severity":18,"body":"x[i]:y z","attributes":facility(4)})),
        ("<34>[1]:y z", json!({"severity":18,"body":"[1]:y z","attributes":facility(4)})),
        // Without a tag.
        (
            "<34>Oct 11 22:14:15 mymachine last message repeated 3 times",
            json!({"time":time,"severity":18,"source":"mymachine","body":"last message repeated 3 times",
                "attributes":host("mymachine")}),
        ),
        // An address of IPv6 is not a tag.
        (
            "<34>Oct 11 22:14:15 fe80::1 su: x",
            json!({"time":time,"severity":18,"source":"su","body":"x","attributes":host("fe80::1")}),
        ),
    ] {
        assert_eq!(of(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn times_of_rfc_3164_have_many_forms_and_may_be_missing() {
    let facility = |number: u8| json!({"syslog.facility": number});
    let time = "2026-10-11T22:14:15.000000000Z";
    let of_a = |time: &str| json!({"time":time,"severity":18,"source":"a","body":"x","attributes":{"syslog.facility":4,"host.name":"h"}});
    for (text, expected) in [
        ("<34>Oct  1 22:14:15 h a: x", of_a("2026-10-01T22:14:15.000000000Z")),
        ("<34>Oct 1 22:14:15 h a: x", of_a("2026-10-01T22:14:15.000000000Z")),
        // With a year, before or after the time of day; with a fraction; of a clock that is not synchronised.
        ("<34>Oct 11 2003 22:14:15 h a: x", of_a("2003-10-11T22:14:15.000000000Z")),
        ("<34>Oct 11 2003 22:14:15: h a: x", of_a("2003-10-11T22:14:15.000000000Z")),
        ("<34>Oct 11 22:14:15 2003 h a: x", of_a("2003-10-11T22:14:15.000000000Z")),
        ("<34>Oct 11 22:14:15.003 h a: x", of_a("2026-10-11T22:14:15.003000000Z")),
        ("<34>*Oct 11 22:14:15.003 h a: x", of_a("2026-10-11T22:14:15.003000000Z")),
        // As rsyslog forwards.
        ("<34>2003-10-11T22:14:15.003+02:00 h a: x", of_a("2003-10-11T20:14:15.003000000Z")),
        // Neither time nor host.
        (
            "<34>su: 'su root' failed",
            json!({"severity":18,"source":"su","body":"'su root' failed","attributes":facility(4)}),
        ),
        ("<34>something happened", json!({"severity":18,"body":"something happened","attributes":facility(4)})),
        ("<34>", json!({"severity":18,"attributes":facility(4)})),
        // Lines that begin with a date.
        ("Oct 11 22:14:15 h a: x", json!({"time":time,"source":"a","body":"x","attributes":{"host.name":"h"}})),
        (
            "2003-10-11T22:14:15Z h a: x",
            json!({"time":"2003-10-11T22:14:15.000000000Z","source":"a","body":"x","attributes":{"host.name":"h"}}),
        ),
    ] {
        assert_eq!(of(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn a_time_without_a_year_is_in_the_year_in_which_it_is_nearest() {
    let at = |now: &str, time: &str| {
        let now = rfc3339::parse(now).unwrap();
        let text = format!("<1>{time} h a: x");
        event(Message { bytes: text.as_bytes(), truncated: false }, now)["time"]
            .as_str()
            .map(|time| time[..10].to_owned())
    };
    for (now, time, expected) in [
        ("2026-11-27T12:00:00Z", "Nov 27 12:00:01", "2026-11-27"),
        ("2026-11-27T12:00:00Z", "Jan  1 00:00:00", "2027-01-01"),
        ("2027-01-01T00:00:05Z", "Dec 31 23:59:59", "2026-12-31"),
        ("2026-12-31T23:59:59Z", "Jan  1 00:00:02", "2027-01-01"),
        ("2026-06-30T00:00:00Z", "Jan  1 00:00:00", "2026-01-01"),
        ("2028-03-01T00:00:00Z", "Feb 29 00:00:00", "2028-02-29"),
        ("2027-03-01T00:00:00Z", "Feb 29 00:00:00", "2028-02-29"),
        ("2026-01-01T00:00:00Z", "Feb 29 00:00:00", "2024-02-29"),
        ("2100-06-01T00:00:00Z", "Feb 29 00:00:00", "2104-02-29"),
        ("1970-01-01T00:00:01Z", "Dec 31 00:00:00", "1970-12-31"),
    ] {
        assert_eq!(at(now, time).as_deref(), Some(expected), "{now} {time}");
    }
}

/// What is neither form: what is recognised of it, and the rest as a body.
#[rustfmt::skip]
const BAD: &[(&[u8], &str)] = &[
    (b"hello", r#"{"body":"hello","attributes":{"syslog.malformed":true}}"#),
    (b"5", r#"{"body":"5","attributes":{"syslog.malformed":true}}"#),
    (b"<", r#"{"body":"<","attributes":{"syslog.malformed":true}}"#),
    (b"<>", r#"{"body":"<>","attributes":{"syslog.malformed":true}}"#),
    (b"<>x", r#"{"body":"<>x","attributes":{"syslog.malformed":true}}"#),
    (b"<192>x", r#"{"body":"<192>x","attributes":{"syslog.malformed":true}}"#),
    (b"<999>x", r#"{"body":"<999>x","attributes":{"syslog.malformed":true}}"#),
    (b"<1000>x", r#"{"body":"<1000>x","attributes":{"syslog.malformed":true}}"#),
    (b"<0034>x", r#"{"body":"<0034>x","attributes":{"syslog.malformed":true}}"#),
    (b"<-1>x", r#"{"body":"<-1>x","attributes":{"syslog.malformed":true}}"#),
    (b"<+1>x", r#"{"body":"<+1>x","attributes":{"syslog.malformed":true}}"#),
    (b"< 1>x", r#"{"body":"< 1>x","attributes":{"syslog.malformed":true}}"#),
    (b"<a>x", r#"{"body":"<a>x","attributes":{"syslog.malformed":true}}"#),
    (b"<13", r#"{"body":"<13","attributes":{"syslog.malformed":true}}"#),
    (b" <13>x", r#"{"body":" <13>x","attributes":{"syslog.malformed":true}}"#),
    (b"GET / HTTP/1.1", r#"{"body":"GET / HTTP/1.1","attributes":{"syslog.malformed":true}}"#),
    (b"<html>", r#"{"body":"<html>","attributes":{"syslog.malformed":true}}"#),
    (b"<1>1 ", r#"{"severity":19,"attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 -", r#"{"severity":19,"body":"-","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - -", r#"{"severity":19,"body":"- - - - -","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - ", r#"{"severity":19,"attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - x", r#"{"severity":19,"body":"x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - -x", r#"{"severity":19,"body":"-x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1  - - - - - x", r#"{"severity":19,"body":" - - - - - x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 yesterday h a - - - x", r#"{"severity":19,"body":"yesterday h a - - - x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 2026-02-30T00:00:00Z h a - - - x", r#"{"severity":19,"body":"2026-02-30T00:00:00Z h a - - - x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 2026-01-01T00:00:00 h a - - - x", r#"{"severity":19,"body":"2026-01-01T00:00:00 h a - - - x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - h a p m [", r#"{"severity":19,"source":"a","body":"[","attributes":{"syslog.facility":0,"host.name":"h","syslog.procid":"p","syslog.msgid":"m","syslog.malformed":true}}"#),
    (b"<1>1 - h a p m [] x", r#"{"severity":19,"source":"a","body":"[] x","attributes":{"syslog.facility":0,"host.name":"h","syslog.procid":"p","syslog.msgid":"m","syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a", r#"{"severity":19,"body":"[a","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a ]", r#"{"severity":19,"body":"[a ]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b]", r#"{"severity":19,"body":"[a b]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b=c]", r#"{"severity":19,"body":"[a b=c]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b=\"c]", r#"{"severity":19,"body":"[a b=\"c]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b=\"c\\\"]", r#"{"severity":19,"body":"[a b=\"c\\\"]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a =\"c\"]", r#"{"severity":19,"body":"[a =\"c\"]","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b=\"c\"]x", r#"{"severity":19,"body":"[a b=\"c\"]x","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>1 - - - - - [a b=\"c\"][", r#"{"severity":19,"body":"[a b=\"c\"][","attributes":{"syslog.facility":0,"syslog.malformed":true}}"#),
    (b"<1>2 - - - - - - x", r#"{"severity":19,"body":"2 - - - - - - x","attributes":{"syslog.facility":0}}"#),
    (b"<1>Oct 32 22:14:15 h a: x", r#"{"severity":19,"body":"Oct 32 22:14:15 h a: x","attributes":{"syslog.facility":0}}"#),
    (b"<1>Oct 11 25:14:15 h a: x", r#"{"severity":19,"body":"Oct 11 25:14:15 h a: x","attributes":{"syslog.facility":0}}"#),
    (b"<1>Oct 11 22:14 h a: x", r#"{"severity":19,"body":"Oct 11 22:14 h a: x","attributes":{"syslog.facility":0}}"#),
    (b"<1>Okt 11 22:14:15 h a: x", r#"{"severity":19,"body":"Okt 11 22:14:15 h a: x","attributes":{"syslog.facility":0}}"#),
    (b"<1>Oct 11", r#"{"severity":19,"body":"Oct 11","attributes":{"syslog.facility":0}}"#),
    (b"<1>Oct", r#"{"severity":19,"body":"Oct","attributes":{"syslog.facility":0}}"#),
    (b"<1>: x", r#"{"severity":19,"body":": x","attributes":{"syslog.facility":0}}"#),
    (b"<1>[7]: x", r#"{"severity":19,"body":"[7]: x","attributes":{"syslog.facility":0}}"#),
    (b"<1>a\xff\xfeb", "{\"severity\":19,\"body\":\"a\u{fffd}\u{fffd}b\",\"attributes\":{\"syslog.facility\":0,\"syslog.invalid_utf8\":true}}"),
    (b"<1>\xf0\x9f\x98", "{\"severity\":19,\"body\":\"\u{fffd}\",\"attributes\":{\"syslog.facility\":0,\"syslog.invalid_utf8\":true}}"),
    (b"\xff", "{\"body\":\"\u{fffd}\",\"attributes\":{\"syslog.malformed\":true,\"syslog.invalid_utf8\":true}}"),
    (b"<1>a\0b\x07", "{\"severity\":19,\"body\":\"a\\u0000b\\u0007\",\"attributes\":{\"syslog.facility\":0}}"),
];

#[test]
fn what_is_neither_form_is_kept_as_a_body() {
    assert!(BAD.len() >= 40, "{}", BAD.len());
    for (bytes, expected) in BAD {
        let expected: Value = serde_json::from_str(expected).expect(expected);
        assert_eq!(of(bytes), expected, "{}", bytes.escape_ascii());
    }
}

/// The messages of a stream that arrives in these pieces; `true`: it was cut.
fn messages<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Vec<u8>, bool)> {
    let (mut framer, mut kept, mut found) = (Framer::default(), Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut used = 0;
        while let Some(step) = framer.next(&kept[used..]) {
            assert!(step.consumed > 0 && used + step.consumed <= kept.len());
            used += step.consumed;
            found.extend(step.message.map(|message| (message.bytes.to_vec(), message.truncated)));
        }
        kept.drain(..used);
        assert!(kept.len() <= SYSLOG_MESSAGE_BYTES_MAX + 16, "no more is kept than a message");
    }
    found.extend(framer.end(&kept).map(|message| (message.bytes.to_vec(), message.truncated)));
    found
}

/// The same whole, byte by byte, and split at every place.
#[track_caller]
fn assert_messages(stream: &[u8], expected: &[(&[u8], bool)]) {
    let expected: Vec<_> = expected.iter().map(|(bytes, truncated)| (bytes.to_vec(), *truncated)).collect();
    assert_eq!(messages([stream]), expected, "{}", stream.escape_ascii());
    assert_eq!(messages(stream.chunks(1)), expected, "byte by byte: {}", stream.escape_ascii());
    for at in 0..stream.len() {
        let (before, after) = stream.split_at(at);
        assert_eq!(messages([before, after]), expected, "split at {at}: {}", stream.escape_ascii());
    }
}

#[test]
fn a_stream_is_taken_apart_by_counts_and_by_lines() {
    for (stream, expected) in [
        (&b""[..], &[][..]),
        (b"\n\r\n\0\n", &[]),
        (b"<1>a\n", &[(&b"<1>a"[..], false)]),
        (b"<1>a", &[(b"<1>a", false)]),
        (b"<1>a\n\n<2>b\r\n", &[(b"<1>a", false), (b"<2>b\r", false)]),
        (b"4 <1>a", &[(b"<1>a", false)]),
        (b"4 <1>a4 <2>b", &[(b"<1>a", false), (b"<2>b", false)]),
        (b"5 <1>a\n5 <2>b\n", &[(b"<1>a\n", false), (b"<2>b\n", false)]),
        (b"4 <1>a\n4 <2>b\n", &[(b"<1>a", false), (b"<2>b", false)]),
        (b"6 <1>a\nb<2>c\n4 <3>d", &[(b"<1>a\nb", false), (b"<2>c", false), (b"<3>d", false)]),
        // As Python's SysLogHandler ends them (RFC 6587, section 3.4.2). With a count, NUL is a part of the message.
        (b"<1>a\0<2>b\0", &[(b"<1>a", false), (b"<2>b", false)]),
        (b"<1>a\0\n<2>b\n\0<3>c", &[(b"<1>a", false), (b"<2>b", false), (b"<3>c", false)]),
        (b"6 <1>a\0b<2>c\0", &[(b"<1>a\0b", false), (b"<2>c", false)]),
        (b"12 <1>abcdefghi<2>x", &[(b"<1>abcdefghi", false), (b"<2>x", false)]),
        // Incomplete at the end of the stream.
        (b"9 <1>a", &[(b"<1>a", true)]),
        (b"9 ", &[(b"9 ", false)]),
        (b"9", &[(b"9", false)]),
        // Not counts: lines.
        (b"2026-11-27T12:00:00Z h a: x\n", &[(b"2026-11-27T12:00:00Z h a: x", false)]),
        (b"27 Nov 2026\n<1>a\n", &[(b"27 Nov 2026", false), (b"<1>a", false)]),
        (b"04 <1>a\n", &[(b"04 <1>a", false)]),
        (b"4  <1>a\n", &[(b"4  <1>a", false)]),
        (b"4<1>a\n", &[(b"4<1>a", false)]),
        (b"99999999 <1>a\n", &[(b"99999999 <1>a", false)]),
        (b"999999999999999999999999 <1>a\n", &[(b"999999999999999999999999 <1>a", false)]),
        (b"hello\n<1>a\n", &[(b"hello", false), (b"<1>a", false)]),
        (b"3 <1>a\n", &[(b"<1>", false), (b"a", false)]),
        (b"1 <1>a\n", &[(b"<", false), (b"1>a", false)]),
    ] {
        assert_messages(stream, expected);
    }
}

/// What is neither form arrives as it was sent, in any pieces, and the next message is whole: by lines and by counts.
#[test]
fn bad_messages_are_taken_out_of_a_stream_in_any_pieces() {
    for (bytes, _) in BAD {
        let next = (&b"<2>next"[..], false);
        // The `5` would be the digits of a count, were there a space and `<` after it. NUL ends a message.
        let parts = bytes.split(|byte| *byte == 0).map(|part| (part, false));
        let expected: Vec<_> = parts.chain([next]).collect();
        assert_messages(&[bytes, &b"\n<2>next\n"[..]].concat(), &expected);
        if bytes.first() == Some(&b'<') {
            let counted = [format!("{} ", bytes.len()).as_bytes(), bytes, b"7 <2>next"].concat();
            assert_messages(&counted, &[(bytes, false), next]);
        }
    }
}

#[test]
fn a_message_that_is_too_long_is_cut_and_the_next_one_is_whole() {
    let max = SYSLOG_MESSAGE_BYTES_MAX;
    let long = [b"<1>".as_slice(), &vec![b'x'; max]].concat();
    let cut = long[..max].to_vec();
    let fits = long[..max].to_vec();
    for (stream, expected) in [
        ([&long[..], b"\n<2>b\n"].concat(), vec![(cut.clone(), true), (b"<2>b".to_vec(), false)]),
        ([&long[..], b"x\0<2>b\0"].concat(), vec![(cut.clone(), true), (b"<2>b".to_vec(), false)]),
        ([&fits[..], b"\n<2>b\n"].concat(), vec![(fits.clone(), false), (b"<2>b".to_vec(), false)]),
        (
            [format!("{} ", long.len()).as_bytes(), &long, b"4 <2>b"].concat(),
            vec![(cut.clone(), true), (b"<2>b".to_vec(), false)],
        ),
        (
            [format!("{max} ").as_bytes(), &fits, b"4 <2>b"].concat(),
            vec![(fits.clone(), false), (b"<2>b".to_vec(), false)],
        ),
        (long.clone(), vec![(cut.clone(), true)]),
    ] {
        assert_eq!(messages([&stream[..]]), expected);
        for size in [1_000, 4_096, 65_537] {
            assert_eq!(messages(stream.chunks(size)), expected, "in pieces of {size}");
        }
        for at in [1, 5, 6, 7, max - 1, max, max + 1, max + 6, max + 7, max + 8, max + 9]
            .into_iter()
            .filter(|at| *at < stream.len())
        {
            assert_eq!(messages([&stream[..at], &stream[at..]]), expected, "split at {at}");
        }
    }
    let eight_kib = format!("<1>{}", "y".repeat(8 * 1024));
    assert_eq!(of(eight_kib.as_bytes())["body"].as_str().map(str::len), Some(8 * 1024));
    const { assert!(SYSLOG_COUNT_BYTES_MAX > SYSLOG_MESSAGE_BYTES_MAX) };
}

#[test]
fn what_is_cut_ends_with_a_whole_character_and_is_marked() {
    for character in ["é", "€", "😀"] {
        for before in 1..character.len() {
            let text = format!("<1>{}{character}", "x".repeat(SYSLOG_MESSAGE_BYTES_MAX - 3 - before));
            let event = of(text.as_bytes());
            assert_eq!(event["body"].as_str().map(str::len), Some(SYSLOG_MESSAGE_BYTES_MAX - 3 - before));
            assert_eq!(event["attributes"], json!({"syslog.facility":0,"truncated":true}), "{character}");
        }
    }
    // U+FFFD takes three bytes.
    let event = of(&[b"<1>".as_slice(), &vec![0xFF; SYSLOG_MESSAGE_BYTES_MAX]].concat());
    assert!(event["body"].as_str().unwrap().len() <= SYSLOG_MESSAGE_BYTES_MAX);
    assert_eq!(event["attributes"], json!({"syslog.facility":0,"syslog.invalid_utf8":true,"truncated":true}));
}

#[test]
fn a_source_that_is_cut_is_marked() {
    let long = "a".repeat(EVENT_NAME_BYTES_MAX);
    for (app, is_cut) in [(long.clone(), false), (format!("{long}b"), true)] {
        let event = of(format!("<1>1 - h {app} - - - x").as_bytes());
        assert_eq!(event["source"], json!(long));
        assert_eq!(event["attributes"].get("truncated"), is_cut.then_some(&json!(true)));
    }
    // A host is an attribute as well: nothing is missing.
    let event = of(format!("<1>1 - {long}b - - - - x").as_bytes());
    assert_eq!((&event["source"], event["attributes"].get("truncated")), (&json!(long), None));
}

#[test]
fn parameters_without_room_are_counted() {
    let many: String = (0..105).map(|index| format!(" p{index}=\"v\"")).collect();
    let event = of(format!("<1>1 - - - - - [id{many}] x").as_bytes());
    let attributes = event["attributes"].as_object().unwrap();
    assert_eq!(attributes.keys().filter(|key| key.starts_with("sd.")).count(), SYSLOG_PARAMETERS_MAX);
    assert_eq!((&attributes["syslog.dropped_parameters"], &attributes["truncated"]), (&json!(5), &json!(true)));
    let event = of(format!("<1>1 - - - - - [{} a=\"b\"] x", "i".repeat(200)).as_bytes());
    assert_eq!(event["attributes"], json!({"syslog.facility":0,"syslog.dropped_parameters":1,"truncated":true}));
    // The most that a message can become.
    let long: String =
        (0..200).map(|index| format!(" {}{index:03}=\"{}\"", "n".repeat(110), "é".repeat(150))).collect();
    of(format!(
        "<191>1 2026-01-01T00:00:00Z {} {} {} {} [i{long}] x",
        "h".repeat(999),
        "a".repeat(999),
        "p".repeat(999),
        "m".repeat(999)
    )
    .as_bytes());
}

#[test]
fn a_message_can_be_cut_where_it_is() {
    for (bytes, rest, expected) in
        [(&b"<1>abc"[..], &b"def\n<2>b\n"[..], &b"<1>abc"[..]), (b"9 <1>abc", b"def<2>b\n", b"<1>abc")]
    {
        let mut framer = Framer::default();
        assert_eq!(framer.next(bytes), None);
        assert_eq!(framer.cut(bytes), Some(Message { bytes: expected, truncated: true }));
        let mut used = 0;
        let mut found = Vec::new();
        while let Some(step) = framer.next(&rest[used..]) {
            used += step.consumed;
            found.extend(step.message.map(|message| message.bytes.to_vec()));
        }
        assert_eq!(found, [b"<2>b"]);
    }
}

#[test]
fn the_examples_of_the_page_are_what_the_code_does() {
    let page = include_str!("../../../docs/syslog.md");
    let (_, rest) = page.split_once("```syslog\n").expect("the examples");
    let lines: Vec<_> = rest.lines().take_while(|line| !line.starts_with("```")).collect();
    assert!(lines.len() >= 8);
    for example in lines.chunks(2) {
        let [message, expected] = example else { panic!("{example:?}") };
        let mut expected: Value = serde_json::from_str(expected.trim()).expect(expected);
        let fields = expected.as_object_mut().unwrap();
        assert_eq!((fields.remove("kind"), fields.remove("name")), (Some(json!("log")), Some(json!("syslog"))));
        assert_eq!(of(message.as_bytes()), expected, "{message}");
    }
}

proptest::proptest! {
    #[test]
    fn every_message_becomes_a_valid_event(bytes: Vec<u8>, truncated: bool, now: u64) {
        event(Message { bytes: &bytes, truncated }, now);
    }

    #[test]
    fn a_stream_does_not_depend_on_its_pieces(
        bytes in "([<>1-9 a\n]|12 <|<34>|\r\n){0,40}",
        at in 0usize..200,
    ) {
        let whole = messages([bytes.as_bytes()]);
        let at = at.min(bytes.len());
        assert_eq!(messages([&bytes.as_bytes()[..at], &bytes.as_bytes()[at..]]), whole);
        assert_eq!(messages(bytes.as_bytes().chunks(1)), whole);
    }

    #[test]
    fn damaged_messages_become_valid_events(
        text in r#"<[0-9]{1,3}>(1 )?(-|2026-11-27T12:00:00Z|Nov 27 12:00:00) (h|-) (a|-|b\[7\]:) - - (\[a b="c"\]|-|\[x) ?.{0,20}"#,
    ) {
        of(text.as_bytes());
    }
}
