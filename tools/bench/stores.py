"""Private, throw-away stores for measurements, on free loopback ports; the system's own are not used.

Settings are the store's own defaults, but for what is said here. tools/test installs the programs. Python's standard
library only.
"""

import os
import pathlib
import subprocess

from side_by_side import ROOT, free_port


def postgres_program(name):
    """Debian keeps the server's programs out of PATH; the newest version is taken."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not found:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1]


class Postgres:
    """A cluster with fsync and synchronous_commit on. A database for each run."""

    def __init__(self, bench):
        self.port = free_port()
        folder = bench.folder / f"postgres-{self.port}"
        folder.mkdir()
        # PostgreSQL does not run as root.
        unprivileged = []
        if os.geteuid() == 0:
            unprivileged = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
            subprocess.run(["chown", "postgres:", folder], check=True)
            bench.folder.chmod(0o711)
        subprocess.run([*unprivileged, postgres_program("initdb"), "-D", folder, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                        "--locale=C", "--no-instructions"], check=True, cwd="/", stdout=subprocess.DEVNULL)
        self.process = bench.start(*unprivileged, postgres_program("postgres"), "-D", folder, "-p", self.port, "-k", "",
                                   "-c", "listen_addresses=127.0.0.1", "-c", "fsync=on", "-c", "synchronous_commit=on",
                                   port=self.port)

    def url(self, database):
        return f"postgres://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, database, statements):
        command = [postgres_program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(database)]
        return subprocess.run(command, input=statements, capture_output=True, text=True, check=True, cwd="/").stdout.strip()

    def database(self, name, statements):
        """A new database; what earlier runs wrote is on the disk, and no checkpoint is due for it."""
        self.run("postgres", f"CREATE DATABASE {name}")
        self.run(name, statements)
        self.run(name, "CHECKPOINT")

    def drop(self, name):
        self.run("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def signal(self, number):
        """To it and every process of its clients."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in [*children.split(), self.process.pid]:
            os.kill(int(pid), number)

    def version(self):
        return "PostgreSQL " + self.run("postgres", "SHOW server_version").split()[0]


class Redis:
    """Syncs its file with each transaction, as docs/operations.md asks for; does not rewrite it."""

    def __init__(self, bench):
        self.port = free_port()
        self.folder = bench.folder / f"redis-{self.port}"
        self.folder.mkdir()
        self.process = bench.start("redis-server", "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--dir", self.folder,
                                   "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0",
                                   port=self.port)

    def run(self, *command):
        words = ["redis-cli", "-p", str(self.port), *command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def stop(self):
        self.process.kill()
        self.process.wait()
        subprocess.run(["rm", "-rf", self.folder], check=True)


def redis_version():
    words = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next("Redis " + word[2:] for word in words if word.startswith("v="))


def start_receiver(bench):
    """The Python kit with a callback that forgets what it gets: its port and its process."""
    python = bench.target / "python"
    subprocess.run([ROOT / "tools" / "python" / "install", python], check=True)
    port = free_port()
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'tools' / 'python')!r}); from telemetryx_receiver import serve; "
            f"serve(lambda delivery: None, '127.0.0.1:{port}').wait()")
    return port, bench.start(python / "bin" / "python3", "-B", "-c", code, port=port)
