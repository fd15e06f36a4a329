//! The types of OTLP that prost generates from the official files in `tests/proto`: what the mapping in place is compared
//! with. `make proto` writes the files below; `tests/project/proto.rs` compares them.
#![allow(missing_docs, clippy::all)]

#[rustfmt::skip]
pub mod common {
    pub mod v1;
}
#[rustfmt::skip]
pub mod resource {
    pub mod v1;
}
#[rustfmt::skip]
pub mod logs {
    pub mod v1;
}
#[rustfmt::skip]
pub mod trace {
    pub mod v1;
}
#[rustfmt::skip]
pub mod metrics {
    pub mod v1;
}
#[rustfmt::skip]
pub mod collector {
    pub mod logs {
        pub mod v1;
    }
    pub mod trace {
        pub mod v1;
    }
    pub mod metrics {
        pub mod v1;
    }
}
