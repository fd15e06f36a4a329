//! The rules of `deny.toml` that need no list of advisories: licences, banned crates, second versions.
#![cfg(feature = "server")] // links toml

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use toml::Table;

/// A crate that the product links or builds with.
struct Crate {
    name: String,
    version: String,
    licence: String,
}

fn rules() -> Table {
    include_str!("../../deny.toml").parse().expect("deny.toml is valid TOML")
}

fn texts(rules: &Table, section: &str, key: &str) -> Vec<String> {
    let rules = rules[section][key].as_array().unwrap().iter();
    rules.map(|rule| rule.get("crate").unwrap_or(rule).as_str().unwrap().to_owned()).collect()
}

fn crates() -> Vec<Crate> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{l}", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let parse = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let (name, rest) = package.split_once(" v")?;
        let version = rest.split(' ').next()?;
        let licence = licence.trim_end_matches(" (*)");
        Some(Crate { name: name.to_owned(), version: version.to_owned(), licence: licence.to_owned() })
    };
    text.lines().filter_map(parse).collect()
}

/// Whether an SPDX expression can be satisfied with the allowed licences. `/` is how older crates write OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    !words.is_empty() && any_of(&mut words.as_slice(), allowed)
}

fn any_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut is_allowed = all_of(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        is_allowed |= all_of(words, allowed);
    }
    is_allowed
}

fn all_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut is_allowed = one_of(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        is_allowed &= one_of(words, allowed);
    }
    is_allowed
}

fn one_of(words: &mut &[&str], allowed: &[String]) -> bool {
    let [word, rest @ ..] = *words else { return false };
    *words = rest;
    if *word == "(" {
        let is_allowed = any_of(words, allowed);
        *words = words.strip_prefix(&[")"]).unwrap_or(words);
        return is_allowed;
    }
    let ["WITH", exception, rest @ ..] = *words else { return allowed.iter().any(|licence| licence == word) };
    *words = rest;
    allowed.contains(&format!("{word} WITH {exception}"))
}

#[test]
fn expressions_of_licences_are_read() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND LGPL-2.1", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("MIT WITH some-exception", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn every_licence_is_allowed_and_every_allowed_one_is_used() {
    let (rules, crates) = (rules(), crates());
    let allowed = texts(&rules, "licenses", "allow");
    for Crate { name, version, licence } in &crates {
        assert!(
            is_allowed(licence, &allowed),
            "{name} {version} has licence {licence}, which deny.toml does not allow"
        );
    }
    for licence in allowed {
        assert!(crates.iter().any(|found| found.licence.contains(&licence)), "no crate has licence {licence}");
    }
}

#[test]
fn no_banned_crate_is_linked() {
    let banned: BTreeSet<String> = texts(&rules(), "bans", "deny").into_iter().collect();
    let found: Vec<String> =
        crates().into_iter().map(|found| found.name).filter(|name| banned.contains(name)).collect();
    assert!(found.is_empty(), "deny.toml bans {found:?} and names the replacement");
}

#[test]
fn second_versions_are_the_known_ones() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Crate { name, version, .. } in crates() {
        versions.entry(name).or_default().insert(version);
    }
    let skipped = texts(&rules(), "bans", "skip");
    for rule in &skipped {
        let (name, version) = rule.split_once('@').unwrap();
        let versions = versions.get_mut(name).unwrap_or_else(|| panic!("{rule} is not used: remove it"));
        let count = versions.len();
        versions.retain(|found| !found.starts_with(&format!("{version}.")));
        assert!(count > 1 && versions.len() < count, "there is no second version {rule}: remove it");
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(versions.is_empty(), "deny.toml does not know these second versions: {versions:?}");
}
