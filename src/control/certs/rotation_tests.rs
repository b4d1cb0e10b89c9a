//! The life of an authority, walked through with a clock of our own.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const LIVES: Lives = Lives {
    authority: Duration::from_secs(90 * 86_400),
    leaf: Duration::from_secs(7 * 86_400),
    settle: Duration::from_secs(120),
};

fn day(number: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * number
}

/// Does what `step` says until it says to wait; returns the steps done.
fn advance(kept: &mut Option<Kept<u32>>, published: bool, now: SystemTime) -> Vec<Step> {
    let mut done = Vec::new();
    loop {
        let next = step(kept.as_ref(), published, &LIVES, now);
        let name = kept.as_ref().map_or(0, |kept| kept.trusted().max().copied().unwrap_or(0)) + 1;
        *kept = match (next, kept.take()) {
            (Step::Wait(until), kept_now) => {
                assert!(until > now, "waits for the past");
                *kept = kept_now;
                return done;
            }
            (Step::Create, _) => Some(Kept::first(name, &LIVES, now)),
            (Step::Prepare, Some(kept)) => Some(kept.prepared(name, &LIVES, now)),
            (Step::Switch, Some(kept)) => Some(kept.switched(now)),
            (Step::Forget, Some(kept)) => Some(kept.forgotten()),
            (_, None) => panic!("a step without anything kept"),
        };
        done.push(next);
        assert!(done.len() < 5, "{done:?}");
    }
}

fn trusted(kept: &Option<Kept<u32>>) -> Vec<u32> {
    kept.iter().flat_map(Kept::trusted).copied().collect()
}

#[test]
fn a_successor_is_trusted_before_it_signs_and_the_old_one_until_its_leaves_are_gone() {
    let mut kept = None;
    assert_eq!(advance(&mut kept, true, day(0)), [Step::Create]);
    assert_eq!(trusted(&kept), [1]);
    assert_eq!(advance(&mut kept, true, day(59)), []);
    assert_eq!(advance(&mut kept, true, day(60)), [Step::Prepare]);
    assert_eq!(trusted(&kept), [1, 2], "1 signs, 2 is trusted");
    assert_eq!(advance(&mut kept, true, day(60) + LIVES.settle / 2), [], "not yet seen by all");
    assert_eq!(advance(&mut kept, false, day(61)), [], "nobody has published it");
    assert_eq!(advance(&mut kept, true, day(61)), [Step::Switch]);
    assert_eq!(trusted(&kept), [2, 1], "2 signs, 1 is still trusted");
    assert_eq!(advance(&mut kept, true, day(67)), []);
    assert_eq!(advance(&mut kept, true, day(68)), [Step::Forget]);
    assert_eq!(trusted(&kept), [2]);
    // Made on day 60 for 90 days, signing since day 61: two thirds of what was left are over on day 120.
    assert_eq!(advance(&mut kept, true, day(120)), []);
    assert_eq!(advance(&mut kept, true, day(121)), [Step::Prepare]);
}

#[test]
fn an_authority_that_is_over_is_replaced_at_once() {
    let mut kept = Some(Kept::first(1, &LIVES, day(0)));
    assert_eq!(advance(&mut kept, true, day(90)), [Step::Create]);
    assert_eq!(trusted(&kept), [2]);
}

#[test]
fn waiting_ends_when_there_is_something_to_do() {
    let kept = Kept::first(1, &LIVES, day(0));
    assert_eq!(step(Some(&kept), true, &LIVES, day(1)), Step::Wait(day(60)));
    let kept = kept.prepared(2, &LIVES, day(60));
    assert_eq!(step(Some(&kept), true, &LIVES, day(60)), Step::Wait(day(60) + LIVES.settle));
    let kept = kept.switched(day(61));
    assert_eq!(step(Some(&kept), true, &LIVES, day(61)), Step::Wait(day(68)));
}
