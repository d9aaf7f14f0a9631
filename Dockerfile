# The image of Aralez: the program, the libraries that it names, the certificates of public CAs. No shell, no packages, no root.
#
#   docker build -t aralez .
#   docker run --read-only --cap-drop all -p 8080:8080 -v ./conf:/etc/aralez:ro aralez        # /etc/aralez/main.yaml
#   docker run --read-only --cap-drop all --network host aralez connect -sidecar-for web      # beside a Consul agent
#
# Each platform is built by its own kind of machine: docker buildx build --platform linux/amd64,linux/arm64 .

FROM rust:1.95-slim-bookworm AS build
# OpenSSL (perl, make) and zlib-ng (cmake) are built from source.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates cmake make perl
WORKDIR /source
COPY . .
# dist is slow to build and fastest to run; release for a quick look.
ARG PROFILE=dist
RUN cargo build --locked --bin aralez --profile $PROFILE
# The loader and the libraries go where the program's host has them.
RUN install -D target/$PROFILE/aralez /image/usr/bin/aralez \
    && cp --parents --dereference $(ldd /image/usr/bin/aralez | grep -o '/[^ ]*') /image \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && echo 'aralez:x:10101:10101:Aralez:/:/usr/sbin/nologin' > /image/etc/passwd \
    && echo 'aralez:x:10101:' > /image/etc/group \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf

FROM scratch
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="aralez" \
      org.opencontainers.image.description="A service-mesh sidecar for Consul and a reverse proxy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
COPY --from=build /image /
# Numeric, so that Kubernetes can see that it is not root.
USER 10101:10101
# HTTP and TLS of the reverse proxy, the public listener of a sidecar. The admin API stays on loopback.
EXPOSE 8080 8443 21000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/usr/bin/aralez", "status"]
ENTRYPOINT ["/usr/bin/aralez"]
CMD ["-c", "/etc/aralez/main.yaml"]
