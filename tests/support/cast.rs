//! A server and its stores, each of which can be killed and started again.

use std::net::SocketAddr;
use std::path::Path;

use super::server::Server;
use super::stores::{Postgres, Receiver, Redis};

/// As docs/operations.md says for a PostgreSQL and a Redis that keep what they acknowledged.
pub(crate) const DURABLE_POSTGRES: [&str; 3] = ["fsync=on", "synchronous_commit=on", "full_page_writes=on"];
pub(crate) const DURABLE_REDIS: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "no"];

/// By number: 0 is the server, 1 PostgreSQL, 2 Redis, and from 3 on the services.
pub(crate) struct Cast {
    data_dir: tempfile::TempDir,
    settings: Vec<String>,
    /// `None`: it was killed or taken.
    pub(crate) server: Option<Server>,
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) services: Vec<Receiver>,
}

impl Cast {
    /// The stores; the server, with an SQLite file too, is started by [`Cast::start_again`]. `services`: their options.
    pub(crate) fn new(address: SocketAddr, services: &[&[&str]]) -> Self {
        let (postgres, redis) = (Postgres::start(&DURABLE_POSTGRES), Redis::start(&DURABLE_REDIS));
        let settings = vec![
            format!("server.address={address}"),
            "sinks.sqlite.kind=sqlite".to_owned(),
            "sinks.pg.kind=postgres".to_owned(),
            format!("sinks.pg.url={}", postgres.url("postgres")),
            "sinks.redis.kind=redis".to_owned(),
            format!("sinks.redis.url={}", redis.url()),
        ];
        let services = services.iter().map(|options| Receiver::start(options)).collect();
        Self { data_dir: tempfile::tempdir().unwrap(), settings, server: None, postgres, redis, services }
    }

    /// More settings of the server.
    pub(crate) fn set(&mut self, settings: impl IntoIterator<Item = impl Into<String>>) {
        self.settings.extend(settings.into_iter().map(Into::into));
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub(crate) fn kill(&mut self, number: usize) {
        match number {
            0 => self.server.take().expect("it runs").kill(),
            1 => self.postgres.kill(),
            2 => self.redis.kill(),
            service => self.services[service - 3].kill(),
        }
    }

    pub(crate) fn start_again(&mut self, number: usize) {
        match number {
            0 => {
                let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
                self.server = Some(Server::start(self.data_dir.path(), &settings));
            }
            1 => self.postgres.go_on(&DURABLE_POSTGRES),
            2 => self.redis.go_on(),
            service => self.services[service - 3].go_on(),
        }
    }
}
