#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telemetryx::event::fuzz::json_round_trip(bytes));
