//! Wakes those who may have to stop what they do.
//!
//! That a credential is withdrawn, or that we shut down, is rare; that a call waits is not. So whoever waits is not
//! entered and taken out again with each call and for each of the reasons to end it: a task is entered once, and when
//! the alarm rings, all look for themselves whether it is for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// One alarm, for whoever rings it and for those who listen.
#[derive(Debug, Clone, Default)]
pub struct Alarm(Arc<Mutex<Listeners>>);

#[derive(Debug, Default)]
struct Listeners {
    by_number: HashMap<u64, Waker>,
    next: u64,
}

impl Alarm {
    /// Wakes everybody who listens. What they are to see has to be there before.
    pub fn ring(&self) {
        let listeners: Vec<Waker> = self.lock().by_number.values().cloned().collect();
        listeners.into_iter().for_each(Waker::wake);
    }

    /// A listener who hears nothing yet.
    pub fn listener(&self) -> Listener {
        Listener { alarm: self.clone(), entered: None }
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task's ear.
#[derive(Debug)]
pub struct Listener {
    alarm: Alarm,
    entered: Option<(u64, Waker)>,
}

impl Listener {
    /// From now on the task that polls is woken when the alarm rings. Whoever looks after this for what has changed
    /// either sees it or is woken.
    pub fn listen(&mut self, cx: &Context<'_>) {
        if self.entered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return;
        }
        let waker = cx.waker();
        let mut listeners = self.alarm.lock();
        let number = self.entered.take().map_or(listeners.next, |(number, _)| number);
        listeners.next = listeners.next.max(number + 1);
        listeners.by_number.insert(number, waker.clone());
        self.entered = Some((number, waker.clone()));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((number, _)) = &self.entered {
            self.alarm.lock().by_number.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Poll, Wake};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_listens_hears_each_ring_until_he_goes() {
        let (alarm, counts) = (Alarm::default(), [(); 2].map(|()| Arc::<Count>::default()));
        let heard = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let mut listeners = [(); 2].map(|()| alarm.listener());
        alarm.ring();
        listeners[0].listen(&Context::from_waker(&wakers[0]));
        alarm.ring();
        assert_eq!(heard(), [1, 0]);
        // Twice is once, and by another task is no more by this one.
        listeners[0].listen(&Context::from_waker(&wakers[0]));
        listeners[1].listen(&Context::from_waker(&wakers[0]));
        listeners[1].listen(&Context::from_waker(&wakers[1]));
        alarm.ring();
        assert_eq!(heard(), [2, 1]);
        let [gone, _stays] = listeners;
        drop(gone);
        alarm.ring();
        assert_eq!(heard(), [2, 2]);
        assert_eq!(alarm.lock().by_number.len(), 1);
    }

    /// However the two meet, what was changed before the ring is seen by whoever listened before he looked.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_missed() {
        for _ in 0..200 {
            let (alarm, state) = (Alarm::default(), Arc::new(AtomicUsize::new(0)));
            let (mut listener, seen) = (alarm.listener(), Arc::clone(&state));
            let waits = crate::runtime::task::spawn(async move {
                poll_fn(|cx| {
                    listener.listen(cx);
                    if seen.load(Ordering::Relaxed) == 1 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            });
            state.store(1, Ordering::Relaxed);
            alarm.ring();
            waits.await.unwrap();
        }
    }
}
