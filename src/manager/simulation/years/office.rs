//! The companies' program: a process that keeps a manager for each, is killed, and is started again on the same stores.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use super::{
    concur::{Concur, Line, OUTSIDE, issued_at, request_token},
    times::{HOUR, MINUTE},
};
use crate::{
    Clock as _, CredentialSource, Credentials, Error, KeepAlive, MemoryStore, OAuthClient,
    RefreshTokenObject, StoreLock, Stored, TokenManager, TokenStore,
    caught::locked,
    clock::{public_time, within},
    machine::Machine,
    manager::simulation::{wall_clock::WallClock, world::Watch},
};

/// What a company's administrator has put into the vault.
#[derive(Clone)]
struct Vault {
    concur: Arc<Concur>,
    company: usize,
}

impl CredentialSource for Vault {
    async fn credentials(&self) -> Result<Credentials, Error> {
        let number = locked(&self.concur.companies[self.company]).request_token;
        let company = format!("company {}", self.company);
        Ok(Credentials::new("app", "secret").company(company, request_token(number)))
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

/// Outlives processes. A save takes a while, in which a process may be killed.
#[derive(Clone)]
pub(super) struct Kept {
    store: MemoryStore,
    vault: Vault,
}

impl Kept {
    pub(super) fn new(concur: &Arc<Concur>, company: usize) -> Self {
        Self { store: MemoryStore::new(), vault: Vault { concur: Arc::clone(concur), company } }
    }

    pub(super) fn manager(&self, client: &OAuthClient, machine: Machine) -> TokenManager {
        TokenManager::builder()
            .credentials(self.vault.clone())
            .base_uri("https://us.api.concursolutions.com")
            .store(self.clone())
            .oauth_client(client.clone())
            .machine(machine)
            .build()
            .unwrap()
    }
}

impl TokenStore for Kept {
    async fn load(&self) -> Result<Option<RefreshTokenObject>, Error> {
        self.store.load().await
    }

    async fn save(&self, token: &RefreshTokenObject, lock: &StoreLock) -> Result<(), Error> {
        let world = &self.vault.concur.world;
        Watch(Arc::clone(world)).sleep(world.up_to(Duration::from_millis(50))).await;
        self.store.save(token, lock).await?;
        self.vault.concur.saved(self.vault.company, token.secret());
        Ok(())
    }

    async fn remove(&self, lock: &StoreLock) -> Result<(), Error> {
        self.store.remove(lock).await
    }

    async fn try_lock(&self) -> Result<Option<StoreLock>, Error> {
        self.store.try_lock().await
    }

    async fn read(&self) -> Result<Stored, Error> {
        self.store.read().await
    }

    async fn remember(&self, note: Option<&str>, lock: &StoreLock) -> Result<(), Error> {
        self.store.remember(note, lock).await
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

/// An access token's life, and a look at the clock, which is set back meanwhile.
const LONGEST_SERVED: Duration = Duration::from_secs(62 * 60);

pub(super) struct Office {
    concur: Arc<Concur>,
    clock: WallClock,
    stores: Vec<Kept>,
    /// The longest time between two calls for a company.
    between_calls: Duration,
    end: Duration,
}

impl Office {
    pub(super) fn new(concur: &Arc<Concur>, between_calls: Duration, end: Duration) -> Self {
        Self {
            clock: WallClock::new(&concur.world),
            stores: (0..concur.companies.len()).map(|company| Kept::new(concur, company)).collect(),
            concur: Arc::clone(concur),
            between_calls,
            end,
        }
    }

    /// Until the end, with the next process after each that is killed.
    pub(super) fn open(self) {
        let world = Arc::clone(&self.concur.world);
        let (clock, steps) = (self.clock.clone(), self.concur.sky.steps.clone());
        let watch = Watch(Arc::clone(&world));
        world.spawn(OUTSIDE, async move {
            for step in steps {
                watch.sleep(step.from.saturating_sub(watch.0.passed())).await;
                clock.set(1000 * step.seconds);
            }
        });
        world.spawn(OUTSIDE, async move {
            for process in 0.. {
                if self.run(process).await.is_none() {
                    self.concur.is_over.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
    }

    /// One process; `None` if it has reached the end.
    async fn run(&self, process: usize) -> Option<()> {
        let concur = &self.concur;
        let (world, watch) = (&concur.world, Watch(Arc::clone(&concur.world)));
        let kill = concur.sky.kills.get(process).copied();
        let client = OAuthClient::on(Line(Arc::clone(concur)));
        let kept: Arc<Mutex<Vec<(TokenManager, KeepAlive)>>> = Arc::default();
        for store in &self.stores {
            let machine = Machine { clock: Arc::new(self.clock.clone()), ..world.machine(process) };
            let tokens = store.manager(&client, machine);
            let keeper = tokens.keep_alive().await.unwrap();
            world.spawn(
                process,
                ask(Arc::clone(concur), tokens.clone(), store.vault.company, self.between_calls, self.end),
            );
            locked(&kept).push((tokens, keeper));
        }
        let killed_at = kill.map_or(self.end, |kill| kill.at);
        watch.sleep(killed_at.min(self.end).saturating_sub(world.passed())).await;
        let kill = kill.filter(|_| world.passed() < self.end)?;
        if kill.in_flight {
            concur.is_armed.store(true, Ordering::Relaxed);
            // There may be none: Concur may have asked for a pause.
            within(watch.sleep(2 * HOUR), concur.asked.notified()).await;
            concur.is_armed.store(false, Ordering::Relaxed);
            watch.sleep(world.up_to(Duration::from_millis(2500))).await;
        }
        world.kill(process);
        concur.killed(kill.down_for);
        watch.sleep(kill.down_for).await;
        Some(())
    }
}

/// Calls at random moments, which are served without a request of their own.
async fn ask(concur: Arc<Concur>, tokens: TokenManager, company: usize, between: Duration, end: Duration) {
    let world = Arc::clone(&concur.world);
    let watch = Watch(Arc::clone(&world));
    let started = world.passed();
    loop {
        watch.sleep(MINUTE + world.up_to(between)).await;
        let begun = world.passed();
        if begun >= end {
            return;
        }
        let is_settled = locked(&concur.calm).is_settled(begun);
        let requests = {
            let company = locked(&concur.companies[company]);
            if company.lapsed.is_some() || begun >= company.expires || begun < company.person_until {
                continue;
            }
            company.requests
        };
        if !is_settled && !is_fresh(&tokens) {
            continue;
        }
        locked(&concur.tally).calls += 1;
        let what = format!("company {company}, settled: {is_settled}");
        match tokens.access_token().await {
            Ok(access) => {
                let issued = issued_at(access.secret());
                // How old a token is that was found in the store, only the clock of the day tells.
                let was_set_back = issued < started && concur.sky.was_set_back(issued..begun);
                if begun >= issued + LONGEST_SERVED && !was_set_back {
                    concur.breaks(format!("{what}: {} had expired", access.secret()));
                }
            }
            Err(e) => concur.breaks(format!("{what}: no access token: {e}")),
        }
        if is_settled {
            match tokens.get_valid_refresh_token().await {
                Ok(refresh) if concur.is_good(company, refresh.secret()) => {}
                Ok(refresh) => concur.breaks(format!("{what}: served {}", refresh.secret())),
                Err(e) => concur.breaks(format!("{what}: no refresh token: {e}")),
            }
        }
        let asked = locked(&concur.companies[company]).requests - requests;
        if world.passed() != begun || asked > 0 {
            concur.breaks(format!("{what}: waited {:?} for {asked} requests", world.passed() - begun));
        }
    }
}

/// Whether the machine's clock says that what is held is neither old nor of another time.
fn is_fresh(tokens: &TokenManager) -> bool {
    let (now, status) = (public_time(tokens.0.now()), tokens.status());
    let left = status.access_token_expires_at.map(|at| at - now);
    let are_valid = status.access_token_valid && status.refresh_token_valid;
    are_valid && left.is_some_and(|left| left > 6 * MINUTE && left <= HOUR)
}
