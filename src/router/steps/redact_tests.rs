use proptest::prelude::*;
use prost::Message;
use regex::Regex;
use tempfile::TempDir;

use super::redact_fuzz::redaction;
use super::{MASK, Redact, Step};
use crate::batch::Delivery;
use crate::event::proto::attribute::Value;
use crate::event::proto::{Attribute, Event};
use crate::glob::Glob;
use crate::limits::REDACT_MATCHES_MAX;
use crate::settings::steps::redact::{load_keys, read_all};
use crate::sink::testing::{batch_of, named};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The step with these rules, in which `KEY` stands for a file with a key.
fn redact(rules: &str) -> Redact {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let mut rules = read_all(&rules.replace("KEY", file.to_str().unwrap())).unwrap();
    load_keys(&mut rules).unwrap();
    Redact::new(&rules).unwrap()
}

fn with(body: &str, attributes: &[(&str, Value)]) -> Event {
    let attribute = |(key, value): &(&str, Value)| Attribute { key: (*key).to_owned(), value: Some(value.clone()) };
    Event { body: body.to_owned(), attributes: attributes.iter().map(attribute).collect(), ..named("e") }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn apply(step: &Redact, events: &[Event]) -> (Delivery, Vec<Event>) {
    let delivery = step.apply(Delivery::new([batch_of(1, vec![events.to_vec()])], 1..=events.len() as u64));
    let events = delivery.records().map(|record| Event::decode(record.event.bytes()).unwrap()).collect();
    (delivery, events)
}

fn one(rules: &str, event: Event) -> Event {
    apply(&redact(rules), &[event]).1.remove(0)
}

#[test]
fn attributes_are_removed_masked_or_hashed_by_their_keys() {
    let event = with("b", &[("password", text("x")), ("a.token", Value::IntValue(7)), ("other", text("y"))]);
    let keys = |event: &Event| event.attributes.iter().map(|attribute| attribute.key.clone()).collect::<Vec<_>>();
    let removed = one("[{ attributes = ['password', '*.token'], action = 'remove' }]", event.clone());
    assert_eq!((keys(&removed), removed.body.as_str()), (vec!["other".to_owned()], "b"));
    let masked = one("{ attributes = '*.token', action = 'mask' }", event.clone());
    assert_eq!(masked.attributes[1].value, Some(text(MASK)));
    assert_eq!((&masked.attributes[0], &masked.attributes[2]), (&event.attributes[0], &event.attributes[2]));
    // printf %s 7 | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    let hashed = one("{ attributes = '*.token', action = 'hash', key_file = 'KEY' }", event.clone());
    assert_eq!(hashed.attributes[1].value, Some(text("9657f4db0378a439d0a338d5b736d0ce")));
}

#[test]
fn a_hash_tells_values_apart_and_not_their_types() {
    let step = redact("{ attributes = '*', action = 'hash', key_file = 'KEY' }");
    let hash = |value| apply(&step, &[with("", &[("k", value)])]).1[0].attributes[0].value.clone();
    assert_eq!(hash(text("7")), hash(Value::IntValue(7)));
    assert_eq!(hash(text("true")), hash(Value::BoolValue(true)));
    assert_eq!(hash(text("ab")), hash(Value::BytesValue(b"ab".to_vec())));
    assert_ne!(hash(text("a")), hash(text("b")));
    assert_ne!(hash(Value::DoubleValue(1.5)), hash(Value::DoubleValue(2.5)));
}

#[test]
fn what_an_expression_matches_is_masked() {
    let cards = r"{ body = '\b\d{16}\b', action = 'mask' }";
    for (body, expected) in [
        ("card 4111111111111111 was used", "card *** was used"),
        ("4111111111111111", "***"),
        ("4111111111111111 4111111111111112", "*** ***"),
        ("41111111111111111", "41111111111111111"),
        ("ß4111111111111111", "ß4111111111111111"),
        ("nothing", "nothing"),
    ] {
        assert_eq!(one(cards, with(body, &[])).body, expected);
    }
    assert_eq!(one(r"{ body = '\d', action = 'mask' }", with("a12b3", &[])).body, "a***b***", "neighbours are one");
    let within = r"{ attributes = 'url.*', pattern = 'token=[^&]*', action = 'mask' }";
    let event = with("token=1", &[("url.full", text("/a?token=1&b=2")), ("url.n", Value::IntValue(1))]);
    let masked = one(within, event.clone());
    assert_eq!((masked.body.as_str(), &masked.attributes[0].value), ("token=1", &Some(text("/a?***&b=2"))));
    assert_eq!(masked.attributes[1], event.attributes[1]);
}

#[test]
fn rules_apply_one_after_the_other() {
    let rules = r"[
        { attributes = 'mail', pattern = '^[^@]+', action = 'mask' },
        { attributes = 'mail', action = 'hash', key_file = 'KEY' },
        { body = 'a+', action = 'mask' }, { body = '\*\*\*b', action = 'mask' },
    ]";
    let mail = |name: &str| one(rules, with("xaab", &[("mail", text(name))]));
    assert_eq!(mail("one@example.com"), mail("other@example.com"), "only the domain is hashed");
    assert_eq!(mail("x@y").body, "x***");
}

