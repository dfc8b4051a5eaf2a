//! One process: its managers, its callers, and its clock, which may be set at any time.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use super::{
    super::{HOUR, MINUTE, world::Watch},
    books::Whereabouts,
    planted::Bug,
    run::{LONGEST_REQUEST, Run, number_of},
    shelf::Shelf,
    wire::Wire,
};
use crate::{
    AccessToken, Clock, Credentials, Error, Grant, OAuthClient, RefreshTokenObject, TokenManager,
    caught::locked,
    machine::{Executor, Work},
};

const BASE: &str = "https://us.api.concursolutions.com";
/// The wait for the lock, and the requests.
const LONGEST_FLIGHT: Duration = Duration::from_secs(3 * 60);
/// By then every pause and cool-down is over: the longest is a day.
pub(super) const TO_SETTLE: Duration = Duration::from_secs(26 * 3600);

/// How far a process's clock is wrong: ahead, and behind.
pub(super) type Wrong = Arc<Mutex<(Duration, Duration)>>;

#[derive(Debug)]
pub(super) struct SetClock {
    pub(super) watch: Watch,
    pub(super) wrong: Wrong,
}

impl Clock for SetClock {
    fn now(&self) -> SystemTime {
        let (ahead, behind) = *locked(&self.wrong);
        self.watch.now() + ahead - behind
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.watch.sleep(duration)
    }

    fn monotonic(&self) -> Duration {
        self.watch.monotonic()
    }
}

/// See [`Bug::DiesWithItsCaller`].
#[derive(Debug)]
pub(super) struct Tied {
    pub(super) executor: Arc<dyn Executor>,
    pub(super) dropped: Arc<AtomicUsize>,
}

impl Executor for Tied {
    fn launch(&self, mut work: Work, for_no_runtime: bool) -> Result<(), Error> {
        let dropped = Arc::clone(&self.dropped);
        let before = dropped.load(Relaxed);
        let tied = std::future::poll_fn(move |context| {
            if dropped.load(Relaxed) == before { work.as_mut().poll(context) } else { Poll::Ready(()) }
        });
        self.executor.launch(Box::pin(tied), for_no_runtime)
    }

    fn spawn_blocking(&self, work: Work) -> Result<(), Error> {
        self.executor.spawn_blocking(work)
    }

    fn spawn(&self, work: Work) -> Result<(), Error> {
        self.executor.spawn(work)
    }

    fn wait(&self, time: Duration) -> Work {
        self.executor.wait(time)
    }

    fn process(&self) -> u32 {
        self.executor.process()
    }
}

/// The callers of one process for one company.
pub(super) struct Callers {
    pub(super) run: Arc<Run>,
    pub(super) process: usize,
    pub(super) company: usize,
    pub(super) tokens: TokenManager,
    pub(super) wrong: Wrong,
    pub(super) dropped: Arc<AtomicUsize>,
}

/// A call whose caller may be dropped whenever it would go on.
struct Droppable<'a, F> {
    callers: &'a Callers,
    call: Pin<Box<F>>,
}

impl<F: Future> Future for Droppable<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Callers { run, dropped, .. } = self.callers;
        if run.chance(run.plan.troubles.drop_caller) {
            dropped.fetch_add(1, Relaxed);
            return Poll::Ready(None);
        }
        self.call.as_mut().poll(context).map(Some)
    }
}

/// How things were before a call.
struct Before {
    at: Duration,
    suspended: Duration,
    store_troubles: usize,
}

impl Callers {
    pub(super) fn manager(
        run: &Arc<Run>,
        stores: &[Shelf],
        (process, company): (usize, usize),
        shared: &Shared,
    ) -> TokenManager {
        let mut machine = run.world.machine(process);
        machine.clock =
            Arc::new(SetClock { watch: Watch(Arc::clone(&run.world)), wrong: Arc::clone(&shared.wrong) });
        if run.has(Bug::DiesWithItsCaller) {
            let dropped = Arc::clone(&shared.dropped);
            machine.executor = Arc::new(Tied { executor: machine.executor, dropped });
        }
        TokenManager::builder()
            .credentials(
                Credentials::new("app", "secret").company(format!("company {company}"), "request token"),
            )
            .base_uri(BASE)
            .store(stores[company].opened_by(run, process, company))
            .oauth_client(shared.client.clone())
            .machine(machine)
            .build()
            .unwrap()
    }

