# What there is to do here. CI (.github/workflows/ci.yml) runs `make fmt-check clippy check unit-test test`;
# .ci/run does formatting, clippy and tests where there is no make.
.PHONY: run release text-order test lint fmt-check check clippy deny fmt doc proto torture reload otlp asan loom senders syslog fuzz bench bench-lag bench-compare bench-loops bench-steps bench-sinks bench-handshakes bench-tap bench-tracing instructions microbench flamegraph image image-test deb deb-test unit-test alerts-test

run:            ## start the server with the defaults
	cargo run --release

release:        ## one static binary, for example target/x86_64-unknown-linux-gnu/release/telemetryx
	./tools/release

# Its result, tools/text-order.ld, is committed. Needed again when tools/image-test finds an idle server too large.
text-order:     ## record anew which functions an idle server runs, for the linker (x86-64; 10 minutes)
	program=$$(./tools/release) && ./tools/text-order "$$program"

test:           ## all tests; installs what they need
	./tools/test

lint: fmt-check clippy ## formatting and clippy, as CI has them

fmt-check:
	cargo fmt --check

check:          ## that everything compiles; CI does it with the oldest Rust that Cargo.toml names
	cargo check --all-targets --locked

clippy:
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --no-default-features --lib --locked -- -D warnings
	cargo clippy --features profiling --lib --bins --test profiling --locked -- -D warnings

deny:           ## licences, advisories, banned and second crates; tests/project/deny.rs checks all but advisories
	cargo deny --version || cargo install cargo-deny --locked
	cargo deny check

fmt:
	cargo fmt

doc:            ## write docs/configuration.md anew from the table of settings
	UPDATE_DOCS=1 cargo test --locked --lib config::

proto:          ## generate src/event/proto.rs again from proto/events.proto
	UPDATE_PROTO=1 cargo test --locked --test project proto::

# What `make test` does a dozen times: kills under load and in recovery, connections cut at any byte, and power loss (as
# root). Prints its seeds and ledgers; TELEMETRYX_TEST_SEED=… repeats a run.
torture:        ## 100 rounds of kill -9 and of cut connections, 50 with stores and of refused uploads, a minute of windows, 20 of power loss
	TELEMETRYX_TORTURE_ROUNDS=100 cargo test --locked --test system torture:: -- --skip store_torture --nocapture --test-threads=1
	TELEMETRYX_TORTURE_ROUNDS=50 cargo test --locked --test system -- store_torture:: store_faults:: --nocapture --test-threads=1
	cargo test --locked --profile fast --test system shaping:: -- --ignored --nocapture
	TELEMETRYX_TORTURE_ROUNDS=50 cargo test --locked --test refusals -- --nocapture --test-threads=1
	TELEMETRYX_WINDOW_SECONDS=60 TELEMETRYX_SERIES=1000000 cargo test --locked --test system windows:: -- --nocapture --test-threads=1
	TELEMETRYX_TORTURE_ROUNDS=20 ./tools/power-loss

reload:         ## 50 reloads with 1,000 agents and three sinks: nobody disconnected without reason, nothing lost, nothing twice (2 minutes)
	TELEMETRYX_TORTURE_ROUNDS=50 cargo test --locked --test system reload_load:: -- --nocapture

otlp:           ## 100,000 logs, data points and spans each from the OpenTelemetry SDKs, and retries (20 minutes)
	cargo test --locked --test system otlp:: -- --include-ignored --nocapture --test-threads=1

# The module with `unsafe` (src/batch/pool.rs), its users in the pipeline and the log, and a server under load, with every memory
# access checked. Needs a nightly toolchain. Proc macros and build scripts stay without: hence --target.
asan:           ## AddressSanitizer over pool and pipeline (nightly)
	RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR=target/asan \
		cargo +nightly test --locked --target x86_64-unknown-linux-gnu --lib -- batch:: pipeline:: wal::direct
	RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR=target/asan \
		cargo +nightly test --locked --target x86_64-unknown-linux-gnu --test system frames::

