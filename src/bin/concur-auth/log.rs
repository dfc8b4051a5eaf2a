//! Logs on standard error; and, on a terminal, what a long wait is for.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    filter::{Targets, filter_fn},
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::locked;

/// After how long a wait is long, and how often it is said again.
const LONG: Duration = Duration::from_secs(4);
const AGAIN: Duration = Duration::from_secs(30);

/// What the library has said last.
#[derive(Clone, Default)]
pub(crate) struct Waits(Arc<Mutex<String>>);

/// Begins to log, and to know what is waited for.
pub(crate) fn init(verbose: u8, stays: bool) -> Waits {
    let level = match verbose {
        // What a short command fails with, it says itself.
        0 if !stays => LevelFilter::ERROR,
        0 => LevelFilter::WARN,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let is_colourful =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    // Other crates' events at the second -v only.
    let others = if verbose > 1 { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(is_colourful).with_filter(
        filter_fn(move |of| {
            // A span says whose token an event is about, whatever the level of the two.
            let is_ours = of.target().starts_with("concur_auth");
            of.level() <= if is_ours { &level } else { &others } || (is_ours && of.is_span())
        }),
    );
    let waits = Waits::default();
    let heard = waits.clone().with_filter(Targets::new().with_target("concur_auth", LevelFilter::DEBUG));
    let registry = tracing_subscriber::registry().with(lines);
    // Nothing is said where no person reads it.
    if io::stderr().is_terminal() {
        registry.with(heard).init()
    } else {
        registry.init()
    }
    waits
}

impl Waits {
    /// The outcome of `work`; while it takes long, a terminal shows what is waited for.
    pub(crate) async fn told<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if !io::stderr().is_terminal() {
            return work.await;
        }
        let (mut waited, mut pause) = (Duration::ZERO, LONG);
        loop {
            if let Ok(done) = tokio::time::timeout(pause, &mut work).await {
                return done;
            }
            waited += pause;
            pause = AGAIN;
            if let Some(what) = self.what() {
                crate::say::note(&format!("waiting for {} s: {what}", waited.as_secs()));
            }
        }
    }

    /// What is waited for; `None` while the program is at work, or waits for its user.
    fn what(&self) -> Option<String> {
        let last = locked(&self.0).clone();
        Some(last).filter(|last| !last.is_empty())
    }
}

impl<S: Subscriber> Layer<S> for Waits {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let said =
            if text.message.starts_with("renewal ") { String::new() } else { text.message + &text.fields };
        *locked(&self.0) = said;
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
