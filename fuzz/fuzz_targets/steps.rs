#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telemetryx::router::steps::fuzz::settings_and_events(bytes));
