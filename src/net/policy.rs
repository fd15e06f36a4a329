//! Who may send, how much, and who may read pages: what a reload may change of it.
//!
//! ```text
//!  reload ─▶ Shared::set_policy ─▶ Message::Policy to every loop ─▶ each looks at its connections once, and answers
//! ```
//!
//! Each loop has the policy itself ([`Ingress::policy`](crate::net::Ingress)), so that a request or a frame takes no lock for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::glob::Glob;
use crate::net::encryption::Encryption;
use crate::net::status::PagesAccess;
use crate::session::rates::Rates;
use crate::session::tokens::Tokens;

/// Who may send, how much, and who may read pages.
#[derive(Default)]
pub struct Policy {
    /// Whose frames and requests are accepted.
    pub tokens: Tokens,
    /// Who may read pages.
    pub pages: PagesAccess,
    /// TLS, and what is accepted without it.
    pub encryption: Encryption,
    /// How much they may send.
    pub rates: Rates,
    /// Names of agents whose frames are logged one by one.
    pub logged_agents: Vec<Glob>,
}

impl Policy {
    /// Whether the frames of the agent with this name are logged.
    pub fn logs(&self, agent: Option<&str>) -> bool {
        agent.is_some_and(|agent| self.logged_agents.iter().any(|name| name.matches(agent)))
    }
}

/// The newest policy.
#[derive(Default)]
pub struct Newest {
    policy: Mutex<Arc<Policy>>,
    /// [`Rates::generation`] of it.
    generation: AtomicU64,
}

impl Newest {
    /// The first one.
    pub fn new(policy: Policy) -> Self {
        let generation = AtomicU64::new(policy.rates.generation());
        Self { policy: Mutex::new(Arc::new(policy)), generation }
    }

    /// The newest policy.
    pub fn get(&self) -> Arc<Policy> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what is due by agents in `policy` is void.
    pub(super) fn has_other_dues(&self, policy: &Policy) -> bool {
        self.generation.load(Ordering::Relaxed) != policy.rates.generation()
    }

    pub(super) fn set(&self, policy: Arc<Policy>) {
        self.generation.store(policy.rates.generation(), Ordering::Relaxed);
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}