    /// Calls until nothing goes wrong any more, and then sees whether all is well.
    pub(super) async fn live(self: Arc<Self>) {
        let run = &self.run;
        let kept = if run.plan.keeps_alive { Some(self.tokens.keep_alive().await.unwrap()) } else { None };
        while run.now() < run.plan.trouble_until {
            run.pause(run.some_time()).await;
            self.call().await;
        }
        drop(kept);
        let left = (run.plan.trouble_until + TO_SETTLE).saturating_sub(run.now());
        run.pause(left + run.world.up_to(MINUTE)).await;
        self.audit().await;
    }

    fn before(&self) -> Before {
        Before {
            at: self.run.now(),
            suspended: self.run.suspended(self.process),
            store_troubles: self.run.store_troubles.load(Relaxed),
        }
    }

    async fn droppable<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<Result<T, Error>> {
        Droppable { callers: self, call: Box::pin(call) }.await
    }

    async fn call(&self) {
        let run = &self.run;
        let before = self.before();
        let explicitly = || run.books().asks_explicitly(run.now(), self.process, self.company);
        match run.below(if run.plan.is_explicit { 100 } else { 80 }) {
            0..45 => {
                let outcome = self.droppable(self.tokens.access_token()).await;
                self.check("access_token", &before, outcome, Self::check_access);
            }
            45..78 => {
                let outcome = self.droppable(self.tokens.get_valid_refresh_token()).await;
                self.check("get_valid_refresh_token", &before, outcome, Self::check_refresh);
            }
            78..80 => {
                if run.chance(run.plan.troubles.jump_clock) {
                    let jump = run.world.up_to(5 * HOUR);
                    let is_ahead = run.chance(0.5);
                    *locked(&self.wrong) =
                        if is_ahead { (jump, Duration::ZERO) } else { (Duration::ZERO, jump) };
                }
            }
            80..86 => {
                explicitly();
                let outcome = self.droppable(self.tokens.refresh()).await;
                self.check("refresh", &before, outcome, Self::check_refresh);
            }
            86..94 => {
                explicitly();
                let outcome = self.droppable(self.tokens.access_token()).await;
                if let Some(Ok(token)) = &outcome {
                    self.tokens.invalidate(token);
                }
                self.check("access_token", &before, outcome, Self::check_access);
            }
            94..98 => {
                explicitly();
                let outcome = self.droppable(self.tokens.retry_now()).await;
                self.check("retry_now", &before, outcome, Self::check_refresh);
            }
            _ => {
                explicitly();
                run.books().company(self.company).signing_in += 1;
                let grant =
                    Grant::company_request_token(format!("company {}", self.company), "request token");
                let outcome = self.droppable(self.tokens.sign_in(grant)).await;
                self.check("sign_in", &before, outcome, Self::check_refresh);
            }
        }
    }

    fn check<T>(
        &self,
        what: &str,
        before: &Before,
        outcome: Option<Result<T, Error>>,
        check: impl FnOnce(&Self, &str, &Before, &T),
    ) {
        let run = &self.run;
        let suspended = run.suspended(self.process) - before.suspended;
        let took = (run.now() - before.at).saturating_sub(suspended);
        if took > self.longest_call() {
            run.breaks(format!("{what} took {took:?}"));
        }
        match outcome {
            None => {}
            Some(Err(e)) => {
                let told = e.to_string();
                let is_ours = ["panicked", "please report"].iter().any(|words| told.contains(words));
                run.breaks_if(is_ours, || format!("{what}: {told}"));
            }
            Some(Ok(token)) => check(self, what, before, &token),
        }
    }

