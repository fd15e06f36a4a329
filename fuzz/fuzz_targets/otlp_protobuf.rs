#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telemetryx::event::otlp::fuzz::compare_with_prost(bytes));
