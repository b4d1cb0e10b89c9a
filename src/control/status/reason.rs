//! What is said of a binding, and the closed list of why.

use std::fmt;

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    /// The document can be read, and no older binding has its server.
    Accepted,
    /// What the document refers to is there and may be used.
    ResolvedRefs,
    /// The calls of all its service accounts are served.
    Programmed,
    /// None of its service accounts can read the Secret without Postern.
    Isolated,
}

impl ConditionKind {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::ResolvedRefs, Self::Programmed, Self::Isolated];

    /// The condition's type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Isolated => "Isolated",
        }
    }
}

/// Whether it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody can tell now.
    Unknown,
}

impl Truth {
    /// The condition's status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Declares the reasons with their stable names.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// Why a condition is what it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum StatusReason {
            $($(#[$doc])* $variant,)*
        }

        impl StatusReason {
            /// The stable name: the condition's and the Event's reason.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }
    };
}

reasons! {
    /// The document is good.
    Accepted,
    /// It is good, and an older binding has its server for some of its service accounts.
    PartlyConflicted,
    /// An older binding has its server.
    Conflicted,
    /// The document cannot be read.
    Invalid,
    /// Everything is there.
    Resolved,
    /// No such Secret, or none with the label.
    SecretNotFound,
    /// The Secret has no such key.
    KeyNotFound,
    /// The owner of the Secret has not consented.
    NotConsented,
    /// What is behind the key cannot be a credential.
    InvalidValue,
    /// The broker may not read the namespace.
    NotGranted,
    /// No such ConfigMap or key, or none with the label.
    BundleNotFound,
    /// The ConfigMap holds no usable certificates.
    InvalidBundle,
    /// The namespace has not been read yet.
    Pending,
    /// All of its service accounts are served.
    Programmed,
    /// None of its service accounts may read the Secret.
    Isolated,
    /// One of its service accounts may.
    AgentCanReadSecret,
    /// The API server did not say whether one of them may.
    NotReviewed,
}

impl fmt::Display for StatusReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

use ConditionKind as Kind;
use StatusReason as Reason;

/// Everything that can be said, in the order of the documentation's table.
pub const SAYINGS: &[(Kind, Truth, Reason)] = &[
    (Kind::Accepted, Truth::True, Reason::Accepted),
    (Kind::Accepted, Truth::True, Reason::PartlyConflicted),
    (Kind::Accepted, Truth::False, Reason::Conflicted),
    (Kind::Accepted, Truth::False, Reason::Invalid),
    (Kind::ResolvedRefs, Truth::True, Reason::Resolved),
    (Kind::ResolvedRefs, Truth::False, Reason::SecretNotFound),
    (Kind::ResolvedRefs, Truth::False, Reason::KeyNotFound),
    (Kind::ResolvedRefs, Truth::False, Reason::NotConsented),
    (Kind::ResolvedRefs, Truth::False, Reason::InvalidValue),
    (Kind::ResolvedRefs, Truth::False, Reason::NotGranted),
    (Kind::ResolvedRefs, Truth::False, Reason::BundleNotFound),
    (Kind::ResolvedRefs, Truth::False, Reason::InvalidBundle),
    (Kind::ResolvedRefs, Truth::Unknown, Reason::Pending),
    (Kind::ResolvedRefs, Truth::Unknown, Reason::Invalid),
    (Kind::Programmed, Truth::True, Reason::Programmed),
    (Kind::Programmed, Truth::False, Reason::Conflicted),
    (Kind::Programmed, Truth::False, Reason::Invalid),
    (Kind::Programmed, Truth::False, Reason::SecretNotFound),
    (Kind::Programmed, Truth::False, Reason::KeyNotFound),
    (Kind::Programmed, Truth::False, Reason::NotConsented),
    (Kind::Programmed, Truth::False, Reason::InvalidValue),
    (Kind::Programmed, Truth::False, Reason::NotGranted),
    (Kind::Programmed, Truth::False, Reason::BundleNotFound),
    (Kind::Programmed, Truth::False, Reason::InvalidBundle),
    (Kind::Programmed, Truth::False, Reason::Pending),
    (Kind::Isolated, Truth::True, Reason::Isolated),
    (Kind::Isolated, Truth::False, Reason::AgentCanReadSecret),
    (Kind::Isolated, Truth::Unknown, Reason::NotReviewed),
    (Kind::Isolated, Truth::Unknown, Reason::Invalid),
];
