//! Whatever happens in whatever order, only what is there in the end counts, and no account has another's.

use proptest::prelude::*;

use serde_json::json;

use super::scenario_tests::*;
use super::*;

const SPACES: [&str; 2] = ["ns", "other"];
const ACCOUNTS: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const KEPT: [&str; 2] = ["s", "t"];

/// One thing that happens in the cluster.
#[derive(Debug, Clone)]
enum Happens {
    Bound { space: usize, name: usize, form: Form },
    Unbound { space: usize, name: usize },
    Kept { space: usize, name: usize, token: usize, consent: usize },
    Dropped { space: usize, name: usize },
    Access { space: usize, granted: bool },
}

#[derive(Debug, Clone)]
struct Form {
    accounts: Vec<usize>,
    server: usize,
    secret: usize,
    born: u32,
    /// Cannot be read.
    broken: bool,
}

fn forms() -> impl Strategy<Value = Form> {
    let accounts = proptest::sample::subsequence(vec![0, 1, 2], 1..=3);
    (accounts, 0..2usize, 0..2usize, 0..3u32, proptest::bool::weighted(0.15))
        .prop_map(|(accounts, server, secret, born, broken)| Form { accounts, server, secret, born, broken })
}

fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        6 => (0..2usize, 0..3usize, forms()).prop_map(|(space, name, form)| Happens::Bound { space, name, form }),
        2 => (0..2usize, 0..3usize).prop_map(|(space, name)| Happens::Unbound { space, name }),
        6 => (0..2usize, 0..2usize, 0..3usize, 0..5usize)
            .prop_map(|(space, name, token, consent)| Happens::Kept { space, name, token, consent }),
        1 => (0..2usize, 0..2usize).prop_map(|(space, name)| Happens::Dropped { space, name }),
        1 => (0..2usize, proptest::bool::weighted(0.7)).prop_map(|(space, granted)| Happens::Access { space, granted }),
    ];
    proptest::collection::vec(one, 0..40)
}

/// The cluster itself: what is there now.
#[derive(Debug, Clone, Default)]
struct Cluster {
    bindings: BTreeMap<(usize, usize), Form>,
    secrets: BTreeMap<(usize, usize), (usize, usize)>,
    denied: BTreeSet<usize>,
}

impl Cluster {
    fn happen(&mut self, what: &Happens) {
        match what.clone() {
            Happens::Bound { space, name, form } => drop(self.bindings.insert((space, name), form)),
            Happens::Unbound { space, name } => drop(self.bindings.remove(&(space, name))),
            Happens::Kept { space, name, token, consent } => {
                self.secrets.insert((space, name), (token, consent));
            }
            Happens::Dropped { space, name } => drop(self.secrets.remove(&(space, name))),
            Happens::Access { space, granted: true } => drop(self.denied.remove(&space)),
            Happens::Access { space, granted: false } => drop(self.denied.insert(space)),
        }
    }

    fn raw(&self, at: (usize, usize)) -> Value {
        let form = &self.bindings[&at];
        let accounts: Vec<&str> = form.accounts.iter().map(|account| ACCOUNTS[*account]).collect();
        let raw = binding(&format!("{}/{}", SPACES[at.0], NAMES[at.1]), &accounts, form.born);
        let raw = with(raw, "/spec/credential/secretRef/name", json!(KEPT[form.secret]));
        let server = ["git", "wiki"][form.server];
        let raw = with(raw, "/spec/server/name", json!(server));
        if form.broken { with(raw, "/spec/server/url", json!("ftp://x")) } else { raw }
    }

    /// Each Secret has a value of its own, so that nobody can have another's unnoticed.
    fn token(at: (usize, usize), token: usize) -> String {
        format!("{}-{}-{token}", SPACES[at.0], KEPT[at.1])
    }

