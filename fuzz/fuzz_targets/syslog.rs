#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telemetryx::event::syslog::fuzz::stream(bytes));