senders:        ## 100,000 records each of Python logging, pino, a Collector, syslog over TLS and curl, compared in SQLite (3 minutes)
	TELEMETRYX_SENDER_RECORDS=100000 cargo test --locked --test system senders:: -- --nocapture --test-threads=1

syslog:         ## 100,000 records of rsyslogd and of syslog-ng over each transport, compared in SQLite (5 minutes)
	TELEMETRYX_SYSLOG_RECORDS=100000 cargo test --locked --test system syslog:: -- --nocapture --test-threads=1

# Without the stores: their tokio has no sockets under loom.
loom:           ## every order in which threads can meet in the pool
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test --locked --no-default-features --features server --lib batch::pool::loom_tests

# Bytes of any peer against the parsers (nightly). What a run finds is kept in target/fuzz: the corpus grows from run to
# run, an input that fails is in artifacts/. The small corpus that `make test` runs is fuzz/corpus.
SECONDS ?= 60
fuzz:           ## each fuzz target for SECONDS=60
	cargo fuzz --version || cargo install cargo-fuzz --locked
	for target in $$(cargo fuzz list); do \
		mkdir -p target/fuzz/corpus/$$target target/fuzz/artifacts/$$target; \
		dict=; [ ! -e fuzz/$$target.dict ] || dict=-dict=fuzz/$$target.dict; \
		cargo +nightly fuzz run $$target target/fuzz/corpus/$$target fuzz/corpus/$$target -- \
			$$dict -max_total_time=$(SECONDS) -timeout=20 -artifact_prefix=target/fuzz/artifacts/$$target/ || exit 1; \
	done

alerts-test:    ## the alert rules and their tests (needs promtool: Debian package prometheus)
	promtool check rules tools/prometheus/alerts.yaml
	promtool test rules tools/prometheus/alerts_test.yaml

bench:          ## speed and memory end to end, against others, in one table (40 minutes; installs nats-server)
	./tools/bench/run

bench-lag:      ## a sink that stands still for a minute, and a start with 10 GiB of log (5 minutes, 13 GiB of disk)
	./tools/bench/lag

# make bench-compare BEFORE=HEAD~1
BEFORE ?= HEAD~1
bench-compare:  ## this revision beside another one (BEFORE=), in turn: ratios with their 95 % intervals (30 minutes)
	./tools/bench/compare $(BEFORE)

bench-sinks:    ## each sink against a bare loop into the same store; a store that refuses rows, one that stands still (15 minutes)
	./tools/bench/sinks

bench-handshakes: ## what 1,000 TLS handshakes in a second cost busy agents (2 minutes)
	./tools/bench/handshakes

bench-loops:    ## two event loops against one: cost of an event, and events per second on the clock (5 minutes)
	./tools/bench/loops

bench-steps:    ## steps of a sink, end to end: with a filter or sampling against without (5 minutes)
	./tools/bench/steps

bench-tap:      ## the server beside a running `tap`, against without it (5 minutes)
	./tools/bench/tap

bench-tracing:  ## log lines and spans that are not written, against a build without them: at least 0.99 (15 minutes)
	./tools/bench/tracing

instructions:   ## instructions of the boundaries between stages (needs valgrind; 2 minutes)
	./tools/bench/instructions

microbench:     ## the boundaries between stages, one by one
	cargo bench --locked

flamegraph:     ## where the server's CPU time goes under load: target/flamegraph/*.svg
	./tools/bench/flamegraph

image-test:     ## build the Docker image without a daemon, and use it (root, Debian; 10 minutes, 5 GB of disk)
	./tools/image-test

# PLATFORM: that of this machine, unless set. linux/arm64 is untested: nobody has run it on such a machine yet.
image:          ## the Docker image, with its version (PLATFORM=linux/arm64 is untested)
	docker build $(if $(PLATFORM),--platform $(PLATFORM)) -t telemetryx \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

deb:            ## the Debian package, in target/deb (installs cargo-deb if it is missing)
	./tools/deb

deb-test:       ## install, upgrade and remove the package in a bare Debian (root, Debian; 5 minutes, 300 MB of disk)
	./tools/deb-test

unit-test:      ## the unit of systemd: verify, security, system calls (needs systemd and strace)
	./tools/systemd/test
