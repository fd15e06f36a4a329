//! What settings consist of: rows, forms, values, URLs, secrets. Text in, checked values out.
//!
//! This module knows no setting by name. Modules that have settings are above it and list them as [`Setting`] rows: each
//! kind of sink those of its section, `config` all others. So the imports have one direction:
//!
//! ```text
//!  config   the layers (file, environment, --set) against the rows ─▶ Config, with one SinkConfig per sink
//!    │
//!  sink     KINDS: per kind its rows, and a function Values ─▶ SinkConfig
//!    │
//!  settings Setting, Form, Value · Values, Problem · Url, Secret, hide
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `setting` | a row, and a value against it |
//! | `values` | the values of a section, read into a struct; what is wrong with one that its row allows |
//! | `steps` | what of the stream a sink gets, and in what form |
//! | `networks` | networks in CIDR notation |
//! | `url` | URLs of stores, of which only the harmless part is shown |
//! | `hosts` | host names |
//! | `hide` | secrets that a peer repeats |

pub mod hide;
mod hosts;
mod networks;
mod setting;
pub mod steps;
pub mod url;
mod values;

pub use hosts::Hosts;
pub use networks::Networks;
pub use setting::{Applies, Form, Raw, SECRET_ITSELF, Secret, Setting, Value, format_duration, parse_duration};
pub use url::{Url, Urls};
pub use values::{Problem, Values};
