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
//! | `shares` | what part of it is for agents, for HTTP bodies, and for what these become |
//! | `free_runs` | runs of free pages in its map |
//! | `ring` | slots and the SPSC ring between event loop and log thread |
//! | `watermark` | up to which ticket each level is reached |
//! | `health` | whether the log takes anything |
//! | `group_commit` | the log thread: slots become a record of the log, and batches with positions |
//! | `commit` | the same without a log |
//! | `batch` | what routers and sinks see |
//! | `delivery` | what a sink is asked to store in one go |

pub mod batch;
pub mod commit;
pub mod delivery;
mod free_runs;
pub mod group_commit;
pub mod health;
pub mod pool;
pub mod ring;
pub mod rings;
pub mod shares;
#[cfg(test)]
pub(crate) mod testing;
pub mod watermark;
