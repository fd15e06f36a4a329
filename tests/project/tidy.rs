//! What can be checked by reading the sources: their size, their layers, who may use what, and words.
//!
//! Every rule is a function from a text to what is wrong with it, and has a test that breaks it on purpose. What breaks a rule
//! today is listed beside it as an exception; an exception that is no longer needed fails too, so that the lists only shrink.
//! (Text of peers in log lines has a test of its own, `log_fields`.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a function, from its first to its last: it fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;
const LONG_FUNCTIONS: &[&str] = &[];

/// Lines of a file without blank lines, comments and tests.
const FILE_LINES_MAX: usize = 600;
const LONG_FILES: &[&str] = &[];

/// The only module with `unsafe`, and what names it.
const UNSAFE: &[&str] = &["batch/pool.rs"];

/// Below this line of ARCHITECTURE.md are the modules of `src`, from the top down: one imports only from those below it. A new
/// module gets its place there.
const LAYERS_BEGIN: &str = "<!-- layers -->";
/// Imports that run upwards.
const UPWARDS: &[&str] = &[];

/// Modules that reach files only through `wal::Storage`, and the two files that implement it.
const WITHOUT_FILES: &[&str] = &["net", "http", "session", "pipeline", "wal", "batch", "event", "wire"];
const STORAGE: &[&str] = &["wal/direct.rs", "wal/storage.rs"];

/// Where prometheus is used outside of `metrics`.
const PROMETHEUS: &[&str] = &[];

