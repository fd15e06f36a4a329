//! Events as the library reads them, without a server: protobuf, JSON and its mappings, OTLP, and the corpus of the fuzz targets.

mod fuzz_corpus;
mod json;
mod maps;
mod otlp;
mod prost;
mod refusals;
