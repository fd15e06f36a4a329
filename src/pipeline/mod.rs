//! From the event loops to the routers: rings, tickets, watermarks, group commit.
//!
//! ```text
//!  event loop: pool ─▶ Buffer ─▶ PoolSlice ─▶ Slot (ticket) ─▶ ring ─▶ log thread: commit ─▶ Batch (positions) ─▶ routers
//!       ▲                                                               │
//!       └────────────────────────── watermark by level ◀────────────────┘
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `ring` | slots and the SPSC ring between event loop and log thread |
//! | `rings` | the rings of all event loops, from which the log thread takes slots |
//! | `watermark` | up to which ticket each level is reached |
//! | `health` | whether the log takes anything |
//! | `group_commit` | the log thread: slots become a record of the log, and batches with positions |
//! | `without_log` | the log thread without a log |
//! | `next` | what a thread does after a step of its state machine |

pub mod group_commit;
pub mod health;
pub mod next;
pub mod ring;
pub mod rings;
pub mod watermark;
pub mod without_log;
