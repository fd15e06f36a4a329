//! What new connections are opened with. The files are read again when they change: what is new takes effect as a whole, or not
//! at all.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

use super::files::{Contents, Files};

/// The certificate and key in force, shared by all event loops.
pub struct Acceptor {
    files: Files,
    tickets_are_sent: bool,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    tickets: Arc<dyn ProducesTickets>,
    contents: Contents,
    not_after: i64,
    /// What was last read and cannot be used, and whether it was reported.
    unusable: Option<(Result<Contents, String>, bool)>,
}

/// What a look at the files came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// As before.
    Unchanged,
    /// New connections use what is in the files now. When the first certificate of the chain expires, in seconds since 1970.
    Replaced(i64),
    /// What is in the files now, and at the look before, cannot be used: the earlier ones stay in force. Reported once.
    Unusable(String),
}

impl Acceptor {
    /// Reads the files. `all_read`: every client reads what the server sends. One that never does leaves the ticket of TLS 1.3, which
    /// comes after the handshake, unread when it closes; its kernel then resets the connection, and drops what it has not sent yet. So
    /// no such ticket is sent where clients of syslog may connect.
    ///
    /// # Errors
    /// They cannot be used; the text begins with the setting.
    pub fn new(files: Files, all_read: bool) -> Result<Self, String> {
        let contents = files.read()?;
        let certificates = files.check(&contents)?;
        let tickets = tickets()?;
        let config = certificates.config(tickets.clone(), all_read).map_err(|error| error.to_string())?;
        let current = Current { config, tickets, contents, not_after: certificates.not_after, unusable: None };
        Ok(Self { files, tickets_are_sent: all_read, current: RwLock::new(current) })
    }

    /// What a new connection is opened with.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Whether both were made from the same contents of the same files.
    pub fn has_same_files(&self, other: &Self) -> bool {
        let contents =
            |acceptor: &Self| acceptor.current.read().unwrap_or_else(PoisonError::into_inner).contents.clone();
        self.files == other.files && contents(self) == contents(other)
    }

    /// When the first certificate of the chain expires: its last second, since 1970.
    pub fn not_after(&self) -> i64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).not_after
    }

    /// Reads the files again. A change that cannot be used is reported when it is there for the second time: who replaces two
    /// files replaces one first. Called by one thread.
    pub fn look(&self) -> Looked {
        let contents = self.files.read();
        let (tickets, is_seen) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            if contents.as_ref() == Ok(&current.contents) && current.unusable.is_none() {
                return Looked::Unchanged;
            }
            let is_seen = current.unusable.as_ref().filter(|(unusable, _)| *unusable == contents);
            // A client that has lost its trust must not come back by a ticket.
            let keeps_trust = contents.as_ref().is_ok_and(|contents| contents.clients == current.contents.clients);
            (keeps_trust.then(|| current.tickets.clone()), is_seen.map(|(_, is_reported)| *is_reported))
        };
        if is_seen == Some(true) {
            return Looked::Unchanged;
        }
        let loaded = contents.clone().and_then(|contents| self.load(contents, tickets));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(loaded) if loaded.contents == current.contents => {
                // What was put there meanwhile was taken back.
                current.unusable = None;
                Looked::Unchanged
            }
            Ok(loaded) => {
                *current = loaded;
                Looked::Replaced(current.not_after)
            }
            Err(error) => {
                let report = is_seen.is_some();
                current.unusable = Some((contents, report));
                if report { Looked::Unusable(error) } else { Looked::Unchanged }
            }
        }
    }

    fn load(&self, contents: Contents, kept: Option<Arc<dyn ProducesTickets>>) -> Result<Current, String> {
        let certificates = self.files.check(&contents)?;
        let tickets = kept.map_or_else(tickets, Ok)?;
        let config = certificates.config(tickets.clone(), self.tickets_are_sent).map_err(|error| error.to_string())?;
        Ok(Current { config, tickets, contents, not_after: certificates.not_after, unusable: None })
    }
}

