//! What an error of Redis means for a delivery: its first word decides.

use std::io;

use super::Redis;
use super::connection::{TlsMismatch, Trouble};
use crate::sink::{Unavailable, connection_advice, tls};

/// Who has to act, and what to do about it.
pub(super) enum Verdict {
    /// It passes.
    Retry(&'static str),
    /// A person.
    Down(&'static str),
    /// The slot is being moved: this once, ask the node at `host:port`.
    Ask(String, u16),
    /// The slot is elsewhere.
    Moved(String, u16),
}

/// What a user has to be allowed. AUTH needs no right.
const RIGHTS: &str = "allow this user WATCH, GET, TYPE, XREVRANGE, MULTI, XADD, SET and EXEC on ~<stream>:* (on a Cluster also \
                      CLUSTER and ASKING; for a database other than 0 also SELECT)";

impl Redis {
    /// What the trouble means for the delivery. `place`: before the answer in the message.
    pub(super) fn unavailable(&self, trouble: &Trouble, place: &str) -> Unavailable {
        let answer = self.settings.hide(&trouble.to_string());
        let reason = |advice: &str| {
            let separator = if advice.is_empty() { "" } else { ": " };
            format!("{place}{answer}{separator}{advice}")
        };
        match verdict(trouble) {
            Verdict::Retry(advice) => self.retry(&reason(advice)),
            Verdict::Down(advice) => self.down(&reason(advice)),
            Verdict::Moved(..) if !self.settings.is_cluster => {
                self.down(&reason("this is a node of a Redis Cluster: name its nodes in urls, not in url"))
            }
            Verdict::Moved(..) | Verdict::Ask(..) => self.retry(&reason("")),
        }
    }
}

/// What the error means for the delivery.
pub(super) fn verdict(trouble: &Trouble) -> Verdict {
    let error = match trouble {
        Trouble::Io(error) => return of_connection(error),
        Trouble::Tls(TlsMismatch::Plain) => {
            return Verdict::Down("name it with redis:// in url, or name its TLS port (tls-port)");
        }
        Trouble::Tls(TlsMismatch::Encrypted) => return Verdict::Down("name it with rediss:// in url"),
        Trouble::Unexpected(_) => return Verdict::Retry("is this a Redis server?"),
        Trouble::Server(error) => error,
    };
    let details = error.details().unwrap_or_default();
    let target = || {
        // "3999 127.0.0.1:6381"; no host: the one that answered.
        let (host, port) = details.split_once(' ')?.1.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    };
    match error.code() {
        "ASK" => target().map_or(Verdict::Retry(""), |(host, port)| Verdict::Ask(host, port)),
        "MOVED" => target().map_or(Verdict::Retry(""), |(host, port)| Verdict::Moved(host, port)),
        "LOADING" => Verdict::Retry("it is loading its data after a start"),
        "READONLY" => {
            Verdict::Retry("this is a replica: after a failover this ends by itself; else name the primary in url")
        }
        "CLUSTERDOWN" => Verdict::Retry("`redis-cli cluster info` on a node says which slots are missing"),
        "OOM" => Verdict::Retry("Redis is at maxmemory: lower maxlen, raise maxmemory, or remove keys"),
        "MISCONF" => Verdict::Retry("Redis cannot save to its disk: see its log"),
        "NOREPLICAS" => Verdict::Retry("fewer replicas than min-replicas-to-write are connected"),
        // Of EXEC itself.
        "EXECABORT" if details.contains("NOPERM") => Verdict::Down(RIGHTS),
        "TRYAGAIN" | "MASTERDOWN" | "BUSY" | "UNKILLABLE" | "EXECABORT" => Verdict::Retry(""),
        "ERR" if details.contains("DB index") || details.contains("SELECT is not allowed") => {
            Verdict::Down("the server does not have the database that url names: see `databases` of its configuration")
        }
        "ERR" if details.contains("max number of clients") => Verdict::Retry("raise maxclients of the server"),
        "NOAUTH" | "WRONGPASS" => Verdict::Down("check user and password in url (or the file of url_file)"),
        "NOPERM" => Verdict::Down(RIGHTS),
        "WRONGTYPE" => Verdict::Down("remove or rename the key, or set another stream"),
        "DENIED" => Verdict::Down("Redis is in protected mode: give it a password, or let it listen on this network"),
        "CROSSSLOT" => Verdict::Down("name the Cluster's nodes in urls"),
        "ERR" if details.contains("cluster support disabled") => {
            Verdict::Down("this is not a Cluster: name the server in url, and leave urls out")
        }
        // Of AUTH with two words.
        "ERR" if details.contains("'auth'") => {
            Verdict::Down("Redis before version 6 has no users: leave the user out of url")
        }
        "ERR" if details.contains("AUTH") => Verdict::Down("the server asks for no password: leave it out of url"),
        "ERR" if details.contains("unknown command") || details.contains("unknown subcommand") => {
            Verdict::Down("this sink needs Redis 5 or later with its commands as they are named by default")
        }
        // Its own message has to say enough.
        _ => Verdict::Down(""),
    }
}

/// Of the connection itself.
fn of_connection(error: &io::Error) -> Verdict {
    if let Some(error) = tls::error_in(error) {
        return match tls::trouble(error) {
            tls::Trouble::Certificate => Verdict::Down("check the server's certificate, its name, and ca_file"),
            tls::Trouble::NotTls => Verdict::Down("the server does not speak TLS: name it with redis:// in url"),
            tls::Trouble::ClientCertificate => {
                Verdict::Down("if the server requires a client certificate, set its tls-auth-clients to no")
            }
            tls::Trouble::Other => Verdict::Down("server and sink do not agree on TLS: see the server's log"),
        };
    }
    match error.kind() {
        // Of a Unix socket.
        io::ErrorKind::PermissionDenied => Verdict::Down("let this user read and write the socket"),
        _ => Verdict::Retry(connection_advice(error)),
    }
}

#[cfg(test)]
mod tests {
    use redis::{Parser, Value};

    use super::*;

    fn of(reply: &str) -> Verdict {
        let Ok(Value::ServerError(error)) = Parser::new().parse_value(format!("-{reply}\r\n").as_bytes()) else {
            panic!("{reply} is not an error")
        };
        verdict(&Trouble::Server(error))
    }

    #[test]
    fn each_error_has_its_own_advice() {
        for (reply, is_down, advice) in [
            ("ERR DB index is out of range", true, "does not have the database that url names"),
            ("ERR invalid DB index", true, "does not have the database that url names"),
            ("ERR SELECT is not allowed in cluster mode", true, "does not have the database that url names"),
            ("ERR unknown command 'XADD', with args beginning with: 'x' ", true, "needs Redis 5"),
            ("ERR unknown command `MULTI`", true, "needs Redis 5"),
            ("ERR something else", true, ""),
            ("WRONG nothing", true, ""),
            ("ERR max number of clients reached", false, "maxclients"),
            ("ERR wrong number of arguments for 'auth' command", true, "has no users"),
            ("ERR AUTH <password> called without any password configured", true, "asks for no password"),
            ("ERR Client sent AUTH, but no password is set", true, "asks for no password"),
            ("ERR This instance has cluster support disabled", true, "not a Cluster"),
            ("WRONGPASS invalid username-password pair or user is disabled.", true, "user and password"),
            ("NOAUTH Authentication required.", true, "user and password"),
            ("NOPERM this user has no permissions to run the 'xadd' command", true, "allow this user WATCH"),
            ("EXECABORT Transaction discarded because of: NOPERM User app has no permissions", true, "allow this user"),
            ("EXECABORT Transaction discarded because of previous errors.", false, ""),
            ("DENIED Redis is running in protected mode", true, "protected mode"),
            ("OOM command not allowed when used memory > 'maxmemory'.", false, "maxmemory"),
            ("READONLY You can't write against a read only replica.", false, "replica"),
            ("LOADING Redis is loading the dataset in memory", false, "after a start"),
            ("BUSY Redis is busy running a script.", false, ""),
        ] {
            let (down, found) = match of(reply) {
                Verdict::Down(advice) => (true, advice),
                Verdict::Retry(advice) => (false, advice),
                Verdict::Ask(..) | Verdict::Moved(..) => panic!("{reply}"),
            };
            assert!(down == is_down && found.contains(advice), "{reply}: {found}");
            assert_eq!(found.is_empty(), advice.is_empty(), "{reply}: {found}");
        }
    }

    #[test]
    fn a_connection_that_fails_says_what_to_look_at() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, PermissionDenied, TimedOut};
        for (kind, is_down, advice) in [
            (ConnectionRefused, false, "nothing listens there"),
            (HostUnreachable, false, "network"),
            (TimedOut, false, ""),
            (PermissionDenied, true, "the socket"),
        ] {
            let (down, found) = match verdict(&Trouble::Io(kind.into())) {
                Verdict::Down(advice) => (true, advice),
                Verdict::Retry(advice) => (false, advice),
                Verdict::Ask(..) | Verdict::Moved(..) => panic!("{kind}"),
            };
            assert!(down == is_down && found.contains(advice), "{kind}: {found}");
        }
    }
}
