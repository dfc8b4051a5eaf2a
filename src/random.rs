//! Randomness that no secret depends on: jitter and salts.
//!
//! Always: injected like the clock, so that a test can repeat a run from its seed. Values that must not be guessed do
//! not come from here.

/// Where jitter and salts come from.
#[derive(Debug)]
pub(crate) enum Random {
    /// Seeded by the operating system.
    System,
    /// The same numbers for the same seed.
    #[cfg(test)]
    Seeded(std::sync::Mutex<fastrand::Rng>),
}

impl Random {
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self::Seeded(std::sync::Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// At least 0 and less than 1.
    pub(crate) fn fraction(&self) -> f64 {
        self.draw(fastrand::Rng::f64)
    }

    pub(crate) fn salt(&self) -> u64 {
        self.draw(|numbers| numbers.u64(..))
    }

    fn draw<T>(&self, number: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        match self {
            Self::System => number(&mut fastrand::Rng::new()),
            #[cfg(test)]
            Self::Seeded(numbers) => number(&mut crate::caught::locked(numbers)),
        }
    }
}
