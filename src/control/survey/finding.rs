//! What a survey says: the closed lists of what is looked at and of how it stands, and one finding.

use std::fmt;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// As it should be.
    Good,
    /// It works, and somebody should know something.
    Warning,
    /// Calls are refused, or something is less safe than Postern promises.
    Wrong,
    /// It could not be looked at. That is never taken for good.
    Unchecked,
}

impl Grade {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 4] = [Self::Good, Self::Warning, Self::Wrong, Self::Unchecked];

    /// For people, and the stable name for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
            Self::Unchecked => "not checked",
        }
    }
}

/// A part of what is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The objects that Postern brings.
    Installation,
    /// The bindings and what they refer to.
    Bindings,
    /// Who may do what with the rights of a service account.
    Rights,
    /// The pods that run.
    Pods,
}

impl Section {
    /// The heading.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Installation => "Installation",
            Self::Bindings => "Bindings",
            Self::Rights => "Who could read what",
            Self::Pods => "Pods",
        }
    }
}

/// Declares what is looked at, with the stable name and the part that it belongs to.
macro_rules! topics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal in $section:ident;)*) => {
        /// What is looked at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Topic {
            $($(#[$doc])* $variant,)*
        }

        impl Topic {
            /// All of them, in the order in which they are told.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name for machines.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The part that it belongs to.
            pub const fn section(self) -> Section {
                match self { $(Self::$variant => Section::$section,)* }
            }
        }
    };
}

topics! {
    /// The CustomResourceDefinition is there, and this program's.
    Definition = "definition" in Installation;
    /// The API server calls the webhook and can believe it.
    Webhook = "webhook" in Installation;
    /// The policies are there and deny.
    Policy = "policy" in Installation;
    /// The broker tells its certificates.
    Signer = "signer" in Installation;
    /// A binding is served.
    Binding = "binding" in Bindings;
    /// Its value is long enough to be masked safely.
    ShortValue = "short_value" in Bindings;
    /// The broker may read where bindings are.
    Grant = "grant" in Rights;
    /// An agent cannot read the Secret of its binding.
    SecretAccess = "secret_access" in Rights;
    /// An agent cannot make tokens of its service account.
    TokenAccess = "token_access" in Rights;
    /// An agent cannot run something in other containers.
    ExecAccess = "exec_access" in Rights;
    /// An agent cannot make pods.
    PodAccess = "pod_access" in Rights;
    /// A pod that is to have a sidecar has one.
    Injection = "injection" in Pods;
    /// A sidecar trusts the broker as it is now.
    PodSigner = "pod_signer" in Pods;
    /// A sidecar is of the present image.
    Image = "image" in Pods;
    /// Something is bound to a pod with a sidecar.
    Unbound = "unbound" in Pods;
    /// What runs beside a sidecar trusts the authority that it has now.
    PodAuthority = "pod_authority" in Pods;
    /// That authority may sign for everything that is bound.
    BoundLater = "bound_later" in Pods;
    /// Pods with capture `redirect` can be created where they are wanted.
    PodSecurity = "pod_security" in Pods;
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The kind of object.
    pub kind: &'static str,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name; none for all of that kind.
    pub name: Option<String>,
}

impl Place {
    /// All objects of a kind.
    pub fn all(kind: &'static str) -> Self {
        Self { kind, namespace: None, name: None }
    }

    /// An object of the cluster.
    pub fn of_cluster(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, namespace: None, name: Some(name.into()) }
    }

    /// An object of a namespace.
    pub fn within(kind: &'static str, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: Some(name.into()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}"),
            (None, Some(name)) | (Some(name), None) => write!(f, " {name}"),
            (None, None) => Ok(()),
        }
    }
}

/// One thing that was looked at. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub topic: Topic,
    /// How it stands.
    pub grade: Grade,
    /// Where.
    pub place: Place,
    /// What was found.
    pub what: String,
    /// What to do about it, where there is something to do.
    pub fix: Option<String>,
}

impl Finding {
    pub(super) fn good(topic: Topic, place: Place, what: impl Into<String>) -> Self {
        Self { topic, grade: Grade::Good, place, what: what.into(), fix: None }
    }

    pub(super) fn warning(topic: Topic, place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { topic, grade: Grade::Warning, place, what: what.into(), fix: Some(fix.into()) }
    }

    pub(super) fn wrong(topic: Topic, place: Place, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { topic, grade: Grade::Wrong, place, what: what.into(), fix: Some(fix.into()) }
    }

    pub(super) fn unchecked(topic: Topic, place: Place, why: &Unseen) -> Self {
        Self { topic, grade: Grade::Unchecked, place, what: why.to_string(), fix: None }
    }
}

/// Why something could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// What was tried: `list Secrets in research`.
    pub tried: String,
    /// What came of it.
    pub why: Why,
}

/// What came of a question to the API server that was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Whoever asks may not.
    Forbidden,
    /// The API server has no such kind of object.
    UnknownKind,
    /// Something else; its kind, in words.
    Failed(String),
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Forbidden => write!(f, "may not {}", self.tried),
            Why::UnknownKind => write!(f, "cannot {}: the API server has no such kind", self.tried),
            Why::Failed(kind) => write!(f, "cannot {}: {kind}", self.tried),
        }
    }
}

/// What was seen, or why nothing was.
pub type Seen<T> = Result<T, Unseen>;