#[test]
fn an_event_that_nothing_matches_is_not_copied() {
    let step = redact(r"[{ attributes = 'secret', action = 'remove' }, { body = '\d', action = 'mask' }]");
    let events = vec![with("a", &[]), with("b", &[("other", text("1"))]), with("c1", &[]), with("d", &[])];
    let batch = batch_of(1, vec![events.clone()]);
    let payload = batch.runs()[0].payload.as_ptr_range();
    let shaped = step.apply(Delivery::new([batch], 1..=4));
    let copied = |record: crate::batch::Record<'_>| !payload.contains(&record.event.bytes().as_ptr());
    assert_eq!(shaped.records().map(copied).collect::<Vec<_>>(), [false, false, true, false]);
    assert_eq!(shaped.picks().map(|pick| pick.events()).collect::<Vec<_>>(), [2, 1, 1]);
}

#[test]
fn many_matches_mask_the_rest_so_that_time_is_linear() {
    let step = redact("{ body = '.*[^A-Z]|[A-Z]', action = 'mask' }");
    let body = "A".repeat(64 * 1024);
    assert_eq!(apply(&step, &[with(&body, &[])]).1[0].body, MASK);
    let step = redact("{ body = 'x', action = 'mask' }");
    let body = format!("{}rest", "x-".repeat(REDACT_MATCHES_MAX));
    let expected = "***-".repeat(REDACT_MATCHES_MAX);
    assert_eq!(apply(&step, &[with(&body, &[])]).1[0].body, expected.trim_end_matches('-'));
    let body = format!("{}rest", "x-".repeat(REDACT_MATCHES_MAX - 1));
    assert!(apply(&step, &[with(&body, &[])]).1[0].body.ends_with("-rest"));
}

#[test]
fn a_masked_text_stays_within_its_limit() {
    let body = "1ä".repeat(20_000);
    let step = redact(r"{ body = '\d', action = 'mask' }");
    let masked = &apply(&step, &[with(&body, &[])]).1[0].body;
    assert!(masked.len() <= crate::limits::EVENT_BODY_BYTES_MAX && !masked.contains('1'));
}

#[test]
fn rules_without_effect_are_refused_with_the_reason() {
    for (rules, problem) in [
        ("5", "expected a list of rules"),
        ("[1]", "rule 1: expected a table"),
        ("[{}]", "rule 1: action is missing"),
        ("{ action = 'remove' }", "rule 1: names neither attributes nor body"),
        ("{ attributes = 'a', action = 'delete' }", "rule 1: action: expected \"remove\", \"hash\" or \"mask\""),
        ("{ attribute = 'a', action = 'remove' }", "rule 1: unknown key `attribute`: did you mean `attributes`?"),
        ("{ attributes = [], action = 'remove' }", "rule 1: attributes: an empty list"),
        ("{ attributes = '', action = 'remove' }", "rule 1: attributes: an empty pattern can never match"),
        (&format!("{{ attributes = '{}', action = 'mask' }}", "k".repeat(129)), "rule 1: attributes: a pattern of 129"),
        ("{ attributes = 'a', action = 'hash' }", "rule 1: key_file is missing"),
        ("{ attributes = 'a', action = 'mask', key_file = 'x' }", "rule 1: key_file: has no effect"),
        ("{ attributes = 'a', action = 'remove', pattern = 'x' }", "rule 1: pattern: has no effect"),
        ("{ body = 'x', action = 'remove' }", "rule 1: action: \"remove\" is for attributes"),
        ("{ body = 'x', attributes = 'a', action = 'mask' }", "rule 1: attributes and body: give each a rule"),
        ("{ body = 'x', pattern = 'a', action = 'mask' }", "rule 1: pattern: is for attributes"),
        ("{ body = '(', action = 'mask' }", "rule 1: body: not a regular expression: unclosed group"),
        ("{ body = 'x*', action = 'mask' }", "rule 1: body: matches the empty text"),
        ("{ body = '(\\w{500}){500}', action = 'mask' }", "rule 1: body: the expression is too large"),
        ("[{ body = 'x', action = 'mask' }, { body = '', action = 'mask' }]", "rule 2: body: expected a regular"),
    ] {
        let why = read_all(&rules.replace("{500}", "{900}")).unwrap_err();
        assert!(why.starts_with(problem) && !why.contains('\n'), "{rules}\n{why}");
    }
    assert_eq!(read_all(" ").unwrap(), []);
}

