//! Which server names a caller may use: the table that every request is decided by.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::binding::{Binding, Server};
use super::decide::Refusal;
use super::name::{BindingId, ServerName};
use super::upstream::UpstreamUrl;

/// One served binding.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The binding.
    pub binding: Arc<Binding>,
    /// Changes whenever the binding does: connections made under another revision are not reused.
    pub revision: u64,
}

/// The bindings of one caller by server name.
#[derive(Debug, Default)]
pub struct Routes {
    by_name: BTreeMap<ServerName, Arc<Route>>,
    gone: HashSet<ServerName>,
    bar: Option<Refusal>,
}

/// What the table knows of a server name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Served.
    Route(&'a Arc<Route>),
    /// Was served, is withdrawn.
    Gone(&'a ServerName),
    /// Never heard of.
    Unknown,
}

/// Two bindings that give one caller the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The one not served.
    pub loser: BindingId,
    /// The one served.
    pub winner: BindingId,
    /// What they share.
    pub over: Overlap,
}

/// What two bindings share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The object's own name: one of the two must be a copy.
    Object,
    /// `server.name`.
    Name,
    /// `server.url`, or one lies below the other, which has `subpaths`.
    Url,
}

impl Overlap {
    /// The field that shows it.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Object => "metadata.name",
            Self::Name => "spec.server.name",
            Self::Url => "spec.server.url",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = self.over.path();
        write!(
            f,
            "binding {} is not served: {} has the same {over} (or covers it) and was first",
            self.loser, self.winner
        )
    }
}

impl Routes {
    /// Builds the table; where two bindings conflict, the one that comes first wins.
    /// `gone` are the names to remember as withdrawn.
    pub fn build(routes: impl IntoIterator<Item = Route>, gone: HashSet<ServerName>) -> (Self, Vec<Conflict>) {
        let mut table = Self { by_name: BTreeMap::new(), gone, bar: None };
        let mut conflicts = Vec::new();
        for route in routes {
            match table.conflict(&route.binding) {
                Some(conflict) => conflicts.push(conflict),
                None => {
                    table.by_name.insert(route.binding.server.name.clone(), Arc::new(route));
                }
            }
        }
        table.gone.retain(|name| !table.by_name.contains_key(name));
        (table, conflicts)
    }

    fn conflict(&self, binding: &Binding) -> Option<Conflict> {
        self.by_name.values().find_map(|route| {
            overlap(&route.binding, binding).map(|over| Conflict {
                loser: binding.id.clone(),
                winner: route.binding.id.clone(),
                over,
            })
        })
    }

    /// Looks a name up; what is no name of a server is unknown.
    pub fn find(&self, name: &str) -> Lookup<'_> {
        match self.by_name.get(name) {
            Some(route) => Lookup::Route(route),
            None => self.gone.get(name).map_or(Lookup::Unknown, Lookup::Gone),
        }
    }

    /// The route whose binding covers `url`, for `check explain`.
    pub fn covering(&self, url: &UpstreamUrl) -> Option<&Arc<Route>> {
        self.by_name.values().find(|route| covers(&route.binding.server, url))
    }

    /// The served routes, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.by_name.values()
    }

    /// The same names, none of which may be used for now, and why.
    #[must_use]
    pub fn barred(&self, bar: Refusal) -> Self {
        Self { by_name: self.by_name.clone(), gone: self.gone.clone(), bar: Some(bar) }
    }

    /// Why nothing may be used for now, if so.
    pub fn bar(&self) -> Option<&Refusal> {
        self.bar.as_ref()
    }

    /// The names to remember as withdrawn.
    pub fn gone(&self) -> &HashSet<ServerName> {
        &self.gone
    }
}

/// Whether the server's binding covers `url`: its own, or segment-wise below it with `subpaths`.
pub fn covers(server: &Server, url: &UpstreamUrl) -> bool {
    server.url.same_origin(url)
        && below(server.url.path(), url.path()).is_some_and(|rest| rest.is_empty() || server.subpaths)
}

/// What follows `base` in `path`, if `path` is `base` or segment-wise below it. A trailing slash
/// does not matter: `/mcp` and `/mcp/` are the same place.
pub fn below<'a>(base: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(base.trim_end_matches('/'))?;
    match rest {
        "" | "/" => Some(""),
        _ => rest.starts_with('/').then_some(rest),
    }
}

