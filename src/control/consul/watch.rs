//! Keeps asking one question: the rules of blocking queries as a pure [`step`], and the loop that follows it.

use std::time::Duration;

use consul_api_types::{Blocking, Meta, Query};
use tokio::time::{Instant, sleep};

use super::{
    caught_up::{TAKEN_OVER, caught_up},
    client::{Answer, At, Client},
    error::Error,
};
use crate::control::watches::Watch;

/// The first failure is retried after half to all of this.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// The longest pause after an answer that is an error.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause while the token is refused: people must act first.
const LONGEST_PAUSE_FORBIDDEN: Duration = Duration::from_secs(60);

/// The longest pause while nobody listens: asking costs nothing there, and a restarted agent is found soon.
const LONGEST_PAUSE_REFUSED: Duration = Duration::from_secs(5);

/// What one answer costs of the budget below: one question a second in the long run.
const COST: Duration = Duration::from_secs(1);

/// The most that quiet times and pauses save up: two answers in quick succession are free, as with Consul's own watches.
const BUDGET: Duration = Duration::from_secs(2);

/// Where a watch stands between two questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// From where on it asks next.
    pub at: At,
    /// Where the last answer stood.
    seen: At,
    /// Failures in a row.
    pub failures: u32,
    /// Who may have been restarted since the last answer.
    doubt: Doubt,
    /// Time saved up for questions in quick succession.
    budget: Duration,
}

/// Who may have been restarted, and answer from less than it knew before (see [`super::caught_up`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    Nobody,
    Servers,
    /// The agent too: it was silent, or the connection broke.
    Agent,
}

impl Default for State {
    fn default() -> Self {
        Self { at: At::Now, seen: At::Now, failures: 0, doubt: Doubt::Servers, budget: BUDGET }
    }
}

impl State {
    /// The budget after that much time.
    fn save(&self, time: Duration) -> Duration {
        self.budget.saturating_add(time).min(BUDGET)
    }
}

/// What a question came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The present value; not always a new one.
    Value(T, Meta),
    /// There is no such thing.
    Absent,
    /// An answer that is not believed: its index went back. The question is asked afresh, at once.
    Doubtful,
    /// No answer: nothing is known that was not known before.
    Failed(Error, u32),
}

/// What is asked, as far as the rules care.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How the query is held.
    pub blocking: Blocking,
    /// The pause between answers that cannot be held; half as much again is added by `jitter`.
    pub poll: Duration,
}

/// Decides, from an answer that took `took`, what it means, from where on to ask next, and after which pause.
///
/// `jitter` is a random number of `0.0..1.0`. The rules, all of them Consul's for clients of blocking queries:
/// - an index that went back (a restored or restarted server) is forgotten: ask for what is there now. Nor is the answer that
///   carried it believed: a server that still replays its log answers held health queries with `200 []` and index 1, while a
///   question without an index waits for a leader (seen on 1.20.1);
/// - index 0 would not be held: 1 takes its place;
/// - the index of an error means nothing. After an error the question starts afresh, since the server behind it may be
///   another one whose indexes are lower; only a 429 keeps its place, since a fresh question costs the server more;
/// - an error is never a value: the caller keeps what it has. Pauses double from half a second on;
/// - answers in quick succession are spaced to one a second, after two free ones; after such a pause the question starts afresh:
///   had the index gone back meanwhile, the agent would hold it until the wait is over, whatever changes.
pub fn step<T>(state: &State, pace: Pace, heard: Result<Answer<T>, Error>, took: Duration, jitter: f64) -> (State, Event<T>, Duration) {
    match heard {
        Ok(Answer { meta, value }) => {
            let back = matches!((&state.at, meta.index), (At::Index(asked), Some(index)) if index < *asked);
            let (stands, held) = position(&state.at, pace.blocking, &meta, value.is_none());
            // What was asked for afresh and is still the same costs nothing: now it can be held.
            let cost = if held && state.at == At::Now && stands == state.seen { Duration::ZERO } else { COST };
            let spaced = cost.saturating_sub(state.save(took));
            let delay = if held { spaced } else { spaced.max(pace.poll.mul_f64(1.0 + jitter / 2.0)) };
            let doubt = if back { Doubt::Servers } else { Doubt::Nobody };
            let at = if delay.is_zero() { stands.clone() } else { At::Now };
            let next = State { at, seen: stands, failures: 0, doubt, budget: state.save(took + delay).saturating_sub(cost) };
            let event = if back { Event::Doubtful } else { value.map_or(Event::Absent, |value| Event::Value(value, meta)) };
            (next, event, delay)
        }
        Err(error) => {
            let failures = state.failures.saturating_add(1);
            let longest = match &error {
                Error::Connect(_) => LONGEST_PAUSE_REFUSED,
                Error::Status { status: 403, .. } => LONGEST_PAUSE_FORBIDDEN,
                _ => LONGEST_PAUSE,
            };
            let delay = pause(failures, longest).mul_f64(0.5 + jitter / 2.0);
            let (at, doubt) = match error {
                Error::Status { status: 429, .. } => (state.at.clone(), state.doubt),
                Error::Connect(_) | Error::Broken(_) | Error::Timeout(_) => (At::Now, Doubt::Agent),
                _ => (At::Now, state.doubt.max(Doubt::Servers)),
            };
            let next = State { at, seen: state.seen.clone(), failures, doubt, budget: state.save(took + delay) };
            (next, Event::Failed(error, failures), delay)
        }
    }
}

