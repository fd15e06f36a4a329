"""What the measurements here share: servers that are started and ended, the sender, and the table of results.

Python's standard library only.
"""

import contextlib
import json
import os
import pathlib
import platform
import random
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
    def __init__(self, arguments, baseline="baseline", pinned=False):
        """`baseline`: the example whose loops are measured against. `pinned`: every server runs on the first CPU and the sender
        on the last one, so that neither takes the other's time; what a server costs is then on one CPU, and its threads share it."""
        cpus = sorted(os.sched_getaffinity(0))
        self.server_cpu, self.sender_cpu = ({cpus[0]}, {cpus[-1]}) if pinned and len(cpus) > 1 else (None, None)
        self.pairs, self.seconds = arguments.pairs, arguments.seconds
        self.level = "warn"  # of the servers' logs
        self.target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        folder = self.target / arguments.profile
        subprocess.run(["cargo", "build", "--locked", "--profile", arguments.profile, "--features", "rivals",
                        "--bin", "telemetryx", "--example", baseline], cwd=ROOT, check=True)
        self.telemetryx, self.baseline = folder / "telemetryx", folder / "examples" / baseline
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="telemetryx-bench-"))
        self.processes = []

    def spawn(self, *command, port, level=None):
        log = open(self.folder / f"{port}.log", "wb")
        environment = dict(os.environ, TELEMETRYX_LOG=level or self.level)
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment,
                                   preexec_fn=on(self.server_cpu))
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
        seconds = () if "--seconds" in options else ("--seconds", self.seconds)
        command = [self.telemetryx, "bench", "--to", f"127.0.0.1:{port}", *seconds, "--json", *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                              preexec_fn=on(self.sender_cpu))
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
        return json.loads(done.stdout)

    def check_pair(self):
        """One run of criterion: events per second that EventRef checks, and that prost decodes."""
        return self.criterion_pair("event_check", "EventRef", "prost")

    def otlp_pair(self):
        """One run of criterion: log records per second that OtlpDecoder maps to events, and that prost decodes."""
        return self.criterion_pair("otlp_in", "OtlpDecoder", "prost")

    def criterion_pair(self, bench, *names):
        """Events per second of two functions of a bench whose batches have 1,000 events."""
        subprocess.run(["cargo", "bench", "--locked", "--features", "rivals", "--bench", bench, "--", "--quiet", "--noplot",
                        "--warm-up-time", "1", "--measurement-time", str(self.seconds / 2), f"({'|'.join(names)})$"],
                       cwd=ROOT, check=True, capture_output=True, preexec_fn=on(self.server_cpu))
        folder = self.target / "criterion" / bench
        seconds = [json.loads((folder / name / "new" / "estimates.json").read_text())["median"]["point_estimate"] / 1e9
                   for name in names]
        return [1_000 / of_batch for of_batch in seconds]

    def append(self, chunk_bytes, seconds, pause_ms=0):
        """What a loop that writes and syncs such chunks does: bytes a second, and the median of one in milliseconds."""
        file = self.folder / "append"
        command = [str(self.baseline), "append", str(file), str(chunk_bytes), str(seconds), str(pause_ms)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=on(self.server_cpu))
        return json.loads(done.stdout)

    def decode(self):
        """Events that serde_json decodes in a CPU-second."""
        command = [str(self.baseline), "decode", str(self.seconds)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True,
                                    preexec_fn=on(self.server_cpu)).stdout)

    def run(self, sender, settings, options):
        """One run of `sender` against a server of its own: its report."""
        port, server = self.start_telemetryx(*settings)
        try:
            return sender.send(port, *options)
        finally:
            self.end(server, port)

    def end(self, process, port):
        """Ends one server, and deletes what it stored."""
        process.terminate()
        process.wait(20)
        self.processes.remove(process)
        shutil.rmtree(self.folder / str(port), ignore_errors=True)

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


def on(cpus):
    """What a child does first: it moves to these CPUs (`None`: it stays where it may run)."""
    return (lambda: os.sched_setaffinity(0, cpus)) if cpus else None


@contextlib.contextmanager
def busy_loops():
    """One process that never waits for each CPU, as other programs on a busy machine."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=on({cpu}))
             for cpu in sorted(os.sched_getaffinity(0))]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def wait_until_quiet(load=0.3, seconds=180):
    """Waits until nothing else runs, by the load of the last minute. Whether it is so."""
    print(f"waiting for a load below {load} (at most {seconds} s)", file=sys.stderr, flush=True)
    return wait_for(lambda: os.getloadavg()[0] < load, seconds)


def interval(ratios, draws=2000):
    """Median, and the 95 % interval of the median by resampling."""
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[draws // 40], medians[-draws // 40 - 1]


def compare(what, pairs, this, other):
    """Measures both in turn, and prints the median of this/other with its 95 % interval."""
    ratios = []
    for number in range(pairs):
        # Whatever the first run of a pair does to the second meets both sides as often.
        if number % 2:
            theirs = other()
            ours = this()
        else:
            ours = this()
            theirs = other()
        ratios.append(ours / theirs)
    median, low, high = interval(ratios)
    print(f"| {what} | **{median:.3f}** | {low:.3f} to {high:.3f} | {pairs} |", flush=True)


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
    """Lines of the table; each is printed on standard error as soon as it is known.

    A ratio's interval covers what differs from run to run, not what differs between two starts of a server: all its runs use the same two.

    `with_busy`: each ratio is measured a second time beside busy loops, and has a column more.
    """

    def __init__(self, pairs, with_busy=False):
        self.pairs, self.with_busy, self.lines = pairs, with_busy, []

    def add(self, *cells):
        self.lines.append(cells)
        print(" · ".join(cells), file=sys.stderr, flush=True)

    def ratio(self, what, against, goal, pair):
        """`pair` measures us and them once."""
        rates = [pair() for _ in range(self.pairs)]
        our, their = (statistics.median(side) for side in zip(*rates))
        busy = []
        if self.with_busy:
            with busy_loops():
                busy.append(ratio_of([pair() for _ in range(self.pairs)]))
        self.add(what, f"{our:,.0f}", against, f"{their:,.0f}", ratio_of(rates), *busy, goal)

    def figure(self, what, ours, against, theirs, ratio, goal):
        self.add(what, ours, against, theirs, ratio, *["–"] * self.with_busy, goal)

    def memory(self, what, resident, against, goal):
        self.figure(what, f"{resident / MIB:.1f} MiB", against, "–", "–", f"≤ {goal} MiB")

    def print(self):
        busy = " beside busy loops |" if self.with_busy else ""
        print(f"\n| | telemetryx | against | | ratio (95 % interval) |{busy} goal |")
        print(f"|---|--:|---|--:|--:|{'--:|' if busy else ''}--:|")
        for cells in self.lines:
            print(f"| {' | '.join(cells)} |")


def ratio_of(rates):
    median, low, high = interval([our / their for our, their in rates])
    return f"**{median:.2f}** ({low:.2f} to {high:.2f})"


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
