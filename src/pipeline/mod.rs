//! From the event loop to the routers.
//!
//! ```text
//!  event loop: pool ─▶ Buffer ─▶ PoolSlice ─▶ Slot (ticket) ─▶ ring ─▶ log thread: commit ─▶ Batch (positions) ─▶ routers
//!       ▲                                                               │
//!       └────────────────────────── watermark by level ◀────────────────┘
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `pool` | the memory that peers can fill; the only `unsafe` |
//! | `ring` | slots and the SPSC ring between event loop and log thread |
//! | `watermark` | up to which ticket each level is reached |
//! | `commit` | the log thread: slots become batches with positions |
//! | `batch` | what routers and sinks see |

pub mod batch;
pub mod commit;
pub mod pool;
pub mod ring;
pub mod watermark;