    fn secret(&self, at: (usize, usize)) -> SecretObject {
        let (token, consent) = self.secrets[&at];
        let (hosts, accounts) = [
            (Some(HOST), None),
            (Some(HOST), Some("a,c")),
            (Some(HOST), Some("b")),
            (Some("evil.example"), None),
            (None, None),
        ][consent];
        consenting(KEPT[at.1], u32::try_from(token).unwrap(), &Self::token(at, token), hosts, accounts)
    }

    fn secrets_of(&self, space: usize) -> Vec<SecretObject> {
        self.secrets.keys().filter(|at| at.0 == space).map(|at| self.secret(*at)).collect()
    }

    /// Every value that the account may have, by the words of the design alone.
    fn may_have(&self, space: usize, account: usize) -> BTreeSet<String> {
        let bound = self.bindings.iter().filter(|((at, _), form)| {
            *at == space && form.accounts.contains(&account) && !form.broken && !self.denied.contains(&space)
        });
        let values = bound.filter_map(|(_, form)| {
            let at = (space, form.secret);
            let (token, consent) = *self.secrets.get(&at)?;
            let consents = [vec![0, 1, 2], vec![0, 2], vec![1], vec![], vec![]];
            consents[consent].contains(&account).then(|| Self::token(at, token))
        });
        values.collect()
    }
}

/// As the watches would tell it: the change itself, or nothing of what may not be read.
fn change(cluster: &Cluster, what: &Happens) -> Vec<Change> {
    let space = |space: usize| namespace(SPACES[space]);
    match what {
        Happens::Bound { space, name, .. } => vec![Change::Binding(cluster.raw((*space, *name)))],
        Happens::Unbound { space, name } => vec![Change::BindingGone(id(SPACES[*space], NAMES[*name]))],
        Happens::Kept { space: at, .. } | Happens::Dropped { space: at, .. } if cluster.denied.contains(at) => vec![],
        Happens::Kept { space: at, name, .. } => vec![Change::Secret(space(*at), cluster.secret((*at, *name)))],
        Happens::Dropped { space: at, name } => vec![Change::SecretGone(space(*at), object(KEPT[*name]))],
        Happens::Access { space: at, granted: false } => {
            vec![Change::Access(scope(Kind::Secrets, SPACES[*at]), Access::Denied)]
        }
        Happens::Access { space: at, granted: true } => listed(cluster, *at).into(),
    }
}

fn listed(cluster: &Cluster, space: usize) -> [Change; 2] {
    [
        Change::Access(scope(Kind::Secrets, SPACES[space]), Access::Granted),
        Change::Secrets(namespace(SPACES[space]), cluster.secrets_of(space)),
    ]
}

fn everybody() -> Vec<(usize, usize, String)> {
    let all = (0..2).flat_map(|space| (0..3).map(move |account| (space, account)));
    all.map(|(space, account)| (space, account, format!("{}/{}", SPACES[space], ACCOUNTS[account]))).collect()
}

fn world() -> World {
    let accounts = everybody();
    let names: Vec<&str> = accounts.iter().map(|(.., name)| name.as_str()).collect();
    World::new(&names)
}

/// What everybody has; the times at which it came are of the way there.
fn ends(world: &World) -> BTreeMap<String, Vec<String>> {
    let undated = |text: String| text.split(" at ").next().unwrap_or_default().to_owned();
    let views = world.readers.iter();
    views.map(|(who, reader)| (who.clone(), shown(&reader.borrow()).into_iter().map(undated).collect())).collect()
}

/// An index that is told of `cluster` as a whole.
fn from_lists(cluster: &Cluster, secrets_first: bool) -> World {
    let mut world = world();
    let bindings = || Change::Bindings(cluster.bindings.keys().map(|at| cluster.raw(*at)).collect());
    let spaces = (0..2).flat_map(|space| {
        if cluster.denied.contains(&space) {
            vec![Change::Access(scope(Kind::Secrets, SPACES[space]), Access::Denied)]
        } else {
            listed(cluster, space).into()
        }
    });
    let spaces: Vec<Change> = spaces.collect();
    if secrets_first {
        spaces.into_iter().chain([bindings()]).for_each(|change| drop(world.apply(change)));
    } else {
        [bindings()].into_iter().chain(spaces).for_each(|change| drop(world.apply(change)));
    }
    world
}

