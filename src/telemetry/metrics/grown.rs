//! A map for the hot path.

use std::{borrow::Borrow, collections::HashMap, fmt, hash::Hash, sync::Arc};

use arc_swap::ArcSwap;

/// A map that is read all the time and grows rarely: reading takes no lock, adding copies the whole.
pub(super) struct Grown<K, V>(ArcSwap<HashMap<K, V>>);

impl<K, V> Default for Grown<K, V> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<K, V> fmt::Debug for Grown<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grown({} entries)", self.0.load().len())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Grown<K, V> {
    /// All values.
    pub(super) fn values(&self) -> Vec<V> {
        self.0.load().values().cloned().collect()
    }

    /// Does something with the value of a key. A new key's value is made by `make`, as long as there are fewer than `cap`
    /// keys; past that, the one of `rest`.
    ///
    /// Two threads may make the value of a new key at once; one of the two is kept, so `make` must hand out equal ones.
    pub(super) fn with<Q, R>(&self, key: &Q, cap: usize, make: impl Fn() -> V, rest: impl Fn() -> V, act: impl FnOnce(&V) -> R) -> R
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let known = self.0.load();
        if let Some(value) = known.get(key) {
            return act(value);
        }
        if known.len() >= cap {
            return act(&rest());
        }
        let value = make();
        self.0.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.entry(key.to_owned()).or_insert_with(|| value.clone());
            Arc::new(map)
        });
        act(&value)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_value_is_made_once_a_key_and_the_cap_holds() {
        let map = Grown::<String, u32>::default();
        let value = |key: &str, made: u32| map.with(key, 2, || made, || 0, |value| *value);
        assert_eq!([value("a", 1), value("a", 9), value("b", 2)], [1, 1, 2]);
        assert_eq!([value("c", 3), value("a", 9)], [0, 1]);
    }
}
