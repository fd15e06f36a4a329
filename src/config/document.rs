//! The settings in writing: the documented file, the settings in force, and the tables of `docs/configuration.md`.

use std::fmt::{self, Write};

use super::layers::Origin;
use super::resolve::{Entry, Resolved};
use super::table::{BATCH, CLIENT, SECTIONS, SINK};
use crate::settings::{Setting, Value};
use crate::sink::{self, Kind};

const WIDTH: usize = 110;
/// What clients are for.
const CLIENTS_DOC: &str = "Tokens or certificates with a name, and limits for all that is sent with each. Once there is one, every \
                           agent and every POST needs a token, of a client or of server.tokens_file, or the certificate of a \
                           client.";

/// The settings file with every key, its meaning and its default; the other kinds of sink are commented out.
pub fn default_file() -> String {
    let mut out = String::from(
        "# Settings of telemetryx, all at their defaults. Keep only what you change.\n\
         # Overridden by TELEMETRYX__SECTION__KEY in the environment, and then by --set section.key=value.\n\
         # ${VAR} and ${VAR:-default} in text are replaced from the environment.\n",
    );
    for section in SECTIONS {
        out.push('\n');
        if !section.name.is_empty() {
            comment(&mut out, section.doc);
            out += &format!("[{}]\n", section.name);
        }
        for setting in section.settings {
            key(&mut out, setting, setting.key, "");
        }
    }
    out.push('\n');
    comment(&mut out, CLIENTS_DOC);
    out += "# [[clients]]\n# name = \"api\"\n";
    for setting in CLIENT {
        // One of the two that name a token has to be there.
        let example = Value::text("/run/secrets/api-token");
        let default = if setting.key == "token_file" { example } else { setting.default.clone() };
        key(&mut out, &Setting { default, ..setting.clone() }, setting.key, "# ");
    }
    for (index, kind) in sink::KINDS.iter().enumerate() {
        out.push('\n');
        comment(&mut out, kind.doc);
        // The first kind is what runs when no sink is named.
        let hidden = if index == 0 { "" } else { "# " };
        out += &format!("{hidden}[[sinks]]\n{hidden}name = \"{0}\"\n{hidden}kind = \"{0}\"\n", kind.name);
        for setting in kind.settings {
            key(&mut out, setting, setting.key, hidden);
        }
        if index == 0 {
            for setting in SINK {
                key(&mut out, setting, setting.key, hidden);
            }
            comment(&mut out, "As in [batch], only for this sink:");
            for setting in BATCH.settings {
                out += &format!("# {} = {}\n", BATCH.key(setting), setting.default);
            }
        }
    }
    out
}

fn key(out: &mut String, setting: &Setting, name: &str, hidden: &str) {
    comment(out, setting.doc);
    let default = &setting.default;
    if default.follows_data_dir() {
        // Written out it would no longer follow.
        *out += &format!("# {name} = {} # follows data_dir unless it is set\n", default.within("telemetryx-data"));
    } else {
        *out += &format!("{hidden}{name} = {default}\n");
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

impl Resolved {
    /// Name and kind of each sink.
    pub fn sink_kinds(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind.name))
    }

    /// One line: file, address, sinks.
    pub fn summary(&self) -> String {
        let file = self.file.as_deref().unwrap_or("no settings file");
        let sinks: Vec<_> = self.sinks.iter().map(|sink| format!("{} ({})", sink.name, sink.kind.name)).collect();
        format!("settings OK: {file} · {} · sinks {}", self.config.server.address, sinks.join(", "))
    }
}

/// The settings in force, as a file that gives the same again (secrets apart), with where each came from.
impl fmt::Display for Resolved {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for entry in &self.entries {
            let (name, key) = entry.key.split_once('.').unwrap_or(("", &entry.key));
            if name != section {
                writeln!(out, "\n[{name}]")?;
                section = name;
            }
            line(out, key, entry)?;
        }
        for client in &self.clients {
            writeln!(out, "\n[[clients]]\nname = \"{}\" # {}", client.client.name, client.origin)?;
            for entry in &client.entries {
                line(out, &entry.key, entry)?;
            }
        }
        for sink in &self.sinks {
            writeln!(out, "\n[[sinks]]")?;
            let sink_origin = match &sink.origin {
                Origin::Default => "the default sink",
                origin => &origin.to_string(),
            };
            writeln!(out, "name = \"{}\" # {sink_origin}\nkind = \"{}\"", sink.name, sink.kind.name)?;
            for entry in &sink.entries {
                line(out, &entry.key, entry)?;
            }
        }
        Ok(())
    }
}

fn line(out: &mut fmt::Formatter<'_>, key: &str, entry: &Entry) -> fmt::Result {
    match key.split_once('.') {
        // A name from a table of secrets may have any sign in it.
        Some((table, name)) if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) => {
            write!(out, "{table}.{} = {}", Value::Text(name.to_owned().into()), entry.shown())?;
        }
        _ => write!(out, "{key} = {}", entry.shown())?,
    }
    match &entry.origin {
        Origin::Default => writeln!(out),
        origin => writeln!(out, " # {origin}"),
    }
}

/// The tables of `docs/configuration.md`, in Markdown.
pub fn reference() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        if !section.name.is_empty() {
            out += &format!("\n### `[{}]`\n\n{}\n", section.name, section.doc);
        }
        rows(&mut out, section.settings.iter().map(|setting| (setting.key.to_owned(), setting)));
    }
    out += &format!("\n### `[[clients]]`\n\n{CLIENTS_DOC}\n");
    rows(&mut out, CLIENT.iter().map(|setting| (setting.key.to_owned(), setting)));
    out += "\n### `[[sinks]]`\n\nEvery sink has `name` (default: its kind), `kind` (default: its name) and these:\n";
    let batch = BATCH.settings.iter().map(|setting| (BATCH.key(setting), setting));
    rows(&mut out, SINK.iter().map(|setting| (setting.key.to_owned(), setting)).chain(batch));
    for Kind { name, doc, settings, .. } in sink::KINDS {
        out += &format!("\n#### `kind = \"{name}\"`\n\n{doc}\n");
        rows(&mut out, settings.iter().map(|setting| (setting.key.to_owned(), setting)));
    }
    out
}

fn rows<'a>(out: &mut String, rows: impl Iterator<Item = (String, &'a Setting)>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    *out += "\n| key | default | accepts | applies on | |\n|---|---|---|---|---|\n";
    for (key, setting) in rows {
        let also = if setting.form.is_secret() { format!(" (or `{key}_file`)") } else { String::new() };
        let default = setting.default.within("<data_dir>");
        // Writing into a String cannot fail.
        let (takes, applies) = (takes(setting), setting.applies.name());
        let _ = writeln!(out, "| `{key}`{also} | `{default}` | {takes} | {applies} | {} |", setting.doc);
    }
}

fn takes(setting: &Setting) -> String {
    let expected = setting.expected();
    expected.split(", such as").next().unwrap_or_default().replace('|', "\\|")
}
