//! When an authority is made, replaced and forgotten. Pure: times are arguments.
//!
//! A new authority is trusted before it signs, and the old one until nothing it signed is left:
//! publish both, wait until that is seen, switch, wait for the last leaf, drop the old one.

use std::time::{Duration, SystemTime};

/// What is kept between processes: authorities by role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept<A> {
    /// Signs now.
    pub current: Held<A>,
    /// Will sign once everybody trusts it.
    pub next: Option<Held<A>>,
    /// Has signed what may still be in use.
    pub previous: Option<Held<A>>,
}

/// An authority and since when it has its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<A> {
    /// The authority.
    pub authority: A,
    /// When it got this role.
    pub since: SystemTime,
    /// When its certificate ends.
    pub until: SystemTime,
}

/// How long things live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// An authority.
    pub authority: Duration,
    /// A leaf that it signs.
    pub leaf: Duration,
    /// From "published" to "everybody has seen it".
    pub settle: Duration,
}

/// The next thing to do to what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing usable is there: make the first one.
    Create,
    /// Make the successor and publish it beside the current one.
    Prepare,
    /// Let the successor sign.
    Switch,
    /// Forget the one that signed before.
    Forget,
    /// Nothing before this time.
    Wait(SystemTime),
}

/// What to do now. `published` says whether all who verify trust the successor already.
pub fn step<A>(kept: Option<&Kept<A>>, published: bool, lives: &Lives, now: SystemTime) -> Step {
    let Some(kept) = kept else { return Step::Create };
    // Over: whoever trusts it cannot be served by it any more, so that there is nothing to overlap.
    if now >= kept.current.until {
        return Step::Create;
    }
    if let Some(previous) = &kept.previous
        && now >= previous.since + lives.leaf
    {
        return Step::Forget;
    }
    match &kept.next {
        None if now >= renewal(&kept.current) => Step::Prepare,
        Some(next) if published && now >= next.since + lives.settle => Step::Switch,
        _ => Step::Wait(wake(kept, lives, now)),
    }
}

/// After two thirds of its time.
pub fn renewal<A>(held: &Held<A>) -> SystemTime {
    let whole = held.until.duration_since(held.since).unwrap_or_default();
    held.since + whole * 2 / 3
}

fn wake<A>(kept: &Kept<A>, lives: &Lives, now: SystemTime) -> SystemTime {
    let forget = kept.previous.as_ref().map(|previous| previous.since + lives.leaf);
    // Past its time it waits for the publication, which its writer will tell.
    let switch = kept.next.as_ref().map(|next| (next.since + lives.settle).max(now + lives.settle));
    let prepare = kept.next.is_none().then(|| renewal(&kept.current));
    [forget, switch, prepare].into_iter().flatten().min().unwrap_or(kept.current.until)
}

impl<A> Kept<A> {
    /// The first one.
    pub fn first(authority: A, lives: &Lives, now: SystemTime) -> Self {
        Self { current: Held { authority, since: now, until: now + lives.authority }, next: None, previous: None }
    }

    /// With a successor beside the current one.
    #[must_use]
    pub fn prepared(self, authority: A, lives: &Lives, now: SystemTime) -> Self {
        Self { next: Some(Held { authority, since: now, until: now + lives.authority }), ..self }
    }

    /// With the successor signing.
    #[must_use]
    pub fn switched(self, now: SystemTime) -> Self {
        match self.next {
            Some(next) => Self {
                current: Held { since: now, ..next },
                next: None,
                previous: Some(Held { since: now, ..self.current }),
            },
            None => self,
        }
    }

    /// Without the one that signed before.
    #[must_use]
    pub fn forgotten(self) -> Self {
        Self { previous: None, ..self }
    }

    /// All that must be trusted now, the signing one first.
    pub fn trusted(&self) -> impl Iterator<Item = &A> {
        [Some(&self.current), self.next.as_ref(), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|held| &held.authority)
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
