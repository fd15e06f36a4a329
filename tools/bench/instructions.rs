//! The boundaries between stages, a fixed number of times: for a tool that counts instructions (`tools/bench/instructions`),
//! whose figures, unlike times, are the same on a quiet and on a busy machine.
//!
//! `instructions WHAT TIMES`

#[path = "../../benches/support/slots.rs"]
mod slots;

use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use telemetryx::batch::pool::Pool;
use telemetryx::batch::{Batch, Delivery, Origin, Payload, Run};
use telemetryx::cli::bench::sample::Sample;
use telemetryx::event::{Events, JsonDecoder, check_batch};
use telemetryx::router::steps::Steps;
use telemetryx::settings::steps::StepSettings;
use telemetryx::wire::{Header, PayloadCaps, decode};

const EVENTS: usize = 1_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(what), Some(Ok(times))) = (arguments.next(), arguments.next().map(|times| times.parse::<u32>())) else {
        eprintln!("usage: instructions WHAT TIMES");
        return ExitCode::from(2);
    };
    let mut work: Box<dyn FnMut()> = match what.as_str() {
        "check" => Box::new(check()),
        "view" => Box::new(view()),
        "conditions" => Box::new(conditions()),
        "filter" => Box::new(filter()),
        "json" => Box::new(json()),
        "frame" => Box::new(frame()),
        "page" => Box::new(page()),
        "slots" => Box::new(slots::slots()),
        _ => {
            eprintln!("WHAT is check, view, conditions, filter, json, frame, page or slots");
            return ExitCode::from(2);
        }
    };
    (0..times).for_each(|_| work());
    ExitCode::SUCCESS
}

fn batch() -> Vec<u8> {
    Sample::new(220).batch(EVENTS).encoded.bytes().to_vec()
}

fn check() -> impl FnMut() {
    let batch = batch();
    move || {
        let checked = check_batch(black_box(&batch), EVENTS, |_, _, event| _ = black_box(event.is_ok()));
        let _ = black_box(checked);
    }
}

fn view() -> impl FnMut() {
    let batch = batch();
    move || _ = black_box(Events::accepted(black_box(&batch)).map(|event| black_box(event).time_unix_nano()).max())
}

/// The five conditions of `benches/steps.rs`, of which no event meets one.
fn conditions() -> impl FnMut() {
    let include = "[{ kinds = 'span' }, { severity = 'fatal' }, { source = ['db-*', 'cache-*'] }, { name = '*.slow' }, \
                    { attributes = { http.status_code = '5*', http.route = '/admin/*' } }]";
    let (steps, delivery) = (steps(include), delivery());
    move || assert_eq!(steps.apply_to_events(black_box(&delivery).clone()).events(), 0)
}

/// A filter that keeps one event in eight, and gathering what it keeps.
fn filter() -> impl FnMut() {
    let (steps, delivery) = (steps("{ severity = 'error' }"), delivery());
    move || assert!(steps.apply(black_box(&delivery).clone()).events() < EVENTS as u64 / 4)
}

fn steps(include: &str) -> Steps {
    let settings = StepSettings::read(|key| (key == "include").then_some(include)).unwrap_or_default();
    Steps::new(&settings, [7; 16])
}

fn delivery() -> Delivery {
    let origin = Arc::new(Origin { agent_id: None, agent: None, default_source: "192.0.2.1".to_owned(), epoch: 0 });
    let payload = Payload::Read(batch().into());
    let run = Run { payload, events: EVENTS as u32, received_unix_nano: 1, origin, are_head_first: true };
    Delivery::new(vec![Arc::new(Batch::new(1, vec![run]))], 1..=EVENTS as u64)
}

fn json() -> impl FnMut() {
    let body = Sample::new(220).batch(EVENTS).json;
    let (mut decoder, mut encoded) = (JsonDecoder::new(), Vec::new());
    move || {
        encoded.clear();
        let decoded = decoder.document(black_box(&body), |event| {
            encoded.extend_from_slice(event);
            Ok::<_, Infallible>(())
        });
        assert!(decoded.is_ok_and(|decoded| decoded.accepted == EVENTS));
    }
}

fn frame() -> impl FnMut() {
    let payload = batch();
    let frame = [&Header::data(1, &payload).encode()[..], &payload].concat();
    move || assert!(decode(black_box(&frame), PayloadCaps { data: 1 << 20 }).is_ok())
}

fn page() -> impl FnMut() {
    let mut pool = Pool::new(64 << 20, Box::new(|| {}));
    let in_use = pool.allocate(32 << 20);
    move || {
        let _ = &in_use;
        assert!(pool.allocate(black_box(4 << 10)).is_some());
    }
}