/// After a value that cannot be used: its index must not be waited on, since nobody would ask again when the truth comes back under it.
fn unusable(state: &State) -> (State, Duration) {
    let failures = state.failures.saturating_add(1);
    (State { at: At::Now, seen: At::Now, failures, doubt: Doubt::Nobody, budget: state.budget }, pause(failures, LONGEST_PAUSE))
}

fn pause(failures: u32, longest: Duration) -> Duration {
    FIRST_RETRY.saturating_mul(1 << (failures - 1).min(10)).min(longest)
}

/// From where on to ask after an answer, and whether the next answer comes by itself (held, or asked for at once on purpose).
fn position(asked: &At, blocking: Blocking, meta: &Meta, absent: bool) -> (At, bool) {
    match (blocking, asked, meta.index) {
        (Blocking::Index, At::Index(asked), Some(index)) if index < *asked => (At::Now, true),
        (Blocking::Index, _, Some(index)) => (At::Index(index.max(1)), true),
        (Blocking::Hash, ..) if !absent => match &meta.content_hash {
            Some(hash) => (At::Hash(hash.clone()), true),
            None => (At::Now, false),
        },
        _ => (At::Now, false),
    }
}

/// Asks once, of servers that have caught up.
async fn ask<Q: Query>(client: &Client, query: &Q, state: &State) -> Result<Answer<Q::Reply>, Error> {
    if state.doubt > Doubt::Nobody {
        caught_up(client).await?;
    }
    if state.doubt == Doubt::Agent {
        sleep(TAKEN_OVER).await;
    }
    client.send(query, &state.at).await
}

