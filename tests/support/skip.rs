//! How a test says that this machine cannot run it.

use std::io::{self, Write as _};

/// Says on the real standard error that this machine cannot run the current test, which then passes; the harness keeps
/// what passing tests print to itself. With `CONCUR_AUTH_MUST_RUN=1` the test fails instead.
pub fn skip(why: &str) {
    let this = std::thread::current();
    skip_named(this.name().unwrap_or("a test"), why);
}

/// [`skip`] for what is not a test with a thread of its own, as a bench or an example.
pub fn skip_named(name: &str, why: &str) {
    let must_run = std::env::var_os("CONCUR_AUTH_MUST_RUN").is_some_and(|it| it == "1");
    assert!(!must_run, "CONCUR_AUTH_MUST_RUN=1, and {name} cannot run: {why}");
    say(&format!("SKIPPED {name}: {why}"));
}

/// Writes a line on the real standard error.
pub fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}
