//! From the event loop to the routers: buffer pool, slots, ring, batches, tickets and watermarks.

pub mod batch;
pub mod pool;
