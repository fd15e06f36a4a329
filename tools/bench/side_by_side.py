"""What the measurements here share: servers that are started and ended, the sender, and the table of results.

Python's standard library only.
"""

import json
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
BUFFER_BYTES = 64 * MIB  # the default of server.buffer_bytes


class Bench:
    def __init__(self, arguments, baseline="baseline"):
        """`baseline`: the example whose loops are measured against."""
        self.pairs, self.seconds = arguments.pairs, arguments.seconds
        self.target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        folder = self.target / arguments.profile
        subprocess.run(["cargo", "build", "--locked", "--profile", arguments.profile, "--bin", "telemetryx",
                        "--example", baseline], cwd=ROOT, check=True)
        self.telemetryx, self.baseline = folder / "telemetryx", folder / "examples" / baseline
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="telemetryx-bench-"))
        self.processes = []

    def spawn(self, *command, port, level="warn"):
        log = open(self.folder / f"{port}.log", "wb")
        environment = dict(os.environ, TELEMETRYX_LOG=level)
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment)
        self.processes.append(process)
        return process

    def start(self, *command, port):
        """Starts a server and waits until it listens."""
        process = self.spawn(*command, port=port)
        until = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} does not listen:\n{(self.folder / f'{port}.log').read_text()}")
            time.sleep(0.05)
        time.sleep(0.5)  # it is idle now
        return process

    def command(self, port, settings):
        every = [f"server.address=127.0.0.1:{port}", f"data_dir={self.folder / str(port)}", *settings]
        return [self.telemetryx, "run", *(word for setting in every for word in ("--set", setting))]

    def start_telemetryx(self, *settings, port=None):
        """Starts a server, again where it was if `port` is one that ran before, and waits until it listens."""
        port = port or free_port()
        return port, self.start(*self.command(port, settings), port=port)

    def launch(self, port, *settings):
        """The same, without waiting; its log has what it says of itself."""
        return self.spawn(*self.command(port, settings), port=port, level="info")

    def send(self, port, *options):
        """One run of the sender; its report."""
        command = [self.telemetryx, "bench", "--to", f"127.0.0.1:{port}", "--seconds", self.seconds, "--json", *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
        return json.loads(done.stdout)

    def check_pair(self):
        """One run of criterion: events a second that EventRef checks, and that prost decodes."""
        subprocess.run(["cargo", "bench", "--locked", "--bench", "event_check", "--", "--quiet", "--noplot",
                        "--warm-up-time", "1", "--measurement-time", str(self.seconds / 2), "(EventRef|prost)$"],
                       cwd=ROOT, check=True, capture_output=True)
        folder = self.target / "criterion" / "event_check"
        seconds = [json.loads((folder / name / "new" / "estimates.json").read_text())["median"]["point_estimate"] / 1e9
                   for name in ("EventRef", "prost")]
        return [1_000 / of_batch for of_batch in seconds]

    def append(self, chunk_bytes, seconds, pause_ms=0):
        """What a loop that writes and syncs such chunks does: bytes a second, and the median of one in milliseconds."""
        file = self.folder / "append"
        command = [str(self.baseline), "append", str(file), str(chunk_bytes), str(seconds), str(pause_ms)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def decode(self):
        """Events that serde_json decodes in a CPU-second."""
        command = [str(self.baseline), "decode", str(self.seconds)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def metric(port, name):
    """A value of /metrics; `name` with its labels."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    for line in page.splitlines():
        if line.startswith(name + " "):
            return float(line[len(name):])
    raise SystemExit(f"no {name} in /metrics")


def wait_for(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def resident_bytes(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


class Table:
    """Lines of the table; each is said on standard error as soon as it is known."""

    def __init__(self, pairs):
        self.pairs, self.lines = pairs, []

    def add(self, *cells):
        self.lines.append(cells)
        print(" · ".join(cells), file=sys.stderr, flush=True)

    def ratio(self, what, against, goal, pair):
        """`pair` measures us and them once."""
        rates = [pair() for _ in range(self.pairs)]
        ratios = sorted(our / their for our, their in rates)
        our, their = (statistics.median(side) for side in zip(*rates))
        self.add(what, f"{our:,.0f}", against, f"{their:,.0f}",
                 f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})", goal)

    def figure(self, what, ours, against, theirs, ratio, goal):
        self.add(what, ours, against, theirs, ratio, goal)

    def memory(self, what, resident, against, goal):
        self.add(what, f"{resident / MIB:.1f} MiB", against, "–", "–", f"≤ {goal} MiB")

    def print(self):
        print("\n| | telemetryx | against | | ratio (lowest to highest) | goal |\n|---|--:|---|--:|--:|--:|")
        for cells in self.lines:
            print(f"| {' | '.join(cells)} |")


def per_cpu_second(report):
    if report["refused_messages"] or report["unanswered_messages"]:
        raise SystemExit(f"not everything was acknowledged: {report}")
    rate = (report["server"] or {}).get("events_per_cpu_second")
    if not rate:
        raise SystemExit(f"the CPU time of the server is not known: {report}")
    return rate


def machine():
    words = pathlib.Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in words.splitlines() if line.startswith("model name")), "?")
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / MIB
    release = platform.freedesktop_os_release()
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[1]
    return (f"{model}, {os.cpu_count()} CPUs, {memory:.0f} GiB; {release['PRETTY_NAME']}, "
            f"Linux {platform.release().split('-')[0]}, rustc {rustc}")
