# The one image of every role: the sidecar, the controller, the broker, `postern check`.
#
# It holds one static binary and nothing else, neither shell nor libc: what an agent that breaks out of its container
# could use is not there. The roots of public authorities are inside the binary. The binary is built outside, for each
# platform by its own toolchain, and stands in the build context as linux/<architecture>/postern:
#
#     tests/node/image            builds both, here, without a daemon
#     docker build target/image -f Dockerfile --platform linux/amd64,linux/arm64
#
FROM scratch
ARG TARGETARCH
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Postern" \
      org.opencontainers.image.description="Holds the credentials an AI agent needs for its MCP servers, so that the agent never does" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --chmod=0555 linux/${TARGETARCH}/postern /postern
# The sidecar's; admission refuses it to every other container of the pod. By number, as runAsNonRoot asks for.
USER 64321:64321
ENTRYPOINT ["/postern"]
