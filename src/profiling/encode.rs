//! Formats of profiles: `profile.proto` of pprof (github.com/google/pprof/blob/main/proto/profile.proto), and folded stacks.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::samples::{Line, Samples};

/// The message `Profile`, without the fields that are not set.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

/// What a value of a sample is. Texts are numbers in the string table.
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    /// One for each sample type.
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    /// What is inlined comes first.
    #[prost(message, repeated, tag = "4")]
    line: Vec<LineOf>,
}

/// The message `Line`.
#[derive(Clone, Copy, PartialEq, Message)]
struct LineOf {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// The samples as `profile.proto`, compressed with gzip, as pprof writes it.
pub(super) fn protobuf(samples: &Samples) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into a Vec cannot fail.
    let _ = gzip.write_all(&profile(samples).encode_to_vec());
    gzip.finish().unwrap_or_default()
}

fn profile(samples: &Samples) -> Profile {
    let mut string_table = samples.texts.clone();
    let mut text = |text: &str| {
        string_table.push(text.to_owned());
        (string_table.len() - 1) as i64
    };
    let count = ValueType { r#type: text("samples"), unit: text("count") };
    let cpu = ValueType { r#type: text("cpu"), unit: text("nanoseconds") };
    let thread = text("thread");
    let period = 1_000_000_000 / i64::from(samples.per_second.max(1));
    let mut functions = Functions::default();
    let location = samples.places.iter().enumerate().map(|(index, place)| Location {
        id: index as u64 + 1,
        address: place.address,
        line: place.lines.iter().map(|line| functions.line(*line)).collect(),
    });
    let location = location.collect();
    let sample = samples.stacks.iter().map(|(stack, found)| {
        let found = (*found).cast_signed();
        Sample {
            location_id: stack.places.iter().map(|place| u64::from(*place) + 1).collect(),
            value: vec![found, found.saturating_mul(period)],
            label: vec![Label { key: thread, str: stack.thread.into() }],
        }
    });
    let since_1970 = samples.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Profile {
        sample_type: vec![count, cpu],
        sample: sample.collect(),
        location,
        function: functions.all,
        string_table,
        time_nanos: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
        duration_nanos: i64::try_from(samples.duration.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(cpu),
        period,
    }
}

/// The functions of a profile, each once.
#[derive(Default)]
struct Functions {
    all: Vec<Function>,
    ids: HashMap<Line, u64>,
}

impl Functions {
    fn line(&mut self, line: Line) -> LineOf {
        let function = Line { line: 0, ..line };
        let id = *self.ids.entry(function).or_insert_with(|| {
            let id = self.all.len() as u64 + 1;
            let (name, system_name, filename) = (line.name.into(), line.system_name.into(), line.file.into());
            self.all.push(Function { id, name, system_name, filename });
            id
        });
        LineOf { function_id: id, line: line.line.into() }
    }
}

/// The name of a function, with the end of its file's path where it has no module: debug information has such names for functions into
/// which others were inlined, and there are many that are called `run` or `step`.
pub(super) fn with_file(name: String, file: &str) -> String {
    let mut parts = file.rsplit('/').filter(|part| !part.is_empty());
    // What comes after `<` are types.
    let has_module = name.starts_with('<') || name.split('<').next().is_some_and(|own| own.contains("::"));
    match (parts.next(), parts.next()) {
        _ if has_module => name,
        (Some(file), Some(directory)) => format!("{name} ({directory}/{file})"),
        (Some(file), None) => format!("{name} ({file})"),
        (None, _) => name,
    }
}

/// One line per stack, `thread;outermost;…;innermost count`.
pub(super) fn folded(samples: &Samples) -> Vec<String> {
    let line = |(stack, found): (&super::samples::Stack, &u64)| {
        let mut line = samples.text_of(stack.thread).replace(';', ":");
        for place in stack.places.iter().rev() {
            for function in samples.lines_of(*place).iter().rev() {
                line.push(';');
                line.push_str(&samples.text_of(function.name).replace(';', ":"));
            }
        }
        // Writing into a String cannot fail.
        let _ = write!(line, " {found}");
        line
    };
    samples.stacks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    /// Two threads in `work`, into which `copy` is inlined.
    fn samples() -> Samples {
        let mut samples = Samples::new(SystemTime::UNIX_EPOCH + Duration::from_secs(3), Duration::from_secs(2), 200);
        let mut line = |name: &str, line| {
            let (name, system_name, file) =
                (samples.text(name), samples.text(&format!("_{name}")), samples.text("x.rs"));
            Line { name, system_name, file, line }
        };
        let (copy, work, main) = (line("copy", 3), line("work", 7), line("main", 1));
        let (inner, outer) = (samples.place(0x20, vec![copy, work]), samples.place(0x10, vec![main]));
        let (one, other) = (samples.text("loop 0"), samples.text("a;b"));
        samples.found(one, vec![inner, outer], 2);
        samples.found(one, vec![inner, outer], 3);
        samples.found(other, vec![outer], 1);
        samples
    }

    #[test]
    fn a_profile_names_every_function_once_and_the_innermost_first() {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(protobuf(&samples()).as_slice()).read_to_end(&mut bytes).unwrap();
        let profile = Profile::decode(bytes.as_slice()).unwrap();
        let text = |number: i64| profile.string_table[usize::try_from(number).unwrap()].as_str();
        assert_eq!(text(0), "", "pprof requires an empty text there");
        let of = |value: &ValueType| format!("{}/{}", text(value.r#type), text(value.unit));
        assert_eq!(profile.sample_type.iter().map(of).collect::<Vec<_>>(), ["samples/count", "cpu/nanoseconds"]);
        assert_eq!(profile.period_type.as_ref().map(of).as_deref(), Some("cpu/nanoseconds"));
        assert_eq!((profile.period, profile.time_nanos), (5_000_000, 3_000_000_000));
        assert_eq!(profile.duration_nanos, 2_000_000_000);
        let names: Vec<_> = profile.function.iter().map(|function| text(function.name)).collect();
        assert_eq!(names, ["copy", "work", "main"]);
        assert_eq!(profile.function.iter().map(|function| function.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(profile.location[0].line.iter().map(|line| line.function_id).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(profile.location.iter().map(|location| location.id).collect::<Vec<_>>(), [1, 2]);
        let mut found = profile.sample.iter().map(|sample| {
            assert_eq!(text(sample.label[0].key), "thread");
            (text(sample.label[0].str), sample.location_id.clone(), sample.value.clone())
        });
        let mut all: Vec<_> = found.by_ref().collect();
        all.sort();
        assert_eq!(all, [("a;b", vec![2], vec![1, 5_000_000]), ("loop 0", vec![1, 2], vec![5, 25_000_000])]);
    }

    #[test]
    fn a_function_without_a_module_has_its_file() {
        for (name, file, expected) in [
            ("step", "/x/src/router/worker.rs", "step (router/worker.rs)"),
            ("main", "main.c", "main (main.c)"),
            ("recv", "", "recv"),
            ("a::step", "/x/src/a.rs", "a::step"),
            ("step<a::B>", "/x/src/a.rs", "step<a::B> (src/a.rs)"),
            ("<a::B as a::Step>::step", "/x/src/a.rs", "<a::B as a::Step>::step"),
        ] {
            assert_eq!(with_file(name.to_owned(), file), expected);
        }
    }

    #[test]
    fn a_folded_stack_begins_with_its_thread_and_ends_with_its_count() {
        let mut lines = folded(&samples());
        lines.sort();
        assert_eq!(lines, ["a:b;main 1", "loop 0;main;work;copy 5"]);
    }
}