    /// The flight under way, and one of its own. Those that the other callers and `keep_alive` ask for explicitly may come first.
    fn longest_call(&self) -> Duration {
        let plan = &self.run.plan;
        let explicit = if plan.is_explicit { plan.tasks } else { 0 };
        LONGEST_FLIGHT * u32::try_from(2 + explicit).unwrap()
    }

    fn check_access(&self, what: &str, before: &Before, token: &AccessToken) {
        let run = &self.run;
        let number = token.secret().rsplit('-').next().unwrap().parse().unwrap();
        let ends = run.books().company(self.company).access_ends(number);
        // The expiry that processes share is by the clock of the process that asked.
        let are_clocks_right = run.plan.troubles.jump_clock == 0.0;
        let suspended = run.suspended(self.process) - before.suspended;
        if are_clocks_right && run.now().saturating_sub(suspended) > ends + LONGEST_REQUEST {
            run.breaks(format!("{what} of {} returned {number}, which has expired", self.process));
        }
        self.check_saved(what, number);
    }

    fn check_refresh(&self, what: &str, before: &Before, token: &RefreshTokenObject) {
        let (run, number) = (&self.run, number_of(token));
        let mut books = run.books();
        let refresh = books.company(self.company).issued[number].refresh;
        let replaced_at = books.company(self.company).replaced_at(refresh);
        let is_told_dead = books.is_told_dead(self.process, self.company, refresh);
        drop(books);
        // What is not saved yet is what this process holds, whatever another process has made of it.
        let is_unsaved = self.tokens.status().unsaved;
        let was_readable = run.store_troubles.load(Relaxed) == before.store_troubles;
        if was_readable && !is_unsaved && replaced_at.is_some_and(|at| at < before.at) {
            run.breaks(format!("{what} of {} returned {refresh}, which was replaced", self.process));
        }
        if is_told_dead {
            run.breaks(format!("{what} of {} returned {refresh}, which Concur refused", self.process));
        }
        self.check_saved(what, number);
    }

    fn check_saved(&self, what: &str, number: usize) {
        let whereabouts = self.run.books().company(self.company).issued[number].whereabouts;
        if whereabouts == Whereabouts::AtRisk && !self.tokens.status().unsaved {
            self.run.breaks(format!("{what} of {} returned {number}, which was not saved", self.process));
        }
    }

    /// Nothing has gone wrong for a day.
    async fn audit(&self) {
        let run = &self.run;
        let begun = run.now();
        // Concur may have replaced what is stored, and only the presenting of it shows that.
        if let Err(e) = self.tokens.refresh().await {
            run.breaks(format!("a day later, company {} cannot renew: {e}", self.company));
        }
        let found = self.tokens.get_valid_refresh_token().await;
        let (number, served) = match (found, self.tokens.access_token().await) {
            (Ok(refresh), Ok(_)) => (number_of(&refresh), refresh),
            (Err(e), _) | (_, Err(e)) => {
                run.breaks(format!("a day later, company {} is still without a token: {e}", self.company));
                return;
            }
        };
        let mut books = run.books();
        let books = books.company(self.company);
        let refresh = books.issued[number].refresh;
        // Meanwhile another process may have renewed it.
        if books.spent_at(refresh).is_none_or(|at| at < begun) {
            if !books.is_good(refresh) {
                run.breaks(format!("a day later, {} is served, which is dead", served.secret()));
            }
            if !books.is_stored(refresh) {
                run.breaks(format!("a day later, {} is not stored", served.secret()));
            }
        }
        run.audited.fetch_add(1, Relaxed);
    }
}

/// What the managers of one process share.
pub(super) struct Shared {
    pub(super) client: OAuthClient,
    pub(super) wrong: Wrong,
    pub(super) dropped: Arc<AtomicUsize>,
}

impl Shared {
    pub(super) fn new(run: &Arc<Run>, stores: &Arc<[Shelf]>, process: usize) -> Self {
        let client = OAuthClient::on(Wire { run: Arc::clone(run), stores: Arc::clone(stores), process });
        Self { client, wrong: Wrong::default(), dropped: Arc::default() }
    }
}