/// Words for which there is a plain one, in every text that people read.
const WORDS: &[(&str, &str)] = &[
    ("door", "ingest, on receipt"),
    ("doors", "ingest, on receipt"),
    ("stranger", "unauthenticated connection"),
    ("strangers", "unauthenticated connections"),
    ("torn", "partial"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("doubles", "duplicates"),
    ("doubled", "stored twice"),
];
/// Files whose strings or prose still have some, and how many at the most.
const FILES_WITH_WORDS: &[(&str, usize)] = &[
    ("src/config/layers.rs", 1),   // a reserved name
    ("src/router/dead/mod.rs", 1), // the earlier name of a file
];

/// The modules of `src`, from the top down.
fn layers() -> Vec<String> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split(LAYERS_BEGIN).nth(1).unwrap().trim_start().split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    let layers: Vec<_> = rows.map(str::to_owned).collect();
    assert!(layers.len() > 10, "the table of layers in ARCHITECTURE.md was not found");
    layers
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` with this extension: their paths relative to `directory`, sorted, and their text.
fn files(directory: &str, extension: &str) -> Vec<(String, String)> {
    fn collect(directory: &Path, extension: &str, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, extension, into);
            } else if path.extension().is_some_and(|found| found == extension) {
                into.push(path);
            }
        }
    }
    let directory = root().join(directory);
    let mut paths = Vec::new();
    collect(&directory, extension, &mut paths);
    paths.sort_unstable();
    let named = |path: PathBuf| {
        let name = path.strip_prefix(&directory).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(named).collect()
}

/// Rust code with its comments, and what is between the quotes of its strings, replaced by spaces; and these strings.
fn split(text: &str) -> (String, Vec<String>) {
    let bytes = text.as_bytes();
    let (mut code, mut strings, mut at) = (bytes.to_vec(), Vec::new(), 0);
    while at < bytes.len() {
        let (content, end) = match &bytes[at..] {
            [b'/', b'/', ..] => {
                (at, at + bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at))
            }
            [b'/', b'*', ..] => (at, text[at..].find("*/").map_or(bytes.len(), |length| at + length + 2)),
            [b'r', b'"' | b'#', ..]
                if !at.checked_sub(1).is_some_and(|before| is_word(bytes[before]) && bytes[before] != b'b') =>
            {
                let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
                if bytes.get(at + 1 + hashes) != Some(&b'"') {
                    at += 1;
                    continue;
                }
                let begin = at + 2 + hashes;
                let close = format!("\"{}", "#".repeat(hashes));
                let end = text[begin..].find(&close).map_or(bytes.len(), |length| begin + length);
                strings.push(text[begin..end].to_owned());
                at = end + close.len();
                code[begin..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                continue;
            }
            [b'"', ..] => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                strings.push(text[at + 1..end.min(bytes.len())].to_owned());
                (at + 1, end)
            }
            // A character, not a lifetime.
            [b'\'', b'\\', _, b'\'', ..] => (at + 1, at + 3),
            [b'\'', b'\\', ..] => (at + 1, at + 2 + text[at + 2..].find('\'').unwrap_or(0)),
            [b'\'', ..] if text[at + 1..].chars().nth(1) == Some('\'') => {
                (at + 1, at + 1 + char_bytes(&text[at + 1..]))
            }
            _ => {
                at += 1;
                continue;
            }
        };
        code[content..end.min(bytes.len())].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        // Behind the closing quote, or at the end of a comment.
        at = if content == at { end } else { end + 1 };
    }
    (String::from_utf8_lossy(&code).into_owned(), strings)
}

fn char_bytes(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `text`, not as a part of another word.
fn places<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).map(|before| text.as_bytes()[before]);
        let after = text.as_bytes().get(at + word.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The end of the block that begins with the first `{` from `at` on; `None`: a `;` comes first.
fn block_end(code: &str, at: usize) -> Option<usize> {
    let (mut depth, mut brackets) = (0, 0);
    for (offset, byte) in code.as_bytes()[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b';' if depth == 0 && brackets == 0 => return None,
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at + offset + 1),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Code without its modules of tests.
fn without_tests(code: &str) -> String {
    let mut left = code.to_owned();
    while let Some(begin) = left.find("#[cfg(test)]\nmod ").or_else(|| left.find("#[cfg(all(test,")) {
        let end = block_end(&left, begin + 12).unwrap_or(begin + 12);
        left.replace_range(begin..end, "");
    }
    left
}

fn is_test_file(name: &str) -> bool {
    name.split('/')
        .any(|part| part.contains("tests") || part.starts_with("testing") || part == "script.rs" || part == "fuzz.rs")
}

/// `name function`, of functions that are too long.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let (code, _) = split(text);
    let mut found = Vec::new();
    for at in places(&code, "fn") {
        let function: String =
            code[at + 2..].trim_start().bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
        let Some(end) = block_end(&code, at).filter(|_| !function.is_empty()) else { continue };
        if code[at..end].lines().count() > FUNCTION_LINES_MAX {
            found.push(format!("{name} {function}"));
        }
    }
    found
}

fn long_file(name: &str, text: &str) -> Option<String> {
    let code = without_tests(&split(text).0);
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    (lines > FILE_LINES_MAX && !is_test_file(name)).then(|| name.to_owned())
}

fn uses(name: &str, text: &str, word: &str) -> Option<String> {
    let code = without_tests(&split(text).0);
    places(&code, word).next().map(|_| name.to_owned())
}

/// The first word, or those of a group: `a`, `b` of `{a::{c, d}, b}`.
fn first_words(path: &str) -> Vec<String> {
    let word = |text: &str| text.bytes().take_while(|byte| is_word(*byte)).map(char::from).collect::<String>();
    if !path.starts_with('{') {
        return vec![word(path)];
    }
    let (mut words, mut depth) = (Vec::new(), 0);
    for (at, sign) in path.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(sign, '{' | ',') {
            words.push(word(path[at + 1..].trim_start()));
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// `from to`, of what a file imports from modules above its own. Panics at a module that has no place.
fn upwards(name: &str, text: &str) -> BTreeSet<String> {
    let layers = layers();
    let place = |module: &str| {
        let place = layers.iter().position(|layer| layer == module);
        place
            .unwrap_or_else(|| panic!("module `{module}`, in {name}, has no place among the layers of ARCHITECTURE.md"))
    };
    let own = name.split(['/', '.']).next().unwrap();
    if is_test_file(name) || own == "main" || own == "lib" {
        return BTreeSet::new();
    }
    let code = without_tests(&split(text).0);
    let modules = code.split("crate::").skip(1).flat_map(first_words);
    modules.filter(|module| place(module) < place(own)).map(|module| format!("{own} {module}")).collect()
}

/// The words of a text that have a plainer one.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let found = WORDS.iter().flat_map(|(word, plain)| places(&lower, word).map(move |_| format!("{word} ({plain})")));
    found.collect()
}

fn words_in_strings(name: &str, text: &str) -> Vec<String> {
    if is_test_file(name) {
        return Vec::new();
    }
    // A module of tests is the end of its file.
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    split(product).1.iter().flat_map(|string| words(string)).collect()
}

/// Fails if anything is found that is not listed, or if something is listed that is not found.
#[track_caller]
fn only_exceptions(what: &str, found: impl IntoIterator<Item = String>, exceptions: &[&str]) {
    let found: BTreeSet<String> = found.into_iter().collect();
    let listed: BTreeSet<String> = exceptions.iter().map(|exception| (*exception).to_owned()).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(new.is_empty(), "{what}: {new:#?}");
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(
        stale.is_empty(),
        "not needed any more as exceptions from \"{what}\", remove them from tests/project/tidy.rs: {stale:#?}"
    );
}

#[test]
fn functions_fit_on_a_screen() {
    let found = files("src", "rs").into_iter().flat_map(|(name, text)| long_functions(&name, &text));
    only_exceptions("functions of more than 70 lines, split them", found, LONG_FUNCTIONS);
    let body = |lines: usize| {
        format!("impl A {{\n    pub fn long(&self) -> [u8; 2] {{\n{}    }}\n}}\n", "        a(\"{\");\n".repeat(lines))
    };
    assert!(long_functions("x.rs", &body(68)).is_empty());
    assert_eq!(long_functions("x.rs", &body(69)), ["x.rs long"]);
}

#[test]
fn files_are_not_too_long() {
    let found = files("src", "rs").into_iter().filter_map(|(name, text)| long_file(&name, &text));
    only_exceptions("files of more than 600 lines of code, split them", found, LONG_FILES);
    let long = "call();\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(long_file("x.rs", &long).as_deref(), Some("x.rs"));
    assert_eq!(
        long_file("x.rs", &format!("one();\n// {}\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n", "x".repeat(9))),
        None
    );
    assert_eq!(long_file("x/tests/y.rs", &long), None);
}

#[test]
fn unsafe_is_where_it_is_allowed() {
    let found = files("src", "rs").into_iter().filter_map(|(name, text)| uses(&name, &text, "unsafe"));
    only_exceptions("files with `unsafe`", found, UNSAFE);
    assert!(uses("x.rs", "fn a() { unsafe { b() } }", "unsafe").is_some());
    assert!(uses("x.rs", "#![allow(unsafe_code)] // unsafe\nfn a() { \"unsafe\" }", "unsafe").is_none());
}

/// Crates of tests that consist of several files. The other files in `tests` are crates of their own.
const TEST_CRATES: [&str; 3] = ["events", "project", "system"];

/// Files beside `main.rs` that it does not name: cargo compiles them for nobody.
fn without_module(main: &str, files: &[&str]) -> Vec<String> {
    let is_named = |name: &&str| main.lines().any(|line| line.strip_prefix("mod ") == Some(&format!("{name};")));
    files.iter().filter(|name| **name != "main" && !is_named(name)).map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_file_of_tests_is_compiled() {
    for name in TEST_CRATES {
        let sources = files(&format!("tests/{name}"), "rs");
        let main = &sources.iter().find(|(file, _)| file == "main.rs").unwrap().1;
        let names: BTreeSet<&str> = sources.iter().map(|(file, _)| file.split(['/', '.']).next().unwrap()).collect();
        let missing = without_module(main, &Vec::from_iter(names));
        assert!(missing.is_empty(), "tests/{name}/main.rs has no line `mod …;` for {missing:?}");
    }
    assert_eq!(without_module("mod a;\n#[cfg(x)]\nmod b;\n", &["a", "ab", "b", "main"]), ["ab"]);
}

#[test]
fn modules_import_from_below() {
    let sources = files("src", "rs");
    for layer in layers() {
        let exists = sources.iter().any(|(name, _)| name.split(['/', '.']).next() == Some(&layer));
        assert!(exists, "there is no module `{layer}`: remove it from the layers of ARCHITECTURE.md");
    }
    let found: Vec<_> = sources.iter().flat_map(|(name, text)| upwards(name, text)).collect();
    only_exceptions("imports from a module above", found, UPWARDS);
    let text =
        "use crate::net::Ingress;\nuse crate::limits;\n// crate::cli\n#[cfg(test)]\nmod tests { use crate::server; }\n";
    assert_eq!(upwards("wal/x.rs", text), BTreeSet::from(["wal net".to_owned()]));
    let group = "use crate::{limits::{A, B}, router::Router, wal};";
    assert_eq!(upwards("wal/x.rs", group), BTreeSet::from(["wal router".to_owned()]));
    assert!(upwards("server.rs", text).is_empty() && upwards("wal/tests/x.rs", text).is_empty());
}

#[test]
#[should_panic(expected = "has no place among the layers")]
fn a_new_module_needs_a_layer() {
    upwards("syslog/mod.rs", "use crate::limits;");
}

#[test]
fn files_are_reached_through_the_storage_of_the_log() {
    let sources = files("src", "rs").into_iter().filter(|(name, _)| {
        !is_test_file(name) && name.split(['/', '.']).next().is_some_and(|module| WITHOUT_FILES.contains(&module))
    });
    let found = sources.filter_map(|(name, text)| uses(&name, &text, "std::fs"));
    only_exceptions("std::fs between net and router, use wal::Storage", found, STORAGE);
    assert!(uses("wal/x.rs", "use std::fs::File;", "std::fs").is_some());
}

#[test]
fn prometheus_is_used_by_metrics() {
    let sources = files("src", "rs").into_iter().filter(|(name, _)| !name.starts_with("metrics"));
    let found = sources.filter_map(|(name, text)| uses(&name, &text, "prometheus"));
    only_exceptions("prometheus outside of metrics", found, PROMETHEUS);
    assert!(uses("x.rs", "use prometheus::IntCounter;", "prometheus").is_some());
}

#[test]
fn texts_that_people_read_have_plain_words() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |name: String, words: Vec<String>| {
        if !words.is_empty() {
            found.insert(name, words);
        }
    };
    for (name, text) in files("src", "rs") {
        let words = words_in_strings(&name, &text);
        add(format!("src/{name}"), words);
    }
    for (name, text) in files("docs", "md") {
        add(format!("docs/{name}"), words(&text));
    }
    for name in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "tools/python/README.md"]
    {
        add(name.to_owned(), words(&fs::read_to_string(root().join(name)).unwrap()));
    }
    let allowed =
        |name: &str| FILES_WITH_WORDS.iter().find(|(file, _)| *file == name).map_or(0, |(_, allowed)| *allowed);
    let more: Vec<_> = found.iter().filter(|(name, words)| words.len() > allowed(name)).collect();
    let more: Vec<_> = more.iter().map(|(name, words)| format!("{name}: {} words, {words:?}", words.len())).collect();
    assert!(more.is_empty(), "words that have a plainer one:\n{}", more.join("\n"));
    for (name, _) in FILES_WITH_WORDS {
        assert!(
            found.contains_key(*name),
            "{name} has plain words only: remove it from FILES_WITH_WORDS of tests/project/tidy.rs"
        );
    }
}

#[test]
fn words_are_found_in_strings_and_prose_only() {
    assert_eq!(words("Strangers and a torn head, at the door.").len(), 3);
    assert!(words("outdoor tornado mending doorbell").is_empty());
    let text =
        "fn door() { log(\"at the {door}\", r#\"a \"torn\" one\"#) } // mended\n#[cfg(test)]\nmod tests { \"torn\" }\n";
    assert_eq!(words_in_strings("x.rs", text).len(), 2);
    assert!(words_in_strings("x/tests.rs", text).is_empty());
}

#[test]
fn code_is_told_from_comments_strings_and_characters() {
    let (code, strings) = split(
        r###"a('"', '\'', b'\\', "b\"{", r#"c"d"#, br"e", 'static, '{', "\\"); /* f */ g // h "i"
j"###,
    );
    assert_eq!(strings, ["b\\\"{", "c\"d", "e", "\\\\"]);
    let words: Vec<_> = code.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    assert_eq!(words, ["a", "b", "r", "br", "static", "g", "j"]);
    assert!(!code.contains('{') && code.ends_with("\nj"));
    assert_eq!(code.len(), split(&code).0.len());
}
