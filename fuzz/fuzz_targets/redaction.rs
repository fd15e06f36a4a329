#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telemetryx::router::steps::redact_fuzz::redaction(bytes));
