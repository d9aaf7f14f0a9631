//! What a pick depends on besides the endpoints.

/// What a pick depends on besides the endpoints, drawn by [`Balancer::draw`](super::Balancer::draw).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// Whose turn it is, for round robin.
    pub turn: u64,
    /// Chance.
    pub random: u64,
    /// The request's hash. Ring hash and maglev choose by it; for the other policies it takes the place of turn and chance, so that requests
    /// with one hash go to one endpoint as long as the endpoints do not change.
    pub hash: Option<u64>,
    /// The place of the endpoint that the request's sticky cookie names: taken if it is available.
    pub stuck: Option<usize>,
}

/// A row of chances that one seed decides: SplitMix64, whose rows are even for any seed, a small one too.
#[derive(Clone, Debug)]
pub(super) struct Chances(u64);

impl Chances {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something of this probability happens. Certainty costs no chance.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        /// One in as many: the numbers that a double tells apart between 0 and 1.
        const STEPS: u64 = 1 << 53;
        probability >= 1.0 || (self.below(STEPS) as f64) < probability * STEPS as f64
    }
}