/// An index that follows everything as it happens.
fn followed(happenings: &[Happens]) -> (Cluster, World) {
    let (mut cluster, mut world) = (Cluster::default(), world());
    world.apply(Change::Bindings(vec![]));
    (0..2).flat_map(|space| listed(&cluster, space)).for_each(|change| drop(world.apply(change)));
    for what in happenings {
        cluster.happen(what);
        change(&cluster, what).into_iter().for_each(|change| drop(world.apply(change)));
    }
    (cluster, world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Step by step, from lists in either order, or from lists told again: the end is the same.
    #[test]
    fn only_what_is_there_counts(happenings in happenings()) {
        let (cluster, mut world) = followed(&happenings);
        let end = ends(&world);
        prop_assert_eq!(&end, &ends(&from_lists(&cluster, false)));
        prop_assert_eq!(&end, &ends(&from_lists(&cluster, true)));
        // A list that brings nothing new is not told to anybody.
        let again = Change::Bindings(cluster.bindings.keys().map(|at| cluster.raw(*at)).collect());
        prop_assert_eq!(world.apply(again), Vec::<String>::new());
        for space in (0..2).filter(|space| !cluster.denied.contains(space)) {
            for change in listed(&cluster, space) {
                prop_assert_eq!(world.apply(change), Vec::<String>::new());
            }
        }
        prop_assert_eq!(&end, &ends(&world));
    }

    /// Things that happen to different objects may be told in any order.
    #[test]
    fn the_order_of_different_objects_does_not_count(happenings in happenings(), seed in any::<u64>()) {
        let object = |what: &Happens| match what {
            Happens::Bound { space, name, .. } | Happens::Unbound { space, name } => ("binding", *space, *name),
            Happens::Kept { space, name, .. } | Happens::Dropped { space, name } => ("secret", *space, *name),
            Happens::Access { .. } => ("access", 0, 0),
        };
        let happenings: Vec<Happens> =
            happenings.into_iter().filter(|what| !matches!(what, Happens::Access { .. })).collect();
        // Each object's own story stays in order; whose turn it is next, the seed decides.
        let mut stories: BTreeMap<_, std::collections::VecDeque<Happens>> = BTreeMap::new();
        for what in &happenings {
            stories.entry(object(what)).or_default().push_back(what.clone());
        }
        let (mut turns, mut mixed) = (seed, Vec::new());
        while !stories.is_empty() {
            turns = turns.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(turns >> 33).unwrap() % stories.len();
            let key = *stories.keys().nth(at).unwrap();
            let story = stories.get_mut(&key).unwrap();
            mixed.extend(story.pop_front());
            if story.is_empty() {
                stories.remove(&key);
            }
        }
        prop_assert_eq!(ends(&followed(&happenings).1), ends(&followed(&mixed).1));
    }

    /// At no moment has an account a value that its bindings and their owners do not give it.
    #[test]
    fn no_account_ever_has_anothers(happenings in happenings()) {
        let (mut cluster, mut world) = followed(&[]);
        for what in &happenings {
            cluster.happen(what);
            change(&cluster, what).into_iter().for_each(|change| drop(world.apply(change)));
            for (space, account, who) in everybody() {
                let may = cluster.may_have(space, account);
                let view = world.readers[&who].borrow().clone();
                for text in shown(&view) {
                    let value = text.split_once('=').map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned());
                    prop_assert!(value.as_ref().is_none_or(|value| may.contains(value)), "{} has {}, not of {:?}", who, text, may);
                }
                // And what it may have, it has, but where an older binding has the server.
                let has = view.items.iter().filter(|item| item.value.is_ok()).count();
                let lost = cluster.bindings.values().filter(|form| form.accounts.contains(&account)).count();
                prop_assert!(may.is_empty() || has > 0 || lost > 1, "{} has nothing of {:?}", who, may);
            }
        }
    }
}
