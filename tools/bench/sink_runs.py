"""Runs of one sink each, all from one log that is filled first: the sink is the limit.

Python's standard library only.
"""

import os
import sqlite3
import subprocess
import sys
import time

from side_by_side import metric
from stores import Postgres, Redis


class Sinks:
    """Runs of one sink each, all from the log that was filled first."""

    def __init__(self, bench):
        self.bench, self.runs, self.port = bench, 0, None
        self.postgres = Postgres(bench)

    def fill(self, events):
        """A log of so many events, which is kept."""
        self.port, process = self.bench.start_telemetryx("wal.keep=24h", "sinks.discard.kind=discard")
        while metric(self.port, 'telemetryx_events_received_total{protocol="frames"}') < events:
            self.bench.send(self.port)
        process.terminate()
        process.wait(60)

    def name(self):
        """Of a new sink, which begins with the oldest record of the log."""
        self.runs += 1
        return f"run{self.runs}"

    def delivered(self, name, kind, *settings, others=()):
        """Events a second that the sink delivers, and events per CPU-second of the server and the processes `others`."""
        every = ["wal.keep=24h", "server.drain_timeout=0s", f"sinks.{name}.kind={kind}",
                 *(f"sinks.{name}.{setting}" for setting in settings)]
        _, process = self.bench.start_telemetryx(*every, port=self.port)
        processes = [process, *others]
        counter = f'telemetryx_events_delivered_total{{sink="{name}"}}'

        def next_step():
            """When a delivery has just ended: time, events and CPU time so far."""
            before, until = metric(self.port, counter), time.monotonic() + 60
            while (now := metric(self.port, counter)) == before:
                if time.monotonic() > until or process.poll() is not None:
                    raise SystemExit(f"{kind} delivers nothing:\n{(self.bench.folder / f'{self.port}.log').read_text()}")
                time.sleep(0.002)
            return time.monotonic(), now, sum(map(cpu_seconds, processes))

        next_step()
        time.sleep(1)
        begin = next_step()
        time.sleep(self.bench.seconds)
        seconds, events, cpu = (after - before for before, after in zip(begin, next_step()))
        if metric(self.port, f'telemetryx_sink_lag_events{{sink="{name}"}}') == 0:
            raise SystemExit(f"the log of {kind} ended during the run: {events / seconds:,.0f} events a second")
        deliveries = metric(self.port, f'telemetryx_sink_delivery_seconds_count{{sink="{name}"}}')
        size = metric(self.port, counter) / deliveries
        print(f"{kind}: {events / seconds:,.0f} events a second, {size:,.0f} a delivery", file=sys.stderr, flush=True)
        process.terminate()
        process.wait(60)
        return events / seconds, events / cpu

    def bare(self, *arguments):
        command = [self.bench.baseline, *arguments, self.bench.seconds]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
        return float(done.stdout)

    def ddl(self, kind):
        command = [self.bench.telemetryx, "config", "--set", f"sinks.it.kind={kind}", "--ddl", "it"]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout

    # Each of these makes a store, measures one run into it, and removes it.

    def into_sqlite(self, more="", bare=False):
        name = self.name()
        file = self.bench.folder / f"{name}.db"
        database = sqlite3.connect(file)
        database.executescript(self.ddl("sqlite") + more)
        database.close()
        rate = self.bare("sqlite", file) if bare else self.delivered(name, "sqlite", f"path={file}")[0]
        for left in self.bench.folder.glob(f"{name}.db*"):
            left.unlink()
        return rate

    def into_postgres(self, more="", bare=False):
        name = self.name()
        self.postgres.database(name, self.ddl("postgres") + more)
        url = self.postgres.url(name)
        rate = self.bare("postgres", url) if bare else self.delivered(name, "postgres", f"url={url}", "tls=off")[0]
        self.postgres.drop(name)
        return rate

    def into_redis(self, bare=False):
        redis = Redis(self.bench)
        url = f"redis://127.0.0.1:{redis.port}"
        rate = self.bare("redis", redis.port) if bare else self.delivered(self.name(), "redis", f"url={url}")[0]
        redis.stop()
        return rate


def cpu_seconds(process):
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
