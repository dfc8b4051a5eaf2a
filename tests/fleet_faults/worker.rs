//! A worker: a process of its own that keeps a whole fleet alive.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use concur_auth::{
    AppCredentials, BoxedStore, DueTokens, Error, Fleet, FleetHealth, FleetMember, FleetStore, FolderFleet,
    PostgresFleet, TokenStore as _,
};

use crate::{
    clock::{Leaping, SHORT},
    support::really_wait,
    workers::{Told, Worker, Writer, log_to},
};

/// The lease and the other limits of a worker's rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) lease: Duration,
    pub(crate) doubt: Duration,
    pub(crate) late_save: Duration,
}

impl Limits {
    pub(crate) fn of(self, store: PostgresFleet) -> PostgresFleet {
        store.lease(self.lease).doubt(self.doubt).late_save(self.late_save)
    }
}

/// Where a worker's tokens lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Rows(String, Limits),
    /// A folder, and a file that says how many days the clock is ahead.
    Folder(PathBuf, PathBuf),
}

/// What workers send to Concur, and how much at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sends<'a> {
    pub(crate) app: (&'a str, &'a str),
    pub(crate) base_uri: &'a str,
    pub(crate) concurrent: usize,
}

pub(crate) fn start(folder: &Path, name: &str, place: &Place, sends: Sends<'_>) -> Worker {
    let millis = |time: Duration| time.as_millis().to_string();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let mut settings = match place {
        Place::Rows(url, Limits { lease, doubt, late_save }) => vec![
            ("DATABASE", url.clone()),
            ("LEASE", millis(*lease)),
            ("DOUBT", millis(*doubt)),
            ("LATE_SAVE", millis(*late_save)),
        ],
        Place::Folder(tokens, days) => vec![("TOKENS", path(tokens)), ("DAYS", path(days))],
    };
    let Sends { app: (id, secret), base_uri, concurrent } = sends;
    let named = [("APP_ID", id), ("APP_SECRET", secret), ("BASE_URI", base_uri)];
    settings.extend(named.map(|(name, value)| (name, value.to_owned())));
    settings.push(("CONCURRENT", concurrent.to_string()));
    Worker::start(folder, name, settings)
}

/// A store of which each claim is a line of the log, and whose rows or files are told as [`Told`] tells.
#[derive(Debug)]
struct ToldFleet<S>(S, Writer);

impl<S: FleetStore> FleetStore for ToldFleet<S> {
    fn of(&self, app_id: &str, principal: &str) -> BoxedStore {
        Told::new(self.0.of(app_id, principal), &self.1, principal).boxed()
    }

    async fn claim_due(&self, app_id: &str, most: usize) -> Result<DueTokens, Error> {
        let due = self.0.claim_due(app_id, most).await?;
        for token in &due.tokens {
            self.1.line(format_args!("{{{}}} CLAIMED", token.principal));
        }
        Ok(due)
    }

    async fn list(&self, app_id: &str, after: Option<&str>, most: usize) -> Result<Vec<FleetMember>, Error> {
        self.0.list(app_id, after, most).await
    }

    async fn assign(&self, app_id: &str, pending: &str, principal: &str) -> Result<(), Error> {
        self.0.assign(app_id, pending, principal).await
    }

    async fn needing_a_person(&self, app_id: &str) -> Result<Vec<FleetMember>, Error> {
        self.0.needing_a_person(app_id).await
    }

    async fn health(&self, app_id: &str) -> Result<FleetHealth, Error> {
        self.0.health(app_id).await
    }

    fn lease(&self) -> Option<Duration> {
        self.0.lease()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// The body of the child's test: ends when a file `stop` is there.
pub(crate) async fn work() {
    let text = |name: &str| std::env::var(name).unwrap();
    let duration = |name: &str| Duration::from_millis(text(name).parse().unwrap());
    let log = log_to(Path::new(&text("LOG")));
    let builder = Fleet::builder()
        .app(AppCredentials::new(text("APP_ID"), text("APP_SECRET")))
        .base_uri(text("BASE_URI"))
        .max_concurrent(text("CONCURRENT").parse().unwrap());
    let builder = match std::env::var("TOKENS") {
        Ok(tokens) => {
            let clock = Leaping::with_days_in(text("DAYS").into());
            let store = FolderFleet::new(tokens).clock(clock.clone());
            builder.clock(clock).store(ToldFleet(store, log.clone()))
        }
        Err(_) => {
            let [lease, doubt, late_save] = ["LEASE", "DOUBT", "LATE_SAVE"].map(duration);
            let limits = Limits { lease, doubt, late_save };
            let store = limits.of(PostgresFleet::new(&text("DATABASE")).unwrap());
            builder.clock(Leaping::default()).store(ToldFleet(store, log.clone()))
        }
    };
    let fleet = builder.build().unwrap();
    let _worker = fleet.keep_alive().await.unwrap();
    let stop = Path::new(&text("DIR")).join("stop");
    while !stop.exists() {
        really_wait(Duration::from_millis(20)).await;
    }
    // A longer deadline would leap to its end.
    for _ in 0..30 {
        match fleet.shutdown(SHORT).await {
            Ok(()) => return log.line(format_args!("OUTCOME done")),
            Err(e) => log.line(format_args!("NOT YET {e}")),
        }
    }
    log.line(format_args!("OUTCOME not shut down"));
}
