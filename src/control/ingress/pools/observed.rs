//! Values that tasks keep fresh and others look at: shared by key, stopped with their last user.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// A value whose observers are woken when it changes.
#[derive(Debug)]
pub struct Observed<T>(Mutex<(T, Vec<Weak<Notify>>)>);

impl<T: Clone + PartialEq> Observed<T> {
    /// With its first value.
    pub fn new(value: T) -> Self {
        Self(Mutex::new((value, Vec::new())))
    }

    /// The value.
    pub fn get(&self) -> T {
        self.0.lock().0.clone()
    }

    /// Replaces the value; wakes observers if it differs.
    pub fn set(&self, value: T) {
        let (known, observers) = &mut *self.0.lock();
        if *known != value {
            *known = value;
            observers.retain(|observer| observer.upgrade().map(|observer| observer.notify_one()).is_some());
        }
    }

    /// From now on wakes `observer`, for as long as it lives. Each observer has one waiter.
    pub fn observe(&self, observer: &Arc<Notify>) {
        let observers = &mut self.0.lock().1;
        observers.retain(|known| known.strong_count() > 0);
        observers.push(Arc::downgrade(observer));
    }
}

/// A value with the task that keeps it fresh; dropping it ends the task.
#[derive(Debug)]
pub struct Running<T> {
    /// The value.
    pub now: Arc<Observed<T>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Clone + PartialEq> Running<T> {
    /// Starts the task.
    pub fn start<F: Future<Output = ()> + Send + 'static>(first: T, task: impl FnOnce(Arc<Observed<T>>) -> F) -> Arc<Self> {
        let now = Arc::new(Observed::new(first));
        let task = AbortOnDropHandle::new(tokio::spawn(task(now.clone())));
        Arc::new(Self { now, _task: task })
    }
}

/// What is in use, by key.
#[derive(Debug)]
pub struct Shared<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V> Shared<K, V> {
    /// The one of this key, made if nobody uses it yet.
    pub fn get_or(&self, key: &K, make: impl FnOnce() -> Arc<V>) -> Arc<V> {
        let mut known = self.0.lock();
        if let Some(value) = known.get(key).and_then(Weak::upgrade) {
            return value;
        }
        known.retain(|_, value| value.strong_count() > 0);
        let value = make();
        known.insert(key.clone(), Arc::downgrade(&value));
        value
    }

    /// All that are in use.
    pub fn all(&self) -> Vec<(K, Arc<V>)> {
        self.0.lock().iter().filter_map(|(key, value)| Some((key.clone(), value.upgrade()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn observers_are_woken_by_another_value_and_by_no_equal_one() {
        let (value, observer) = (Observed::new(1), Arc::new(Notify::new()));
        value.observe(&observer);
        value.set(1);
        assert_eq!(observer.notified().now_or_never(), None);
        value.set(2);
        assert!(observer.notified().now_or_never().is_some() && value.get() == 2);
    }

    #[tokio::test]
    async fn what_is_shared_lives_as_long_as_it_is_used() {
        let shared = Shared::<&str, Running<u8>>::default();
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let first = shared.get_or(&"a", || {
            Running::start(1, |_| async move {
                let _held = ended;
                std::future::pending().await
            })
        });
        let same = shared.get_or(&"a", || Running::start(2, |_| async {}));
        assert!(Arc::ptr_eq(&first, &same) && shared.all().len() == 1);
        drop((first, same));
        assert!(end.await.is_err(), "the task has ended");
        assert!(shared.all().is_empty());
    }
}