/// Asks again and again, and hands every outcome to `on_event`, until it is dropped.
///
/// What `on_event` refuses is noted as unusable. A pause after a failure or between polls ends early when another watch
/// finds the agent back, so that all resume together, or when the token file has another token.
pub async fn watch<Q: Query>(
    client: &Client,
    query: &Q,
    poll: Duration,
    watch: &Watch,
    mut on_event: impl FnMut(Event<Q::Reply>) -> Result<(), String>,
) {
    let pace = Pace { blocking: query.blocking(), poll };
    let mut recoveries = client.recoveries();
    let mut state = State::default();
    loop {
        let asked = Instant::now();
        recoveries.mark_unchanged();
        let heard = ask(client, query, &state).await;
        if heard.is_ok() {
            recoveries.mark_unchanged();
        }
        let (next, event, delay) = step(&state, pace, heard, asked.elapsed(), fastrand::f64());
        if let Event::Failed(error, _) = &event {
            watch.failed(&error.to_string(), delay);
        }
        let is_value = matches!(event, Event::Value(..));
        let (next, delay) = match on_event(event) {
            Err(why) if is_value => {
                watch.unusable(&why);
                unusable(&state)
            }
            Err(why) => {
                watch.unusable(&why);
                (next, delay)
            }
            Ok(()) => {
                if next.failures == 0 {
                    watch.succeeded();
                }
                (next, delay)
            }
        };
        state = next;
        match state.at {
            At::Now => tokio::select! {
                () = sleep(delay) => {}
                _ = recoveries.changed() => {}
                () = client.token_changed(), if state.failures > 0 => {}
            },
            At::Index(_) | At::Hash(_) => sleep(delay).await,
        }
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    const SLOW: Duration = Duration::from_secs(10);
    const INDEX: Pace = Pace { blocking: Blocking::Index, poll: Duration::from_secs(10) };
    const HASH: Pace = Pace { blocking: Blocking::Hash, poll: Duration::from_secs(1) };
    const POLL: Pace = Pace { blocking: Blocking::None, poll: Duration::from_secs(10) };

    fn at(at: At) -> State {
        State { at: at.clone(), seen: at, ..State::default() }
    }

    fn value(index: u64) -> Result<Answer<()>, Error> {
        Ok(Answer { meta: Meta { index: Some(index), ..Meta::default() }, value: Some(()) })
    }

    fn status(status: u16) -> Result<Answer<()>, Error> {
        Err(Error::Status { status, text: String::new() })
    }

    #[test]
    fn an_index_is_followed_forgotten_when_it_goes_back_and_never_zero() {
        for (asked, answered, next) in [
            (At::Now, 7, At::Index(7)),
            (At::Index(7), 9, At::Index(9)),
            (At::Index(7), 7, At::Index(7)),
            (At::Index(7), 6, At::Now),
            (At::Now, 0, At::Index(1)),
            (At::Index(7), 0, At::Now),
        ] {
            let (state, event, delay) = step(&at(asked.clone()), INDEX, value(answered), SLOW, 0.0);
            assert_eq!(state.at, next, "{asked:?}, then {answered}");
            let back = next == At::Now;
            assert!(if back { event == Event::Doubtful } else { matches!(event, Event::Value(..)) } && delay == Duration::ZERO);
        }
    }

    #[test]
    fn an_answer_that_cannot_be_held_is_polled_with_jitter() {
        let nothing = || Ok(Answer { meta: Meta::default(), value: Some(()) });
        for pace in [INDEX, POLL] {
            assert_eq!(step(&State::default(), pace, nothing(), SLOW, 0.0).2, Duration::from_secs(10));
            assert_eq!(step(&State::default(), pace, nothing(), SLOW, 1.0).2, Duration::from_secs(15));
        }
    }

    #[test]
    fn a_hash_is_followed_and_forgotten_when_the_thing_is_gone() {
        let meta = Meta { content_hash: Some("a1".to_owned()), ..Meta::default() };
        let (state, _, delay) = step(&State::default(), HASH, Ok(Answer { meta, value: Some(()) }), SLOW, 0.0);
        assert_eq!((&state.at, delay), (&At::Hash("a1".to_owned()), Duration::ZERO));
        let gone: Result<Answer<()>, _> = Ok(Answer { meta: Meta::default(), value: None });
        let (state, event, delay) = step(&state, HASH, gone, SLOW, 0.0);
        assert_eq!((state.at, event, delay), (At::Now, Event::Absent, Duration::from_secs(1)));
    }

    #[test]
    fn an_absent_entry_is_waited_on_by_its_index() {
        let absent: Result<Answer<()>, _> = Ok(Answer { meta: Meta { index: Some(4), ..Meta::default() }, value: None });
        let (state, event, delay) = step(&State::default(), INDEX, absent, SLOW, 0.0);
        assert_eq!((state.at, event, delay), (At::Index(4), Event::Absent, Duration::ZERO));
    }

    #[test]
    fn after_an_error_the_question_starts_afresh_but_for_a_429() {
        for (code, next) in [(500, At::Now), (403, At::Now), (429, At::Index(7))] {
            let (state, event, _) = step(&at(At::Index(7)), INDEX, status(code), SLOW, 0.0);
            assert_eq!(state.at, next, "{code}");
            assert!(matches!(event, Event::Failed(_, 1)));
        }
    }

    #[test]
    fn whoever_may_have_been_restarted_is_doubted_until_the_next_answer() {
        let after = |state: &State, heard| step(state, INDEX, heard, SLOW, 0.0).0;
        assert_eq!(State::default().doubt, Doubt::Servers);
        let sure = after(&State::default(), value(7));
        let lost = after(&sure, Err(Error::Broken(String::new())));
        for (state, heard, doubt) in [
            (&sure, value(8), Doubt::Nobody),
            (&sure, value(6), Doubt::Servers),
            (&sure, status(500), Doubt::Servers),
            (&sure, status(429), Doubt::Nobody),
            (&sure, Err(Error::Connect(String::new())), Doubt::Agent),
            (&lost, status(500), Doubt::Agent),
            (&lost, value(6), Doubt::Nobody),
        ] {
            assert_eq!(after(state, heard).doubt, doubt);
        }
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_start_over_after_a_success() {
        let refused = || Err::<Answer<()>, _>(Error::Connect(String::new()));
        for (failure, first, longest) in [
            (&refused as &dyn Fn() -> Result<Answer<()>, Error>, 250, 5),
            (&|| status(500), 250, 30),
            (&|| status(403), 250, 60),
            (&|| Err(Error::Decode(String::new())), 250, 30),
        ] {
            let mut state = State::default();
            let mut pauses = Vec::new();
            for _ in 0..40 {
                let (next, _, pause) = step(&state, INDEX, failure(), Duration::ZERO, 0.0);
                pauses.push(pause);
                state = next;
            }
            assert_eq!(pauses[..2], [Duration::from_millis(first), Duration::from_millis(2 * first)]);
            assert_eq!(*pauses.last().unwrap(), Duration::from_secs(longest) / 2);
            assert_eq!(step(&state, INDEX, failure(), Duration::ZERO, 1.0).2, Duration::from_secs(longest));
            let (state, ..) = step(&state, INDEX, value(1), Duration::ZERO, 0.0);
            assert_eq!(step(&state, INDEX, failure(), Duration::ZERO, 0.0).2, Duration::from_millis(first));
        }
    }

    #[test]
    fn answers_in_quick_succession_are_spaced_and_a_quiet_time_makes_them_free_again() {
        let (mut state, mut index) = (State::default(), 7);
        let mut news = |took| {
            index += 1;
            let (next, _, delay) = step(&state, INDEX, value(index), took, 0.0);
            state = next;
            delay
        };
        let delays: Vec<_> = (0..4).map(|_| news(Duration::ZERO).as_secs()).collect();
        assert_eq!(delays, [0, 0, 1, 1]);
        assert_eq!(news(Duration::from_millis(400)), Duration::from_millis(600));
        assert_eq!((news(SLOW), news(Duration::ZERO)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(news(Duration::ZERO), COST);
        let (rested, _, pause) = step(&state, INDEX, status(500), SLOW, 0.0);
        assert!(pause > Duration::ZERO && step(&rested, INDEX, value(99), Duration::ZERO, 0.0).2 == Duration::ZERO);
    }

    #[test]
    fn after_a_pause_for_spacing_the_question_starts_afresh_and_is_held_once_nothing_is_new() {
        let spent = State { budget: Duration::ZERO, ..at(At::Index(7)) };
        let (paused, _, delay) = step(&spent, INDEX, value(8), Duration::ZERO, 0.0);
        assert_eq!((&paused.at, delay), (&At::Now, COST));
        let (held, _, delay) = step(&paused, INDEX, value(8), Duration::ZERO, 0.0);
        assert_eq!((held.at, delay), (At::Index(8), Duration::ZERO));
        let (rewound, event, delay) = step(&paused, INDEX, value(3), Duration::ZERO, 0.0);
        assert_eq!((&rewound.at, delay), (&At::Now, COST));
        assert!(matches!(event, Event::Value(..)));
        // An agent that never holds gets two questions a second, not thousands.
        let (spun, _, delay) = step(&State { budget: Duration::ZERO, ..at(At::Index(8)) }, INDEX, value(8), Duration::ZERO, 0.0);
        assert_eq!((spun.at, delay), (At::Now, COST));
    }

    proptest! {
        #[test]
        fn whatever_comes_the_index_only_grows_or_is_forgotten(
            answers in proptest::collection::vec((0u8..6, any::<u64>(), 0u64..5000, 0.0f64..1.0), 0..60),
        ) {
            let mut state = State::default();
            for (kind, index, millis, jitter) in answers {
                let answer = match kind {
                    0 => status(429),
                    1 => status(500),
                    2 => Err(Error::Timeout(SLOW)),
                    3 => Ok(Answer { meta: Meta { index: Some(index), ..Meta::default() }, value: None }),
                    _ => value(index),
                };
                let failed = answer.is_err();
                let (next, event, delay) = step(&state, INDEX, answer, Duration::from_millis(millis), jitter);
                prop_assert_eq!(failed, matches!(event, Event::Failed(..)));
                prop_assert!(delay <= LONGEST_PAUSE);
                if let (At::Index(before), At::Index(after)) = (&state.at, &next.at) {
                    prop_assert!(after >= before);
                }
                prop_assert!(next.at != At::Index(0));
                state = next;
            }
        }
    }
}