/// Tickets by which clients resume their sessions; the server keeps nothing for them but the keys, which change.
fn tickets() -> Result<Arc<dyn ProducesTickets>, String> {
    Ticketer::new().map_err(|error| format!("tls: the system provides no random bytes: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tls::testing::{Authority, Issued};

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).unwrap();
    }

    fn files_in(dir: &Path) -> Files {
        Files { cert: dir.join("cert"), key: dir.join("key"), client_ca: Some(dir.join("ca")), client_crl: None }
    }

    fn acceptor(dir: &Path) -> Acceptor {
        let issued = Issued::self_signed_until("localhost", (2040, 1, 1));
        write(dir, "cert", &issued.pem);
        write(dir, "key", &issued.key);
        write(dir, "ca", &Authority::new("clients").pem);
        Acceptor::new(files_in(dir), true).unwrap()
    }

    #[test]
    fn a_new_pair_takes_effect_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = acceptor(dir.path());
        let (before, ends) = (acceptor.config(), acceptor.not_after());
        assert_eq!(acceptor.look(), Looked::Unchanged);
        let next = Issued::self_signed_until("localhost", (2041, 1, 1));
        write(dir.path(), "cert", &next.pem);
        // The key is not there yet: nothing changes, and a moment of it is no trouble.
        assert_eq!(acceptor.look(), Looked::Unchanged);
        assert!(Arc::ptr_eq(&before, &acceptor.config()) && acceptor.not_after() == ends);
        write(dir.path(), "key", &next.key);
        assert_eq!(acceptor.look(), Looked::Replaced(2_240_611_200));
        assert!(!Arc::ptr_eq(&before, &acceptor.config()) && acceptor.not_after() == 2_240_611_200);
        assert!(Arc::ptr_eq(&before.ticketer, &acceptor.config().ticketer), "sessions can still be resumed");
        assert_eq!(acceptor.look(), Looked::Unchanged);
    }

    /// As Kubernetes replaces the files of a secret: they are links into a directory, and that is a link that is replaced.
    #[test]
    fn a_directory_that_is_replaced_behind_links_takes_effect_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::new("clients").pem;
        let put = |version: &str, issued: &Issued| {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            for (name, text) in [("cert", &issued.pem), ("key", &issued.key), ("ca", &ca)] {
                write(&dir.path().join(version), name, text);
            }
            std::os::unix::fs::symlink(version, dir.path().join("next")).unwrap();
            std::fs::rename(dir.path().join("next"), dir.path().join("..data")).unwrap();
        };
        put("..1", &Issued::self_signed_until("localhost", (2040, 1, 1)));
        for name in ["cert", "key", "ca"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
        }
        let acceptor = Acceptor::new(files_in(dir.path()), true).unwrap();
        let before = acceptor.config();
        put("..2", &Issued::self_signed_until("localhost", (2041, 1, 1)));
        assert_eq!(acceptor.look(), Looked::Replaced(2_240_611_200));
        assert!(Arc::ptr_eq(&before.ticketer, &acceptor.config().ticketer), "sessions can still be resumed");
        // The files of the first version go away later.
        std::fs::remove_dir_all(dir.path().join("..1")).unwrap();
        assert_eq!((acceptor.look(), acceptor.look()), (Looked::Unchanged, Looked::Unchanged));
        // Empty for a moment, as where they are written in place.
        let key = std::fs::read_to_string(dir.path().join("key")).unwrap();
        write(dir.path(), "key", "");
        assert_eq!(acceptor.look(), Looked::Unchanged);
        write(dir.path(), "key", &key);
        assert_eq!((acceptor.look(), acceptor.not_after()), (Looked::Unchanged, 2_240_611_200));
    }

    #[test]
    fn what_stays_unusable_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = acceptor(dir.path());
        let before = acceptor.config();
        let cert = std::fs::read_to_string(dir.path().join("cert")).unwrap();
        write(dir.path(), "cert", "nothing");
        assert_eq!(acceptor.look(), Looked::Unchanged);
        assert!(matches!(acceptor.look(), Looked::Unusable(why) if why.contains("contains no certificate")));
        assert_eq!(acceptor.look(), Looked::Unchanged);
        std::fs::remove_file(dir.path().join("cert")).unwrap();
        assert_eq!(acceptor.look(), Looked::Unchanged);
        assert!(matches!(acceptor.look(), Looked::Unusable(why) if why.contains("cannot be read")));
        write(dir.path(), "cert", &cert);
        assert_eq!((acceptor.look(), acceptor.look()), (Looked::Unchanged, Looked::Unchanged));
        assert!(Arc::ptr_eq(&before, &acceptor.config()));
        write(dir.path(), "cert", "nothing");
        assert_eq!(acceptor.look(), Looked::Unchanged);
        assert!(matches!(acceptor.look(), Looked::Unusable(_)), "it is unusable anew");
    }

    #[test]
    fn sessions_of_clients_end_with_the_trust_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = acceptor(dir.path());
        let before = acceptor.config();
        write(dir.path(), "ca", &Authority::new("others").pem);
        assert!(matches!(acceptor.look(), Looked::Replaced(_)));
        assert!(!Arc::ptr_eq(&before.ticketer, &acceptor.config().ticketer));
    }
}
