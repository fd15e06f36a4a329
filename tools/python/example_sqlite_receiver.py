"""A receiver that keeps events in SQLite, each once: python3 example_sqlite_receiver.py events.db [HOST:PORT]

Whether a position is there already is asked in the transaction that writes it: it is the table's primary key.
"""
import argparse
import json
import signal
import sqlite3

from telemetryx_receiver import serve

COLUMNS = ("server_id", "position", "received_at", "time", "kind", "severity", "source", "name", "body", "value",
           "duration_nano", "trace_id", "span_id", "parent_span_id", "agent", "attributes")
TABLE = f"CREATE TABLE IF NOT EXISTS events ({', '.join(COLUMNS)}, PRIMARY KEY (server_id, position)) WITHOUT ROWID"
INSERT = f"INSERT INTO events VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (server_id, position) DO NOTHING"


class Store:
    def __init__(self, path):
        self.database = sqlite3.connect(path, check_same_thread=False)  # used by the one worker of serve()
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")  # what is answered for survives power loss
        self.database.execute(TABLE)

    def __call__(self, delivery):
        refused, rows = [], []
        for index, record in enumerate(delivery.records):
            why = self.refuse(record)
            if why:
                refused.append((index, *why))
            else:
                rows.append(self.row(record))
        with self.database:  # commits, or rolls back what an exception leaves behind
            self.database.executemany(INSERT, rows)
        return refused

    def refuse(self, record):
        """Your rules: (code, reason) for what you will never take. It becomes a dead letter of telemetryx."""
        if record.event.name == "forbidden":
            return "FORBIDDEN", "events of this name are not kept here"

    def row(self, record):
        fields = record.as_dict()
        fields["value"] = record.value  # as a number, also where JSON has none
        if "attributes" in fields:
            fields["attributes"] = json.dumps(fields["attributes"], ensure_ascii=False)
        return [fields.get(column) for column in COLUMNS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keeps the events that telemetryx delivers in SQLite.")
    parser.add_argument("database")
    parser.add_argument("address", nargs="?", default="localhost:50051", help="HOST:PORT")
    args = parser.parse_args()
    try:
        receiver = serve(Store(args.database), args.address)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except sqlite3.Error as error:
        parser.exit(1, f"{parser.prog}: {args.database}: {error}\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: receiver.stop())
    print(f"listening on port {receiver.port}", flush=True)
    receiver.wait()
