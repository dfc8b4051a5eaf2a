//! The seed of what is random in a test; `tests/support` includes this file, too.
//!
//! Always: a test that fails shows its seed, and the same seed repeats its random part.

use proptest::{prelude::ProptestConfig, test_runner::RngSeed};

/// The environment variable that repeats the random part of a failed test.
const NAME: &str = "CONCUR_AUTH_SEED";

/// `CONCUR_AUTH_SEED`, or a new seed. The test harness shows what is written here only if the test fails.
#[allow(clippy::print_stderr, reason = "it is for a person who wants to repeat the test")]
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var(NAME) {
        Ok(given) => given.parse().expect("CONCUR_AUTH_SEED is not a whole number"),
        Err(_) => fastrand::u64(..),
    };
    eprintln!("{NAME}={seed} repeats the random part of this test");
    seed
}

/// What each `proptest!` is configured with. The seed takes the place of proptest's files of failed cases.
pub(crate) fn seeded() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed()),
        ..ProptestConfig::default()
    }
}
