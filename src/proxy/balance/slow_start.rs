//! Slow start: a new endpoint's share grows to its full weight.

use std::time::Duration;

/// The share of a new endpoint at first, as in Envoy.
const COLD: f64 = 0.1;

/// The share of its full weight that an endpoint of this age has: it grows in proportion to its age until the window is over, and is never less
/// than a tenth. In \[0.1, 1\]; 1 for an empty window.
pub fn warmth(age: Duration, window: Duration) -> f64 {
    if age >= window { 1.0 } else { age.div_duration_f64(window).max(COLD) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warmth_grows_from_a_tenth_to_one() {
        let of = |age| warmth(Duration::from_secs(age), Duration::from_secs(40));
        assert_eq!([of(0), of(4), of(10), of(20), of(39), of(40), of(400)], [0.1, 0.1, 0.25, 0.5, 0.975, 1.0, 1.0]);
        assert_eq!(warmth(Duration::ZERO, Duration::ZERO), 1.0);
    }
}
