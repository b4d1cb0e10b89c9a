//! What the webhook tells a sidecar, and where both expect things in the pod: the names that the
//! injected container and the program in it must agree on.

/// The pod's name.
pub const POD_NAME: &str = "POD_NAME";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "POD_NAMESPACE";
/// The pod's UID.
pub const POD_UID: &str = "POD_UID";
/// The pod's service account.
pub const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT";
/// The broker's URL.
pub const BROKER: &str = "POSTERN_BROKER";
/// The certificates that the broker's may be signed with, as PEM.
pub const BROKER_CA: &str = "POSTERN_BROKER_CA";
/// Addresses of the resolvers, joined by commas: the pod's own `/etc/resolv.conf` is not trusted.
pub const RESOLVERS: &str = "POSTERN_RESOLVERS";
/// `true` where every other container of the pod is non-root and without capabilities.
pub const POD_HARDENED: &str = "POSTERN_POD_HARDENED";
/// Where the sidecar answers probes: the pod's address, of whichever family that is.
pub const ADMIN_ADDRESS: &str = "POSTERN_ADMIN_ADDRESS";
/// Names of servers, joined by commas, that the pod narrows itself to. Without it: all bound ones.
pub const SERVERS: &str = "POSTERN_SERVERS";
/// From which level on the sidecar logs. Without it: `info`.
pub const LOG_LEVEL: &str = "POSTERN_LOG_LEVEL";
/// How long running calls may go on at the end. Without it: the sidecar's own default.
pub const SHUTDOWN_GRACE: &str = "POSTERN_SHUTDOWN_GRACE";
/// By what else than the endpoint the agents come: `proxy` or `redirect`. Without it: by nothing else.
pub const CAPTURE: &str = "POSTERN_CAPTURE";
/// Hosts, joined by commas, that agents may reach without a credential.
pub const PASSTHROUGH_HOSTS: &str = "POSTERN_PASSTHROUGH_HOSTS";
/// Certificates that agents are to trust beside the system's roots and the pod's CA, as PEM.
pub const EXTRA_ROOTS: &str = "POSTERN_EXTRA_ROOTS";

/// Ports that `redirect` leaves alone, joined by commas; for the init container.
pub const SKIP_PORTS: &str = "POSTERN_SKIP_PORTS";
/// Networks that `redirect` leaves alone, joined by commas; for the init container.
pub const SKIP_CIDRS: &str = "POSTERN_SKIP_CIDRS";

/// Every name that the sidecar's container gets.
pub const SIDECAR: [&str; 15] = [
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    SERVICE_ACCOUNT,
    BROKER,
    BROKER_CA,
    RESOLVERS,
    POD_HARDENED,
    ADMIN_ADDRESS,
    SERVERS,
    LOG_LEVEL,
    SHUTDOWN_GRACE,
    CAPTURE,
    PASSTHROUGH_HOSTS,
    EXTRA_ROOTS,
];

/// In the agent's containers: the URL that servers stand below.
pub const ENDPOINT: &str = "POSTERN_ENDPOINT";
/// In the agent's containers: the path of `mcp.json`.
pub const MCP_CONFIG: &str = "POSTERN_MCP_CONFIG";

/// Where the sidecar finds the token by which it proves its pod.
pub const TOKEN_DIRECTORY: &str = "/var/run/secrets/postern";
/// That token's file.
pub const TOKEN_FILE: &str = "/var/run/secrets/postern/token";
/// What the sidecar publishes to the other containers.
pub const PUBLIC_DIRECTORY: &str = "/var/run/postern";
/// The file in it that lists the servers.
pub const MCP_CONFIG_FILE: &str = "/var/run/postern/mcp.json";
/// The pod's CA, for clients that add to their roots.
pub const CA_FILE: &str = "/var/run/postern/ca.pem";
/// All roots and the pod's CA, for clients that read one file in place of theirs.
pub const CA_BUNDLE_FILE: &str = "/var/run/postern/ca-bundle.pem";

/// The port of the endpoint, on loopback.
pub const ENDPOINT_PORT: u16 = 15101;
/// The port of the proxy, on loopback.
pub const PROXY_PORT: u16 = 15102;
/// The port to which connections are redirected, on loopback.
pub const REDIRECT_PORT: u16 = 15103;
/// The port of probes and metrics, on the pod's address.
pub const ADMIN_PORT: u16 = 15190;
/// The user that only the sidecar runs as.
pub const UID: u32 = 64321;
