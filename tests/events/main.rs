//! Events as the library reads them, without a running server: protobuf, JSON and its mappings, OTLP, and the corpus of the fuzz targets.

#[cfg(feature = "server")]
mod fuzz_corpus;
#[cfg(feature = "server")]
mod json;
mod maps;
mod otlp;
mod prost;
#[cfg(feature = "server")]
mod refusals;
