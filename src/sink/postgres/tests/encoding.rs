//! Databases of other encodings than UTF8: every event is stored, or refused alone with a reason; no value stops the
//! sink.

use std::collections::BTreeMap;

use super::*;
use crate::event::proto::{Attribute, Event, attribute};
use crate::sink::stores;
use crate::sink::testing::{Store as _, batch_of, delivery_of, identity, named, without};

/// Every value with the encodings that can hold it, beside UTF8 and SQL_ASCII, which take all.
const VALUES: [(&str, &[&str]); 16] = [
    ("plain", &["LATIN1", "WIN1252", "EUC_JP"]),
    ("\u{1} \u{1f} \t \n \u{7f} \\u0000 \\ufffd \" '", &["LATIN1", "WIN1252", "EUC_JP"]),
    ("a\0", &[]),
    ("\0\0b\0", &[]),
    ("\u{FFFD}", &[]),
    ("é ÿ", &["LATIN1", "WIN1252", "EUC_JP"]),
    ("€", &["WIN1252"]),
    ("\u{80}", &["LATIN1"]),
    ("\u{81}\u{8d}\u{9d}", &["LATIN1"]),
    ("\u{a0}", &["LATIN1", "WIN1252"]),
    ("日本語 テスト", &["EUC_JP"]),
    ("Ω Я", &["EUC_JP"]),
    ("👩‍👩‍👧", &[]),
    ("שלום", &[]),
    ("\u{FEFF}\u{2028}", &[]),
    ("\u{10FFFF}", &[]),
];

/// One event for each value and place in an event.
fn events() -> Vec<(Event, &'static str, &'static [&'static str])> {
    let mut events = Vec::new();
    for (value, encodings) in VALUES {
        let text = value.to_owned();
        let string = |key: &str, value: &str| Attribute {
            key: key.into(),
            value: Some(attribute::Value::StringValue(value.into())),
        };
        for event in [
            Event { body: text.clone(), ..named("e") },
            Event { name: text.clone(), ..Event::default() },
            Event { source: text.clone(), ..named("e") },
            Event { attributes: vec![string("x", value)], ..named("e") },
            Event { attributes: vec![string(value, "x")], ..named("e") },
        ] {
            events.push((event, value, encodings));
        }
        // A neighbour of each.
        events.push((named("sound"), "sound", &["LATIN1", "WIN1252", "EUC_JP"]));
    }
    events
}

fn database(encoding: &str) -> Database {
    let server = stores::Postgres::shared();
    let name = format!("{}_{}", server.database(), encoding.to_lowercase());
    let create = format!("CREATE DATABASE {name} ENCODING {encoding} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    server.psql("postgres", &create).unwrap();
    Database::named(server, name)
}

#[test]
fn every_value_is_stored_or_refused_alone_in_every_encoding() {
    for encoding in ["UTF8", "SQL_ASCII", "LATIN1", "WIN1252", "EUC_JP"] {
        let database = database(encoding);
        let mut sink = database.postgres(1);
        sink.connect().unwrap();
        let events = events();
        let takes = |encodings: &[&str]| matches!(encoding, "UTF8" | "SQL_ASCII") || encodings.contains(&encoding);
        let batch = batch_of(1, vec![events.iter().map(|(event, ..)| event.clone()).collect()]);
        let delivery = delivery_of(batch);
        let mut refused = Vec::new();
        match sink.deliver(&delivery) {
            Ok(()) => {}
            Err(Failure::Refused(refusals)) => {
                for refusal in &refusals {
                    assert_eq!(refusal.code, "22P05", "{encoding}: {refusal:?}");
                    assert!(
                        refusal.reason.contains(&format!("no equivalent in encoding \"{encoding}\"")),
                        "{refusal:?}"
                    );
                }
                refused = refusals.into_iter().map(|refusal| refusal.position).collect();
                assert_eq!(sink.deliver(&without(&delivery, &refused)), Ok(()), "{encoding}");
            }
            other => panic!("{encoding}: {other:?}"),
        }
        let expected: Vec<u64> =
            (1..).zip(&events).filter(|(_, (.., encodings))| !takes(encodings)).map(|(position, _)| position).collect();
        assert_eq!(refused, expected, "{encoding}");
        let stored: BTreeMap<u64, _> =
            database.stored().unwrap().into_iter().map(|row| (row["position"].as_u64().unwrap(), row)).collect();
        for (position, (event, value, _)) in (1..).zip(&events).filter(|(position, _)| !expected.contains(position)) {
            let row = stored.get(&position).unwrap_or_else(|| panic!("{encoding}: {value:?} is not stored"));
            let value = value.replace('\0', "\u{FFFD}");
            let found = match event {
                Event { attributes, .. } if !attributes.is_empty() => {
                    let (key, text) = row["attributes"].as_object().unwrap().iter().next().unwrap();
                    if key == "x" { text.as_str().unwrap() } else { key }
                }
                Event { body, .. } if !body.is_empty() => row["body"].as_str().unwrap(),
                Event { source, .. } if !source.is_empty() => row["source"].as_str().unwrap(),
                _ => row["name"].as_str().unwrap(),
            };
            assert_eq!(found, value, "{encoding}");
        }
    }
}

#[test]
fn what_was_refused_is_replayed_into_a_database_that_can_hold_it() {
    let database = database("LATIN1");
    let mut sink = database.postgres(1);
    sink.connect().unwrap();
    let delivery = delivery_of(batch_of(1, vec![vec![named("e1"), named("語"), named("a\0")]]));
    assert!(matches!(sink.replay(&delivery), Err(Failure::Refused(refusals)) if refusals.len() == 2));
    assert_eq!(sink.replay(&without(&delivery, &[2, 3])), Ok(()));
    let wide = Database::named(database.server, database.server.database());
    let mut sink = Postgres::new("main", &wide.settings().valid(), &identity(1));
    sink.connect().unwrap();
    assert_eq!(sink.replay(&delivery), Ok(()));
}
