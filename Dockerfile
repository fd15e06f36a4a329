# The image is one static binary and an empty /data: no shell, no libc, no certificates on disk (trusted CAs are compiled in).
#
#   docker build -t telemetryx .
#   docker run -p 4640:4640 -v telemetryx-data:/data --stop-timeout 15 telemetryx
#
# `make image` builds it with version and revision in its labels. `make image PLATFORM=linux/arm64` builds for that platform, on such a
# machine or by emulation; this is untested. `make image-test` builds and runs the image without a Docker daemon.

ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src

# Dependencies in a layer of their own: it is built again only when the manifest, the lock file or the build flags change.
# Every target that Cargo.toml names must exist, so each gets an empty file.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY tools/release tools/text-order.ld tools/
RUN mkdir src \
 && touch src/lib.rs \
 && echo 'fn main() {}' | tee src/main.rs build.rs >/dev/null \
 && for name in $(sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"/\1/p' Cargo.toml); do \
        mkdir -p benches && touch "benches/$name.rs"; \
    done \
 && for path in $(sed -n '/^\[\[example\]\]/,/^$/s/^path = "\(.*\)"/\1/p' Cargo.toml); do \
        mkdir -p "$(dirname "$path")" && touch "$path"; \
    done \
 && tools/release

COPY build.rs ./
COPY src src
# Newer than what was built of the empty files, whatever times the sources have.
RUN touch build.rs src/lib.rs src/main.rs \
 && mkdir -p /out/data \
 && cp "$(tools/release)" /out/telemetryx \
 && strip /out/telemetryx

FROM scratch
# After FROM: a change of them builds nothing again.
# VERSION is that of Cargo.toml (tests/system/image.rs); `make image` and compose.yaml set REVISION.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="telemetryx" \
      org.opencontainers.image.description="Telemetry ingestion server: agents in over TCP frames or HTTP, out to the stores a team already runs" \
      org.opencontainers.image.vendor="the telemetryx authors" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/telemetryx /telemetryx
# A user without a name: an empty root has no /etc/passwd. A new volume takes its owner from this directory.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
# A file, not variables: these would override the settings of a file that is mounted in its place. The health check reads it.
COPY tools/image.toml /etc/telemetryx/telemetryx.toml
ENV TELEMETRYX_CONFIG=/etc/telemetryx/telemetryx.toml
VOLUME /data
EXPOSE 4640
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["/telemetryx", "health"]
ENTRYPOINT ["/telemetryx"]
