//! The closed lists of an admission's reasons: why a pod is refused, and why one is left alone.

use std::fmt;

/// Declares an enum with the stable name and, for refusals, the fix of each value.
macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $fix:literal;)*) => {
        /// Why a pod was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AdmissionReason {
            $($(#[$doc])* $variant,)*
        }

        impl AdmissionReason {
            /// Every reason, in the order of the documentation's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name: metric label, log field, first word of the message.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What to do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $fix,)* }
            }
        }
    };
}

refusals! {
    /// A switch with a value that it does not have.
    BadSwitch = "bad_switch",
        "postern.dev/inject is \"true\" or \"false\" on a pod, and enabled, disabled or enforce on a namespace";
    /// The pod says no where the namespace does not let it.
    OptOutForbidden = "opt_out_forbidden",
        "the namespace enforces injection: remove postern.dev/inject from the pod, or ask whoever owns the namespace";
    /// An unknown key or a bad value.
    InvalidConfig = "invalid_config",
        "correct the annotation; docs/injection.md lists all of them";
    /// A value that only the administrator may let through.
    NotAllowed = "not_allowed",
        "ask the platform team to allow it in Postern's settings, or remove it";
    /// A privileged container.
    Privileged = "privileged",
        "a privileged container can read the sidecar's memory: remove securityContext.privileged";
    /// A namespace of the node.
    HostNamespaces = "host_namespaces",
        "the pod would share it with the node and other pods there: remove the field";
    /// A directory of the node.
    HostPath = "host_path",
        "paths of the node can lead to other pods' tokens: use another volume, or ask the platform team to allow this path";
    /// A capability that reaches into other containers.
    Capability = "capability",
        "it reaches beyond its own container: remove it from securityContext.capabilities.add";
    /// A process that could take the sidecar's user, which `redirect` leaves alone, or go past sockets.
    Unconfined = "unconfined",
        "with capture redirect no other process may take the sidecar's user: in securityContext set allowPrivilegeEscalation: false, drop ALL, or NET_RAW, SETUID and SETGID, and add none of them";
    /// Something that runs before the redirection is there.
    OutOfOrder = "out_of_order",
        "nothing may run before postern-init: put it behind, or have the webhook that put it there called before Postern's";
    /// One process namespace for all containers.
    SharedProcesses = "shared_processes",
        "the other containers could look into the sidecar's process: remove shareProcessNamespace";
    /// Not Linux.
    Windows = "windows",
        "the sidecar runs on Linux nodes only";
    /// The sidecar's user in another container.
    ReservedUid = "reserved_uid",
        "user 64321 is the sidecar's alone: use another runAsUser";
    /// A container, volume or mount with one of our names, that is not ours.
    ReservedName = "reserved_name",
        "Postern adds it by itself: remove it from the pod, or find out which webhook changed it";
    /// A token for the broker that is not the sidecar's.
    ReservedAudience = "reserved_audience",
        "tokens for postern.dev/broker are the sidecar's alone: remove the projection";
    /// A stdio server in the pod.
    StdioUnsupported = "stdio_unsupported",
        "Postern guards network calls only: run the server behind Streamable HTTP, bind its https url and use mcp.json";
    /// Not a pod that the API server would take.
    MalformedPod = "malformed_pod",
        "correct the manifest";
    /// The namespace's labels cannot be had.
    NamespaceUnknown = "namespace_unknown",
        "its labels could not be read just now; try again";
    /// Nothing that the sidecar could trust the broker by.
    BrokerCaUnknown = "broker_ca_unknown",
        "a sidecar without them would trust nobody: try again when the broker has told them, or ask the platform team";
}

impl fmt::Display for AdmissionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a pod was let through as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unchanged {
    /// Neither pod nor namespace asks for injection.
    NotAsked,
    /// The pod says no.
    OptedOut,
    /// The namespace says no.
    NamespaceDisabled,
    /// Everything is there already.
    AlreadyInjected,
    /// A node's image of a static pod: nothing can be added to it.
    MirrorPod,
    /// Something else than the creation of a pod: the webhook's rules send too much.
    NotAPodCreation,
}

impl Unchanged {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NotAsked,
        Self::OptedOut,
        Self::NamespaceDisabled,
        Self::AlreadyInjected,
        Self::MirrorPod,
        Self::NotAPodCreation,
    ];

    /// The stable name: metric label and log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::OptedOut => "opted_out",
            Self::NamespaceDisabled => "namespace_disabled",
            Self::AlreadyInjected => "already_injected",
            Self::MirrorPod => "mirror_pod",
            Self::NotAPodCreation => "not_a_pod_creation",
        }
    }
}

/// One thing for which a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which rule.
    pub reason: AdmissionReason,
    /// Where and what, without any value that could be a secret: `spec.hostNetwork is true`.
    pub cause: String,
}

impl Fault {
    /// A fault; `cause` says where and what.
    pub fn new(reason: AdmissionReason, cause: impl Into<String>) -> Self {
        Self { reason, cause: cause.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.reason, self.cause, self.reason.advice())
    }
}

/// A text of the pod as it may be repeated: a name, not whatever someone pasted there.
pub(super) fn printable(name: &str) -> &str {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    let fits = !name.is_empty() && name.len() <= 80 && name.bytes().all(allowed);
    if fits { name } else { "(unprintable)" }
}
