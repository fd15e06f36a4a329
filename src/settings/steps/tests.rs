use super::*;
use crate::config::{ConfigError, Layers, Resolved};
use crate::event::EventKind;
use crate::glob::Glob;

fn resolve(file: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Resolved, ConfigError> {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let file = Some(("t.toml".to_owned(), file.to_owned()));
    Layers { file, environment: owned(environment).into_iter().collect(), set: owned(set) }.resolve()
}

fn steps(file: &str) -> StepSettings {
    let file = format!("[[sinks]]\nname = \"a\"\nkind = \"discard\"\n{file}");
    resolve(&file, &[("ENV", "prod")], &[]).unwrap_or_else(|error| panic!("{file}\n{error}")).config.sinks[0]
        .steps
        .clone()
}

fn globs(texts: &[&str]) -> Vec<Glob> {
    texts.iter().map(|text| Glob::new(text).unwrap()).collect()
}

#[test]
fn the_settings_of_the_design_are_read() {
    let steps = steps(
        r#"
        include = [{ kinds = ["log"], severity = "warn", source = ["api-*"], attributes = { env = "${ENV}", http.status = [500, "4*"] } }, { kinds = "span" }]
        exclude = [{ name = ["healthcheck", "ping"] }]
        sample = { keep = "1/10", by = "attributes.user", always = { severity = "error" } }
        "#,
    );
    let attribute = |key: &str, any_of| AttributeCondition { key: key.to_owned(), any_of };
    let text = |text: &str| AttributeTest::Text(Glob::new(text).unwrap());
    let logs = Condition {
        kinds: vec![EventKind::Log],
        severity: Some(13),
        source: globs(&["api-*"]),
        name: vec![],
        attributes: vec![
            attribute("env", vec![text("prod")]),
            attribute("http.status", vec![AttributeTest::Integer(500), text("4*")]),
        ],
    };
    let spans = Condition { kinds: vec![EventKind::Span], ..Condition::default() };
    assert_eq!(steps.include, [logs, spans]);
    assert_eq!(steps.exclude, [Condition { name: globs(&["healthcheck", "ping"]), ..Condition::default() }]);
    let always = vec![Condition { severity: Some(17), ..Condition::default() }];
    let by = SampleBy::Attribute("user".to_owned());
    assert_eq!(steps.sample, Some(SampleSettings { one_in: 10, by, always }));
}

#[test]
fn without_settings_there_are_no_steps() {
    assert_eq!(steps(""), StepSettings::default());
    assert_eq!(steps("include = []\nexclude = []\nsample = { keep = \"\", always = [] }"), StepSettings::default());
    assert_eq!(steps("sample.keep = \"1/1\""), StepSettings::default());
}

#[test]
fn environment_and_arguments_take_the_same_text() {
    let file =
        "[[sinks]]\nname = \"a\"\nkind = \"discard\"\ninclude = [{ kinds = [\"span\"] }]\nexclude = [{ name = \"x\" }]";
    let environment = [
        ("TELEMETRYX__SINKS__A__INCLUDE", "[{ kinds = [\"log\"], attributes = { user = \"*\" } }]"),
        ("TELEMETRYX__SINKS__A__SAMPLE__KEEP", "1/7"),
    ];
    let set = [("sinks.a.exclude", ""), ("sinks.a.sample.by", "source")];
    let resolved = resolve(file, &environment, &set).unwrap();
    let steps = &resolved.config.sinks[0].steps;
    assert_eq!(steps.include[0].attributes[0].any_of, [AttributeTest::Present]);
    assert_eq!((steps.include[0].kinds.as_slice(), steps.exclude.len()), (&[EventKind::Log][..], 0));
    assert_eq!(steps.sample.as_ref().map(|sample| (sample.one_in, sample.by.clone())), Some((7, SampleBy::Source)));
    // What is shown gives the same again.
    let shown = resolved.to_string();
    let again = resolve(&shown, &[], &[]).unwrap().config;
    assert_eq!(format!("{again:?}"), format!("{:?}", resolved.config), "{shown}");
}

#[test]
fn what_can_never_match_is_refused_by_sink_key_and_reason() {
    let long = "x".repeat(257);
    let long_key = "k".repeat(129);
    for (settings, problem) in [
        ("include = [{ kinds = [\"logs\"] }]", "include: condition 1: kinds: expected \"log\" or \"gauge\""),
        (
            "exclude = [{ name = \"x\" }, { severity = \"warning\" }]",
            "exclude: condition 2: severity: expected \"trace\"",
        ),
        ("include = [{ severity = 25 }]", "include: condition 1: severity: expected"),
        ("include = [{ severity = 0 }]", "include: condition 1: severity: expected"),
        ("include = [{}]", "include: condition 1: it is empty: give at least one of kinds, severity, source"),
        ("include = [{ kinds = [] }]", "include: condition 1: kinds: an empty list matches nothing"),
        ("include = [{ attributes = {} }]", "include: condition 1: attributes: it is empty"),
        ("include = [{ sources = \"x\" }]", "include: condition 1: unknown key `sources`: did you mean `source`?"),
        ("include = [{ source = \"\" }]", "include: condition 1: source: an empty pattern can never match"),
        (
            "include = [{ name = \"a?\" }]",
            "include: condition 1: name: '?' has no meaning in a pattern, where only * stands",
        ),
        (
            &format!("include = [{{ name = \"*{long}\" }}]"),
            "include: condition 1: name: a pattern of 257 bytes can never match",
        ),
        (
            &format!("include = [{{ attributes = {{ {long_key} = 1 }} }}]"),
            "include: condition 1: attributes: a key of 129 bytes can never match",
        ),
        (
            "include = [{ attributes = { a = 2026-01-02 } }]",
            "include: condition 1: attributes: a: expected a pattern, a number",
        ),
        (
            "include = [{ attributes = { a = [] } }]",
            "include: condition 1: attributes: a: an empty list matches nothing",
        ),
        ("include = [\"log\"]", "include: condition 1: expected a table, such as"),
        ("include = \"[{ kinds = ['log'] }\"", "include: invalid TOML: "),
        ("include = \"1\\nb = 2\"", "include: more than one value"),
        ("exclude = \"healthcheck\"", "exclude: expected a list of conditions, such as [{ kinds = [\"log\"], "),
        ("redact = \"password\"", "redact: expected a list of rules, such as [{ attributes = [\"password\"], "),
        ("include = 5", "include: expected a list of conditions, not 5"),
        ("sample.keep = \"0.1\"", "sample.keep: expected 1/n with n from 1 to 1000000, such as \"1/10\""),
        ("sample.keep = \"1/0\"", "sample.keep: expected 1/n"),
        ("sample.keep = \"1/+5\"", "sample.keep: expected 1/n"),
        (
            "sample.by = \"user\"",
            "sample.by: expected \"trace_id\", \"source\", \"name\", \"attributes.KEY\" or \"event\"",
        ),
        ("sample.by = \"attributes.\"", "sample.by: a key of 0 bytes"),
        ("sample.always = { severity = \"error\" }", "sample.always: has no effect without sample.keep"),
        ("sample.by = \"source\"", "sample.by: has no effect without sample.keep"),
        (
            "aggregate.by = \"source\"",
            "aggregate.by: expected a list of `source`, `name`, `attributes`, `attributes.KEY`, such as [\"source\", \"name\"]",
        ),
        (
            "aggregate.gauges = \"last\"",
            "aggregate.gauges: expected a list of `last`, `min`, `max`, `avg`, `count`, such as [\"last\", \"max\"]",
        ),
    ] {
        let file = format!("[[sinks]]\nname = \"errors\"\nkind = \"discard\"\n{settings}");
        let problems = resolve(&file, &[], &[]).map(|_| ()).unwrap_err().problems;
        let expected = format!("t.toml:4: sinks.errors.{problem}");
        assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{problems:#?}\n{expected}");
    }
}

#[test]
fn a_window_is_as_long_as_its_interval_unless_the_sink_says_otherwise() {
    let max_age = |settings: &str| {
        let file = format!("batch.max_age = \"100ms\"\n[[sinks]]\nname = \"a\"\nkind = \"discard\"\n{settings}");
        resolve(&file, &[], &[]).unwrap_or_else(|error| panic!("{error}")).config.sinks[0].batch.max_age.as_millis()
    };
    assert_eq!(max_age("collapse = true"), 100);
    assert_eq!(max_age("aggregate = { interval = \"2m\" }"), 120_000);
    assert_eq!(max_age("aggregate = { interval = \"2m\" }\nbatch.max_age = \"5s\""), 5_000);
    assert_eq!(
        max_age("aggregate = { interval = \"2m\" }\nbatch.max_age = \"50ms\""),
        50,
        "the default, where it is given"
    );
    let steps = steps("aggregate = { interval = \"10s\", gauges = [\"max\"], by = [\"name\"], max_series = 7 }");
    let aggregate = steps.aggregate.unwrap();
    assert_eq!((aggregate.max_series, aggregate.gauges, aggregate.by.source), (7, vec![GaugeStatistic::Max], false));
}

#[test]
#[cfg(feature = "redis")]
fn series_of_a_store_with_shards_are_told_apart_by_source() {
    let problems = |shards: u64, by: &str| {
        let file = format!(
            "[[sinks]]\nname = \"a\"\nkind = \"redis\"\nurl = \"redis://127.0.0.1\"\nshards = {shards}\n\
             aggregate.interval = \"10s\"\naggregate.by = [\"{by}\"]"
        );
        resolve(&file, &[], &[]).map(|_| ()).err().map(|error| error.problems)
    };
    let expected =
        "t.toml:7: sinks.a.aggregate.by: must contain \"source\", by which the shards of this sink are chosen";
    assert_eq!(problems(4, "name"), Some(vec![expected.to_owned()]));
    assert_eq!((problems(4, "source"), problems(1, "name")), (None, None));
}