/// What two bindings of one caller share, if they cannot both be served.
pub fn overlap(a: &Binding, b: &Binding) -> Option<Overlap> {
    let (a_id, b_id, a, b) = (&a.id, &b.id, &a.server, &b.server);
    if a_id == b_id {
        Some(Overlap::Object)
    } else if a.name == b.name {
        Some(Overlap::Name)
    } else {
        (covers(a, &b.url) || covers(b, &a.url)).then_some(Overlap::Url)
    }
}

#[cfg(test)]
mod tests {
    use super::super::binding::{CredentialSpec, Format, Material, Transports};
    use super::super::name::{DataKey, DataRef, Namespace, ObjectName};
    use super::super::tools::ToolPolicy;
    use super::*;
    use proptest::prelude::*;

    fn route(name: &str, url: &str, subpaths: bool) -> Route {
        let object = ObjectName::parse(&format!("b-{name}-{}", url.as_bytes()[8])).unwrap();
        let secret = DataRef { name: object.clone(), key: DataKey::parse("token").unwrap() };
        let format = Format::parse("Bearer {token}").unwrap();
        let binding = Binding {
            id: BindingId { namespace: Namespace::parse("ns").unwrap(), name: object },
            service_accounts: Vec::new(),
            server: Server {
                name: ServerName::parse(name).unwrap(),
                url: UpstreamUrl::parse(url).unwrap(),
                transports: Transports { streamable_http: true, sse: false },
                subpaths,
                ca_bundle: None,
                tls_name: None,
            },
            credential: CredentialSpec {
                header: http::header::AUTHORIZATION,
                material: Material::Token { secret, format },
            },
            tools: ToolPolicy::default(),
            pass_headers: Vec::new(),
            pass_cookies: Vec::new(),
            allow_batch: false,
            allow_compressed: false,
        };
        Route { binding: Arc::new(binding), revision: 1 }
    }

    fn conflict(a: (&str, &str, bool), b: (&str, &str, bool)) -> Option<Overlap> {
        let routes = [route(a.0, a.1, a.2), route(b.0, b.1, b.2)];
        Routes::build(routes, HashSet::new()).1.first().map(|c| c.over)
    }

    #[test]
    fn bindings_that_overlap_conflict() {
        let rows = [
            (("a", "https://h/mcp", false), ("a", "https://i/mcp", false), Some(Overlap::Name)),
            (("a", "https://h/mcp", false), ("b", "https://h/mcp/", false), Some(Overlap::Url)),
            (("a", "https://h/mcp", true), ("b", "https://h/mcp/x", false), Some(Overlap::Url)),
            (("a", "https://h/mcp/x", false), ("b", "https://h/mcp", true), Some(Overlap::Url)),
            (("a", "https://h/mcp", false), ("b", "https://h/mcp/x", false), None),
            (("a", "https://h/mcp", true), ("b", "https://h/mcpx", false), None),
            (("a", "https://h/mcp", false), ("b", "https://h:444/mcp", false), None),
            (("a", "https://h/mcp", false), ("b", "http://h/mcp", false), None),
        ];
        for (a, b, expected) in rows {
            assert_eq!(conflict(a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_withdrawn_name_is_gone_until_it_is_served_again() {
        let name = ServerName::parse("a").unwrap();
        let (table, _) = Routes::build([], HashSet::from([name.clone()]));
        assert_eq!(table.find("a"), Lookup::Gone(&name));
        let (table, _) = Routes::build([route("a", "https://h/", false)], HashSet::from([name.clone()]));
        assert!(matches!(table.find("a"), Lookup::Route(_)));
        assert_eq!(table.find("b"), Lookup::Unknown);
    }

    proptest! {
        /// A path is below a base only segment by segment, whatever the names.
        #[test]
        fn below_is_segment_wise(base in "(/[a-z]{1,3}){0,3}/?", tail in "[a-z]{1,3}") {
            let trimmed = base.trim_end_matches('/');
            let (inside, beside, rest) = (format!("{trimmed}/{tail}"), format!("{trimmed}{tail}"), format!("/{tail}"));
            prop_assert_eq!(below(&base, &inside), Some(rest.as_str()));
            if !trimmed.is_empty() {
                prop_assert_eq!(below(&base, &beside), None);
            }
        }
    }
}