#[test]
fn a_key_is_read_from_its_file_and_never_shown() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("key");
    let mut rules = read_all(&format!("{{ attributes = 'a', action = 'hash', key_file = {file:?} }}")).unwrap();
    assert!(load_keys(&mut rules).unwrap_err().contains("cannot be read"));
    std::fs::write(&file, "short\n").unwrap();
    let why = load_keys(&mut rules).unwrap_err();
    assert!(why.contains("a key of 5 bytes: at least 16") && !why.contains("short"), "{why}");
    // Without the key, nothing of the value is left.
    let step = Redact::new(&rules).unwrap();
    assert_eq!(apply(&step, &[with("", &[("a", text("x"))])]).1[0].attributes, []);
    std::fs::write(&file, KEY).unwrap();
    load_keys(&mut rules).unwrap();
    assert!(!format!("{rules:?}").contains(KEY));
}

#[test]
fn settings_of_any_text_are_an_error_or_rules() {
    for text in [
        "{ body = '\\d+', action = 'mask' }\n12 a 3",
        "{ attributes = ['*'], action = 'remove' }\nkey value",
        "{ attributes = ['k*'], pattern = 'v', action = 'mask' }\nkey vvv",
        "{ body = '(?i)ß|[[:alpha:]]', action = 'mask' }\nSTRAßE",
        "[[[[\n",
        "{ body = '(?:a{1000}){1000}', action = 'mask' }",
    ] {
        redaction(text.as_bytes());
    }
}

/// On owned events, by definition: a byte is masked or not.
fn naive(event: &Event, globs: &[(Glob, &str)], body: Option<&Regex>) -> Event {
    let mut event = event.clone();
    for (glob, action) in globs {
        match *action {
            "remove" => event.attributes.retain(|attribute| !glob.matches(&attribute.key)),
            _ => {
                for attribute in event.attributes.iter_mut().filter(|attribute| glob.matches(&attribute.key)) {
                    attribute.value = Some(text(MASK));
                }
            }
        }
    }
    if let Some(regex) = body {
        let mut is_masked = vec![false; event.body.len()];
        regex.find_iter(&event.body).for_each(|found| is_masked[found.range()].fill(true));
        let mut masked = String::new();
        for (at, c) in event.body.char_indices() {
            match is_masked[at] {
                false => masked.push(c),
                true if at > 0 && is_masked[at - 1] => {}
                true => masked.push_str(MASK),
            }
        }
        event.body = masked;
    }
    event
}

proptest! {
    #[test]
    fn the_step_is_its_naive_twin_in_pieces_and_repeated(
        events in prop::collection::vec(("[ab12 ]{0,12}", prop::collection::vec(("[ab]{1,3}", "[ab1]{0,4}"), 0..4)), 1..20),
        rules in prop::collection::vec(("[ab*]{1,3}", any::<bool>()), 1..4),
        pattern in prop::option::of(prop::sample::select(vec![r"\d", "a+b?", r"\bb", "[ab]{2}", "1|2a"])),
        cut in 0_usize..20,
    ) {
        let events: Vec<Event> = events.into_iter().map(|(body, attributes)| {
            let attributes: Vec<_> = attributes.iter().map(|(key, value)| (key.as_str(), text(value))).collect();
            with(&body, &attributes)
        }).collect();
        let action = |remove: &bool| if *remove { "remove" } else { "mask" };
        let mut list: Vec<String> =
            rules.iter().map(|(glob, remove)| format!("{{ attributes = '{glob}', action = '{}' }}", action(remove))).collect();
        list.extend(pattern.map(|pattern| format!("{{ body = '{pattern}', action = 'mask' }}")));
        let step = redact(&format!("[{}]", list.join(",")));
        let globs: Vec<_> = rules.iter().map(|(glob, remove)| (Glob::new(glob).unwrap(), action(remove))).collect();
        let regex = pattern.map(|pattern| Regex::new(pattern).unwrap());
        let expected: Vec<Event> = events.iter().map(|event| naive(event, &globs, regex.as_ref())).collect();
        let (whole, found) = apply(&step, &events);
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(whole.records().map(|record| record.position).collect::<Vec<_>>(), (1..=events.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(apply(&step, &events).1, expected.clone(), "repeated");
        let cut = cut.min(events.len());
        let pieces = [&events[..cut], &events[cut..]];
        let joined: Vec<Event> =
            pieces.iter().filter(|piece| !piece.is_empty()).flat_map(|piece| apply(&step, piece).1).collect();
        prop_assert_eq!(joined, expected);
    }

    #[test]
    fn any_settings_are_an_error_or_rules(text in ".{0,60}", body in "\\PC{0,30}") {
        redaction(format!("{{ body = '{text}', action = 'mask' }}\n{body}").as_bytes());
        redaction(format!("{text}\n{body}").as_bytes());
    }
}
