//! What an error of Redis means for a delivery: its first word decides.

use super::connection::Trouble;

/// Who has to act, and what to do about it.
pub enum Verdict {
    /// It passes.
    Retry(&'static str),
    /// A person.
    Down(&'static str),
    /// The slot is being moved: this once, ask the node at `host:port`.
    Ask(String, u16),
    /// The slot is elsewhere.
    Moved(String, u16),
}

pub fn verdict(trouble: &Trouble) -> Verdict {
    let error = match trouble {
        Trouble::Io(error) => {
            return match error.get_ref() {
                Some(inner) if inner.is::<rustls::Error>() => {
                    Verdict::Down("check the server's certificate, its name, and ca_file")
                }
                _ => Verdict::Retry(""),
            };
        }
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
        "LOADING" => Verdict::Retry("it reads its data after a start"),
        "READONLY" => Verdict::Retry("this is a replica: after a failover it passes; else name the primary in url"),
        "CLUSTERDOWN" => Verdict::Retry("`redis-cli cluster info` on a node says which slots are missing"),
        "OOM" => Verdict::Retry("Redis is at maxmemory: lower maxlen, raise maxmemory, or remove keys"),
        "MISCONF" => Verdict::Retry("Redis cannot save to its disk: see its log"),
        "NOREPLICAS" => Verdict::Retry("fewer replicas than min-replicas-to-write are connected"),
        "TRYAGAIN" | "MASTERDOWN" | "BUSY" | "UNKILLABLE" | "EXECABORT" => Verdict::Retry(""),
        "ERR" if details.contains("max number of clients") => Verdict::Retry("raise maxclients of the server"),
        "NOAUTH" | "WRONGPASS" => Verdict::Down("check user and password in url (or the file of url_file)"),
        "NOPERM" => Verdict::Down(
            "allow this user GET, SET, WATCH, UNWATCH, MULTI, EXEC, TYPE and XADD on ~<stream>:* (and CLUSTER on a \
             Cluster)",
        ),
        "WRONGTYPE" => Verdict::Down("remove or rename the key, or set another stream"),
        "DENIED" => Verdict::Down("Redis is in protected mode: give it a password, or let it listen on this network"),
        "CROSSSLOT" => Verdict::Down("name the Cluster's nodes in urls"),
        "ERR" if details.contains("cluster support disabled") => {
            Verdict::Down("this is no Cluster: name the server in url, and leave urls out")
        }
        // Of AUTH with two words.
        "ERR" if details.contains("'auth'") => {
            Verdict::Down("Redis before 6 knows no users: leave the user out of url")
        }
        "ERR" if details.contains("AUTH") => Verdict::Down("the server asks for no password: leave it out of url"),
        _ => Verdict::Down("this sink needs Redis 5 or later with its commands as they are named by default"),
    }
}
