//! A limit on waiting, for somebody who waits very often, and for one thing at a time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that serves one wait after the other.
///
/// A timeout of its own for each of them would be entered into the runtime's timers and taken out again, which costs
/// more than most waits are worth. This one stays there: for a wait that may last longer it is set anew only when it
/// has come, which it hardly ever does. It is made with the first wait: one that had come before it was asked for would
/// wake the runtime, by a system call, to be told so. And it is told whom to wake once, not with each wait.
#[derive(Debug, Default)]
pub struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    /// Whom the timer wakes, as long as it has not come.
    wakes: Option<Waker>,
}

/// It did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late;

impl Patience {
    /// Waits for `future`, at most this long. It is pinned by whoever waits: an argument of its own size would be
    /// kept twice.
    pub async fn within<F: Future + Unpin>(&mut self, time: Duration, future: F) -> Result<F::Output, Late> {
        self.until(|| end(now(), time), future).await
    }

    /// The same for whoever knows the time already.
    pub async fn within_from<F: Future + Unpin>(
        &mut self,
        now: std::time::Instant,
        time: Duration,
        future: F,
    ) -> Result<F::Output, Late> {
        self.until(|| end(now.into(), time), future).await
    }

    async fn until<F: Future + Unpin>(&mut self, end: impl Fn() -> Instant, mut future: F) -> Result<F::Output, Late> {
        let mut last = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = Pin::new(&mut future).poll(cx) {
                return Poll::Ready(Ok(output));
            }
            // What is there already needs no timer.
            self.poll_late(cx, *last.get_or_insert_with(&end)).map(Err)
        })
        .await
    }

    fn poll_late(&mut self, cx: &mut Context<'_>, last: Instant) -> Poll<Late> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(last)));
        if timer.deadline() > last {
            timer.as_mut().reset(last);
        } else if !timer.is_elapsed() && self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        loop {
            // A task that has done enough for this time is turned away before it is entered.
            let enters = coop::has_budget_remaining();
            self.wakes = None;
            if timer.as_mut().poll(cx).is_pending() {
                self.wakes = enters.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if timer.deadline() >= last {
                return Poll::Ready(Late);
            }
            timer.as_mut().reset(last);
        }
    }
}

/// So far off that it never comes, where the sum would be no time any more.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

fn end(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or_else(|| now + NEVER)
}

#[expect(clippy::disallowed_methods, reason = "the runtime's own clock, which tests can stop")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use tokio::time::{sleep, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the stopped clock tells how long was waited")]
    async fn each_wait_has_its_own_limit() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        assert_eq!(patience.within(LONG, pending::<()>()).await, Err(Late));
        assert_eq!(begun.elapsed().as_secs(), 60);
        // Shorter, and longer, than the one before.
        assert_eq!(patience.within(SHORT, pending::<()>()).await, Err(Late));
        assert_eq!(patience.within(LONG, pending::<()>()).await, Err(Late));
        assert_eq!(begun.elapsed().as_secs(), 121);
        // A limit that has passed long ago does not count for the next wait.
        assert_eq!(patience.within(SHORT, pin!(sleep(SHORT / 2))).await, Ok(()));
        sleep(LONG).await;
        assert_eq!(patience.within(SHORT, pin!(sleep(SHORT / 2))).await, Ok(()));
        assert_eq!(patience.within(Duration::MAX, pin!(sleep(LONG))).await, Ok(()));
    }

    /// The timer wakes whoever waits now, not whoever waited before.
    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "the stopped clock tells how long was waited")]
    async fn another_task_may_wait() {
        let mut patience = Patience::default();
        let one = async move {
            assert_eq!(patience.within(LONG, pin!(sleep(SHORT))).await, Ok(()));
            patience
        };
        let mut patience = crate::runtime::task::spawn(one).await.unwrap();
        let begun = Instant::now();
        assert_eq!(timeout(2 * LONG, patience.within(LONG, pending::<()>())).await, Ok(Err(Late)));
        assert_eq!(begun.elapsed().as_secs(), 60);
    }

    /// A task that has spent its share of a turn cannot enter itself with a timer.
    #[tokio::test(start_paused = true)]
    async fn who_has_no_turn_left_is_late_all_the_same() {
        let mut patience = Patience::default();
        let (mut wait, mut spent) = (pin!(patience.within(SHORT, pending::<()>())), false);
        let wait = poll_fn(|cx| {
            while !spent && coop::has_budget_remaining() {
                let _spends = pin!(coop::consume_budget()).poll(cx);
            }
            spent = true;
            wait.as_mut().poll(cx)
        });
        assert_eq!(timeout(LONG, wait).await, Ok(Err(Late)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_not_late() {
        assert_eq!(Patience::default().within(Duration::ZERO, ready(7)).await, Ok(7));
    }
}
