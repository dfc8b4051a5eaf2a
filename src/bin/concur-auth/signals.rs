//! Signals that ask the program to end.

use std::time::Duration;

use crate::{
    failure::{Failure, Outcome, explain},
    place::Tokens,
    say,
};

/// How long a renewal under way, and a token that is not saved yet, are waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits, from its first call on, for Ctrl-C or SIGTERM; returns the exit code of a program ended by that signal.
pub(crate) fn ended() -> impl Future<Output = u8> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        async move {
            let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
            tokio::select! {
                _ = interrupt.recv() => 128 + 2,
                _ = terminate.recv() => 128 + 15,
            }
        }
    }
    #[cfg(not(unix))]
    async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => 128 + 2,
            Err(_) => std::future::pending().await,
        }
    }
}

/// The outcome of `work`, after which nothing is unsaved; where a signal asks the program to end, a renewal under way is brought to its
/// end first.
pub(crate) async fn unless_ended<T>(tokens: &Tokens, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let done = tokio::select! {
        // The signals first, so that they are waited for before anything is sent.
        biased;
        code = ended() => {
            say::note("interrupted; waiting for a renewal under way");
            Err(Failure::Said(code))
        }
        done = work => done,
    };
    match (tokens.shutdown(PATIENCE).await, done) {
        (Ok(()), done) => done,
        (Err(unsaved), Ok(_)) => Err(unsaved.into()),
        (Err(unsaved), Err(failure)) => {
            say::note(&explain(&unsaved));
            Err(failure)
        }
    }
}
