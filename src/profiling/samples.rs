//! Samples with the names of their functions, each name and each place in the code once.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Number of a text in [`Samples::texts`].
pub(super) type Text = u32;
/// Number of a place in [`Samples::places`].
pub(super) type Place = u32;

/// What was on the CPU, and how often.
#[derive(Debug)]
pub(crate) struct Samples {
    /// When the first sample could be taken.
    pub(super) start: SystemTime,
    /// How long samples were taken.
    pub(super) duration: Duration,
    /// Samples per second of CPU time.
    pub(super) per_second: u32,
    /// The first one is empty.
    pub(super) texts: Vec<String>,
    /// Where a thread was.
    pub(super) places: Vec<Lines>,
    /// How often each stack was found.
    pub(super) stacks: HashMap<Stack, u64>,
    numbers: HashMap<String, Text>,
}

/// A place in the code: the functions that were inlined there, the innermost first, then the one that they were inlined into.
#[derive(Debug)]
pub(super) struct Lines {
    /// The address of the instruction.
    pub(super) address: u64,
    /// One or more.
    pub(super) lines: Vec<Line>,
}

/// A line of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line {
    /// As a person writes it.
    pub(super) name: Text,
    /// As in the symbol table.
    pub(super) system_name: Text,
    /// The source; empty if it is not known.
    pub(super) file: Text,
    /// 0 if it is not known.
    pub(super) line: u32,
}

/// The stack of a thread.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Stack {
    /// The name of the thread.
    pub(super) thread: Text,
    /// The innermost first.
    pub(super) places: Vec<Place>,
}

impl Samples {
    /// No samples yet.
    pub(super) fn new(start: SystemTime, duration: Duration, per_second: u32) -> Self {
        let (texts, numbers) = (vec![String::new()], HashMap::from([(String::new(), 0)]));
        Self { start, duration, per_second, texts, numbers, places: Vec::new(), stacks: HashMap::new() }
    }

    /// The number of a text.
    pub(super) fn text(&mut self, text: &str) -> Text {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as Text;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    /// Adds a place.
    pub(super) fn place(&mut self, address: u64, lines: Vec<Line>) -> Place {
        self.places.push(Lines { address, lines });
        (self.places.len() - 1) as Place
    }

    /// A stack was found `count` times.
    pub(super) fn found(&mut self, thread: Text, places: Vec<Place>, count: u64) {
        *self.stacks.entry(Stack { thread, places }).or_default() += count;
    }

    /// The text of a number of this.
    pub(super) fn text_of(&self, number: Text) -> &str {
        self.texts.get(number as usize).map_or("", String::as_str)
    }

    /// The lines of a place of this.
    pub(super) fn lines_of(&self, place: Place) -> &[Line] {
        self.places.get(place as usize).map_or(&[], |place| &place.lines)
    }
}
