//! Names that cannot be wrong: a value of these types has been parsed, once, at the edge.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a text is not a name of the kind asked for. Says what is expected, never what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{expected}")]
pub struct NameError {
    /// The expected form, fit to follow "must be".
    pub expected: &'static str,
}

const DNS_LABEL: &str = "a DNS label: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
/// What the name of most Kubernetes objects is.
pub const DNS_SUBDOMAIN: &str = "a DNS name: labels of a-z, 0-9 and '-' joined by '.', at most 253 characters";
/// What a key inside a Secret is.
pub const SECRET_KEY: &str =
    "a Secret key: 1 to 253 of A-Z, a-z, 0-9, '-', '_' and '.', not '.' or beginning with '..'";

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// As Kubernetes has it: 253 in all, and no other bound for the labels. Pods and Secrets of long names exist.
fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty() && bytes.iter().all(inner) && bytes.first() != Some(&b'-') && bytes.last() != Some(&b'-')
}

/// Declares a name: a shared string that only `parse` can make.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $valid:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Accepts `text` if it has the form, else says which form was expected.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(NameError { expected: $expected }) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// To look one up by a text that need not be one.
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A Kubernetes namespace (RFC 1123 label).
    Namespace, is_dns_label, DNS_LABEL
);
name!(
    /// A Kubernetes service account (RFC 1123 subdomain).
    ServiceAccount, is_dns_subdomain, DNS_SUBDOMAIN
);
name!(
    /// The name of a Kubernetes object: a binding, a Secret, a ConfigMap.
    ObjectName, is_dns_subdomain, DNS_SUBDOMAIN
);
name!(
    /// A key inside a Secret or ConfigMap. Also a file name, hence no `..`.
    DataKey,
    |text| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed) && text != "." && !text.starts_with("..")
    },
    SECRET_KEY
);
name!(
    /// An upstream MCP server as the agent names it: URL segment and metric label.
    ServerName,
    |text| is_dns_label(text) && !RESERVED_SERVERS.contains(&text), SERVER_NAME
);

/// What the name of a server is.
pub const SERVER_NAME: &str =
    "a DNS label other than register, token and authorize (those are OAuth paths that Postern answers itself)";

/// Server names that would collide with the OAuth paths answered locally.
pub const RESERVED_SERVERS: [&str; 3] = ["register", "token", "authorize"];

/// One binding, cluster-wide.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingId {
    /// The namespace it lives in.
    pub namespace: Namespace,
    /// Its object name.
    pub name: ObjectName,
}

impl fmt::Display for BindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One key of one Secret or ConfigMap in the binding's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataRef {
    /// The object's name.
    pub name: ObjectName,
    /// The key inside it.
    pub key: DataKey,
}

impl fmt::Display for DataRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.key)
    }
}

/// Who calls, as the platform proves it; never taken from a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// What decides which bindings apply and which connections may be shared.
    pub key: CallerKey,
    /// The pod, for the access log only.
    pub pod: Option<ObjectName>,
}

/// The identity that owns credentials and connections.
///
/// Typed fields, never a joined string: `a:b` + `c` and `a` + `b:c` must stay two callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallerKey {
    /// The pod's namespace.
    pub namespace: Namespace,
    /// The pod's service account.
    pub service_account: ServiceAccount,
    /// The end user behind the pod, once one can be proven: (issuer, subject).
    pub user: Option<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_accept_their_form_and_nothing_else() {
        for good in ["a", "github", "a-1", "0", &"x".repeat(63)] {
            assert!(ServerName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "register", "token", "authorize", "é", &"x".repeat(64)] {
            assert!(ServerName::parse(bad).is_err(), "{bad}");
        }
        // A ReplicaSet's pods, a Helm release's Secret: Kubernetes bounds the whole, not each label.
        for good in ["a", "a.b-1.0", &"x".repeat(64), &"x".repeat(253)] {
            assert!(ObjectName::parse(good).is_ok() && ServiceAccount::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "a-.b", "A", "a_b", &"x".repeat(254)] {
            assert!(ObjectName::parse(bad).is_err() && ServiceAccount::parse(bad).is_err(), "{bad}");
        }
        for good in ["token", "a.b", "A_b-1", ".hidden"] {
            assert!(DataKey::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "..data", "a/b", "a\0", "a b"] {
            assert!(DataKey::parse(bad).is_err(), "{bad}");
        }
    }
}
