//! No text of a peer is in a log line without quotes: a field that is written with `%`, or put into the message, could
//! forge other fields. The sources are searched for both; what they may be is listed here.

use std::fs;
use std::path::{Path, PathBuf};

const LINES: &[&str] = &["error", "warn", "info", "debug", "trace", "event"];
const SPANS: &[&str] = &["error_span", "warn_span", "info_span", "debug_span", "trace_span", "span"];
/// What may be written with `%`: it is ours, or has a form that holds no text.
const DISPLAYED: &[&str] = &[
    "address", // socket addresses
    "peer",    //
    "connection.peer.address",
    "peer.address",   //
    "file",           // paths of the settings
    "path.display()", //
    "failure",        // of the log: the system's error
    "error",          // the system's, but see ERRORS_OF_PEERS
];
/// Here an error may quote what a store or a server sent.
const ERRORS_OF_PEERS: &[&str] = &["sink/", "router/", "session/", "http/", "client/"];
/// What may be put into a message.
const IN_MESSAGES: &[&str] = &[
    "warning",              // ours
    "opened.report",        // names of our files, numbers
    "address",              // the agent's setting
    "events",               // numbers
    "refused",              //
    "seq",                  //
    "retry_in.as_millis()", //
    "welcome.ack.name()",   // one of our names
    "reason",               // `Lost`, which quotes what the server sent
    "Quoted(reason)",       // quoted
];

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

/// The arguments of the macro calls whose names are in `names`, each call split at its commas.
fn calls(source: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for name in names {
        for (at, _) in source.match_indices(&format!("{name}!(")) {
            let before = source[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            calls.push(arguments(&source[at + name.len() + 2..]));
        }
    }
    calls
}

/// `text` up to the parenthesis that closes, split at the commas that are in no string and no further parentheses.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(c);
    }
    arguments.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// What is wrong with a call in the file `name`.
fn problems(name: &str, call: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for argument in call {
        let value = argument.split_once(" = ").map_or(argument.as_str(), |(_, value)| value);
        if let Some(shown) = value.strip_prefix('%')
            && (!DISPLAYED.contains(&shown)
                || (shown == "error" && ERRORS_OF_PEERS.iter().any(|part| name.starts_with(part))))
        {
            problems.push(format!("{name}: `{argument}`: log it as text, `{shown}.to_string()`, which is quoted"));
        }
    }
    let Some(message) = call.iter().position(|argument| argument.starts_with('"')) else { return problems };
    let mut positional = call[message + 1..].iter();
    for part in call[message].split('{').skip(1) {
        let inline = part.split('}').next().unwrap_or_default().split(':').next().unwrap_or_default();
        let shown = if inline.is_empty() { positional.next().map_or("", String::as_str) } else { inline };
        if !IN_MESSAGES.contains(&shown) {
            problems.push(format!("{name}: `{shown}` in {}: make it a field", call[message]));
        }
    }
    problems
}

/// The same of a span, whose fields are in front of every line within it; its name is not a message.
fn problems_of_span(name: &str, call: &[String]) -> Vec<String> {
    let is_message = |argument: &&String| argument.starts_with('"');
    let texts = call.iter().filter(is_message).count();
    let fields: Vec<String> = call.iter().filter(|argument| !is_message(argument)).cloned().collect();
    let mut problems = problems(name, &fields);
    if texts != 1 {
        problems.push(format!("{name}: a span has one text, its name: {call:?}"));
    }
    problems
}

#[test]
fn no_text_of_a_peer_is_logged_without_quotes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let (mut all, mut spans, mut found) = (0, 0, Vec::new());
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        for call in calls(&source, LINES) {
            all += 1;
            found.extend(problems(name, &call));
        }
        for call in calls(&source, SPANS) {
            spans += 1;
            found.extend(problems_of_span(name, &call));
        }
        // A field of a span that is set later is a value as well.
        if source.contains("field::display") {
            found.push(format!("{name}: field::display: record text, which is quoted"));
        }
    }
    assert!(all > 20 && spans >= 3, "log lines and spans are found: {all}, {spans}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_search_finds_what_it_is_for() {
    let source = r#"tracing::debug!(agent = %origin.name, seq, "a {} b {reason}", (x, y)); warn!(%error, "c, d");"#;
    let calls = calls(source, &["debug", "warn"]);
    assert_eq!(calls[0], ["agent = %origin.name", "seq", "\"a {} b {reason}\"", "(x, y)"]);
    assert_eq!(problems("net/x.rs", &calls[0]).len(), 2);
    assert_eq!(problems("net/x.rs", &calls[1]), [""; 0]);
    assert_eq!(problems("sink/x.rs", &calls[1]).len(), 1);
    let source =
        r#"tracing::debug_span!(parent: None, "a", %peer, agent = %origin.name); info_span!("b", sink = self.name)"#;
    let found: Vec<_> =
        self::calls(source, SPANS).iter().map(|call| problems_of_span("net/x.rs", call).len()).collect();
    assert_eq!(found, [0, 1], "in the order of SPANS");
}
