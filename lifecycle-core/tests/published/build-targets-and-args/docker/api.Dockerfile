ARG RUST_VERSION
FROM rust:${RUST_VERSION}-slim AS build
WORKDIR /src
COPY . .
FROM build AS tools
CMD ["migrate"]
FROM debian:bookworm-slim AS runtime
COPY --from=build /src /srv
CMD ["/srv/api"]
