//! A limit on waiting, for somebody who waits very often, and for one thing at a time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that serves one wait after the other.
///
/// A timeout of its own for each of them would be entered into the runtime's timers and taken out again, which costs
/// more than most waits are worth. This one stays there: for a wait that may last longer it is set anew only when it
/// has come, which it hardly ever does. It is made with the first wait: one that had come before it was asked for would
/// wake the runtime, by a system call, to be told so.
#[derive(Debug, Default)]
pub struct Patience(Option<Pin<Box<Sleep>>>);

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
            let last = *last.get_or_insert_with(&end);
            let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(last)));
            if timer.deadline() > last {
                timer.as_mut().reset(last);
            }
            loop {
                ready!(timer.as_mut().poll(cx));
                if timer.deadline() >= last {
                    return Poll::Ready(Err(Late));
                }
                timer.as_mut().reset(last);
            }
        })
        .await
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

    use tokio::time::sleep;

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

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_not_late() {
        assert_eq!(Patience::default().within(Duration::ZERO, ready(7)).await, Ok(7));
    }
}
