//! `telemetryx man`: manual pages, from the same definitions as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, Failure, print_as_is};

#[derive(Args)]
#[command(after_help = "\
Examples:
  telemetryx man send | man -l -
  telemetryx man --dir /usr/local/share/man/man1")]
pub(super) struct ManArgs {
    /// Write the pages of all commands into this directory, which is created if it is missing
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// Print the page of this command, such as `wal inspect` [default: the page of telemetryx]
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub(super) command: Vec<String>,
}

/// The manual page of one command.
struct Page {
    /// `telemetryx-wal-inspect`, also the name of its file.
    name: String,
    /// In roff.
    text: Vec<u8>,
}

pub(super) fn run(args: &ManArgs) -> Result<(), Failure> {
    let pages = pages();
    if let Some(directory) = &args.dir {
        return write(directory, &pages);
    }
    let name = [&["telemetryx".to_owned()], &args.command[..]].concat().join("-");
    match pages.iter().find(|page| page.name == name) {
        Some(page) => print_as_is(&page.text),
        None => Err(Failure::Usage(
            "there is no manual page for this command; `telemetryx help` lists the commands".to_owned(),
        )),
    }
}

fn write(directory: &Path, pages: &[Page]) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))?;
    for page in pages {
        let path = directory.join(format!("{}.1", page.name));
        fs::write(&path, &page.text).map_err(|error| cannot_write(&path, &error))?;
    }
    Ok(())
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot write {}: {error}", path.display()))
}

/// The pages of `telemetryx` and of every command.
fn pages() -> Vec<Page> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // With it each command has its names, and the options that it takes from those above.
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages);
    pages
}

fn add_pages(command: &Command, pages: &mut Vec<Page>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let text = page(command.clone()).unwrap_or_else(|_| unreachable!("writing into a Vec cannot fail"));
    pages.push(Page { name, text });
    for below in command.get_subcommands() {
        add_pages(below, pages);
    }
}

fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let notes = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let (has_options, has_subcommands) = (command.get_arguments().next().is_some(), command.has_subcommands());
    let source = concat!("telemetryx ", env!("CARGO_PKG_VERSION"));
    // An empty date would leave out the argument, and move those after it.
    let man = Man::new(command).date(" ").source(source).manual("telemetryx manual");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if has_options {
        man.render_options_section(&mut text)?;
    }
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(notes) = notes {
        // It has its line breaks already: no lines are filled.
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]).control("nf", []);
        for line in notes.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []).to_writer(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `each` with every command, and its name as in `telemetryx-wal-inspect`.
    fn every_command(command: &Command, name: &str, each: &mut impl FnMut(&str, &Command)) {
        each(name, command);
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            every_command(below, &format!("{name}-{}", below.get_name()), each);
        }
    }

    #[test]
    fn every_command_has_a_page_with_all_its_options() {
        let pages = pages();
        let mut command = Cli::command();
        command.build();
        let mut names = Vec::new();
        every_command(&command, "telemetryx", &mut |name, command| {
            let page = pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no page of {name}"));
            let text = std::str::from_utf8(&page.text).unwrap().replace("\\-", "-");
            for option in command.get_arguments().filter(|option| !option.is_hide_set()).filter_map(clap::Arg::get_long)
            {
                assert!(text.contains(&format!("--{option}")), "{name} --{option}: {text}");
            }
            let title =
                format!(".TH {name} 1 \" \" \"telemetryx {}\" \"telemetryx manual\"\n", env!("CARGO_PKG_VERSION"));
            for section in [&title, ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
                assert!(text.contains(section), "{name}, {section}: {text}");
            }
            names.push(name.to_owned());
        });
        assert!(names.len() > 15 && names.contains(&"telemetryx-wal-inspect".to_owned()), "{names:?}");
        assert_eq!(pages.iter().map(|page| &page.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    }

    #[test]
    fn examples_keep_their_lines() {
        let pages = pages();
        let text = std::str::from_utf8(&pages[0].text).unwrap();
        let (_, notes) = text.split_once(".SH NOTES\n.nf\n").expect("the examples");
        assert!(notes.contains("\n  telemetryx &\n") && notes.ends_with(".fi\n"), "{notes}");
    }
}
