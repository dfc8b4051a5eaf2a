//! Two or four processes on many companies in PostgreSQL, killed and suspended at random, while PostgreSQL is restarted and
//! connections are cut. The long runs have their own command; with its seed, the parent's choices are the same again:
//!
//! ```text
//! CONCUR_AUTH_SEED=1 cargo test --release --all-features --test fleet_faults long_run -- --ignored --nocapture --test-threads=1
//! ```
//!
//! Every second process comes by way of PgBouncer, where it is installed. The parent makes rows due, some of them every
//! second, and connects lost companies again as long as their request tokens have uses left.
//!
//! Always: each refresh token that Concur refused, and each reply that was not saved, has a cause that the logs show, as
//! `support/workers/history.rs` says; any other loss fails the test. No company is renewed more often than it was made due.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    path::Path,
};

use super::*;
use crate::{
    partner::{Partner, grant},
    support::{really_wait, say, seed},
    worker::{Place, Sends},
    workers::{Cause, Chaos, Counts, History, Judged, Log},
};

/// The lease is shorter than most suspensions.
const SHORT: Limits = Limits {
    lease: Duration::from_secs(1),
    doubt: Duration::from_secs(3),
    late_save: Duration::from_secs(1),
};

/// Concur's answers take so long: what is killed at random is then often a process that waits for one.
const ANSWER: Duration = Duration::from_millis(100);

/// How often a company can sign in by its request token.
const USES: usize = 5;

#[tokio::test]
#[ignore = "takes minutes; its command is at the top of this file"]
async fn two_processes_and_500_companies() {
    many_companies(
        "two_processes_and_500_companies",
        Run { processes: 2, concurrent: 8, companies: 500, hits: 300 },
    )
    .await;
}

#[tokio::test]
#[ignore = "takes minutes; its command is at the top of this file"]
async fn four_processes_and_500_companies() {
    many_companies(
        "four_processes_and_500_companies",
        Run { processes: 4, concurrent: 8, companies: 500, hits: 500 },
    )
    .await;
}

#[tokio::test]
async fn what_kills_suspensions_and_restarts_lose_is_explained() {
    let test = "what_kills_suspensions_and_restarts_lose_is_explained";
    many_companies(test, Run { processes: 2, concurrent: 4, companies: 40, hits: 12 }).await;
}

#[derive(Clone, Copy, Debug)]
struct Run {
    processes: usize,
    /// How many renewals run at once in a process.
    concurrent: usize,
    companies: usize,
    hits: usize,
}

/// What the parent does to the rows, and what it sees in them.
struct Parent<'a> {
    partner: &'a Partner<'a>,
    fleet: Fleet,
    /// How often each company was made due.
    marks: HashMap<String, usize>,
    sign_ins: HashMap<String, usize>,
    /// The companies that needed a person, and the refresh tokens that they had then.
    lost: BTreeSet<(String, String)>,
}

async fn many_companies(test: &str, run: Run) {
    let Some(postgres) = Postgres::start(test) else { return };
    let bouncer = PgBouncer::start(&postgres, test);
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let partner = Partner::of(&postgres, run.companies).await;
    partner.note_saves();
    let folder = tempfile::tempdir().unwrap();
    partner.concur.set_fault(Fault::Delay(ANSWER));
    let proxies: Vec<_> = (0..run.processes)
        .map(|place| match &bouncer {
            Some(bouncer) if place % 2 == 1 => Proxy::before(bouncer),
            _ => Proxy::before(&postgres),
        })
        .collect();
    let app = partner.concur.app();
    let base_uri = partner.concur.base_uri();
    let sends = Sends { app: (app.id(), app.secret()), base_uri: &base_uri, concurrent: run.concurrent };
    let mut chaos = Chaos::new(run.processes, &mut random, |place, name, _| {
        let rows = Place::Rows(partner.database.url_by(&proxies[place]), SHORT);
        worker::start(folder.path(), name, &rows, sends)
    });
    let mut parent = Parent::of(&partner);
    while chaos.counts.kills + chaos.counts.suspensions < run.hits {
        parent.make_some_due(&run, &mut random).await;
        chaos.round(&mut random, Some((&postgres, &proxies))).await;
        // One at least.
        if chaos.counts.kills + chaos.counts.suspensions >= run.hits / 2 && chaos.counts.restarts == 0 {
            chaos.restart(&postgres);
        }
        parent.connect_again(|| random.u32(..4) == 0).await;
    }
    chaos.calm();
    let settled = parent.settles().await;
    chaos.end(folder.path(), || {}).await;
    parent.connect_again(|| true).await;

    let (names, counts, started) = (chaos.names(), chaos.counts, chaos.started);
    let mut history = History::of(&partner.concur, folder.path(), names, chaos.hits);
    history.saved = Some(partner.noted());
    let mut judged = history.judge_renewals(run.companies, usize::MAX);
    parent.judge(&history, &mut judged);
    judged.unexplained.extend(settled.err());
    let told = parent.told(&history, &judged, &counts, started);
    if !judged.unexplained.is_empty() {
        let kept = folder.keep();
        let logs = lines_of(&judged.unexplained, &parent, &kept, started);
        panic!(
            "CONCUR_AUTH_SEED={seed}\n{:#?}\n{logs}\n{:#?}\nall logs in {}\n{told}",
            judged.unexplained,
            history.hits,
            kept.display()
        );
    }
    say(&format!("{test}, CONCUR_AUTH_SEED={seed}\n{told}"));
    let granted = history.requests.iter().filter(|it| it.status == 200).count();
    counts.say(started, granted, judged.not_saved);
}

impl<'a> Parent<'a> {
    fn of(partner: &'a Partner<'a>) -> Self {
        let (marks, lost) = (HashMap::new(), BTreeSet::new());
        let sign_ins = partner.companies.iter().map(|company| (company.uuid().to_owned(), 1));
        Self { partner, fleet: partner.fleet(), marks, sign_ins: sign_ins.collect(), lost }
    }

    /// As many as keep the workers busy for about three answers; and ten that are always the same also while they are being renewed.
    async fn make_some_due(&mut self, run: &Run, random: &mut fastrand::Rng) {
        let often = self.partner.companies.iter().take(10).map(|company| format!("'{}'", company.uuid()));
        let often = format!("principal IN ({})", often.collect::<Vec<_>>().join(", "));
        let busy = (run.processes * run.concurrent) as f64 / run.companies as f64;
        let part = f64::from(random.u32(1..6)) * busy;
        let may_be = "state = 'active' AND renew_at > clock_timestamp()";
        self.mark(&format!("{may_be} AND (random() < {part} OR {often})"));
        for _ in 0..random.u32(0..4) {
            really_wait(ANSWER / 3).await;
            self.mark(&format!("{may_be} AND {often}"));
        }
    }

    /// A line each.
    fn rows(&self, which: &str) -> String {
        self.partner.database.psql(&format!(
            "SELECT principal, state, version, claims, failures, last_error, lease_owner, lease_until - clock_timestamp() AS lease,
                    renew_at - clock_timestamp() AS due, in_doubt_since, clock_timestamp() - updated_at AS saved
               FROM concur_auth_tokens WHERE {which} ORDER BY principal"
        ))
    }

    fn mark(&mut self, which: &str) -> usize {
        let marked = self.partner.make_due(which);
        let count = marked.len();
        for company in marked {
            *self.marks.entry(company).or_default() += 1;
        }
        count
    }

    /// Connects some of the companies that need a person.
    async fn connect_again(&mut self, mut is_one: impl FnMut() -> bool) {
        let lost = self.partner.tokens("state = 'needs_reauthorization'");
        self.lost.extend(lost.clone());
        for company in &self.partner.companies {
            let sign_ins = self.sign_ins.get_mut(company.uuid()).unwrap();
            if !lost.contains_key(company.uuid()) || *sign_ins == USES || !is_one() {
                continue;
            }
            *sign_ins += 1;
            // What a restart of the server has closed is noticed at the next call.
            let mut attempts = 0;
            while let Err(e) = self.fleet.connect(grant(company)).await {
                attempts += 1;
                assert!(e.is_transient() && attempts < 5, "{}: {e}", company.uuid());
            }
        }
    }

    /// All that are due are renewed, then all are made due once more, and each is renewed once.
    async fn settles(&mut self) -> Result<(), String> {
        let partner = self.partner;
        // What a killed worker has left is due again after its pause, which may last an hour.
        let is_left =
            "state = 'active' AND renew_at > clock_timestamp() AND lease_until <= clock_timestamp()";
        let is_at_rest = "renew_at > clock_timestamp() AND lease_owner IS NULL";
        until_none(|| {
            self.mark(is_left);
            self.rows(&format!("state = 'active' AND NOT ({is_at_rest})"))
        })
        .await?;
        self.lost.extend(partner.tokens("state = 'needs_reauthorization'"));
        let lost = self.lost.len();
        let before = partner.concur.requests().len();
        let at = partner.database.psql("SELECT clock_timestamp()");
        let marked = self.mark("state = 'active'");
        let is_waiting = format!("state = 'active' AND (updated_at < '{at}' OR lease_owner IS NOT NULL)");
        until_none(|| self.rows(&is_waiting)).await?;
        // Nothing more is sent, however often the workers look.
        really_wait(Duration::from_secs(1)).await;
        self.lost.extend(partner.tokens("state = 'needs_reauthorization'"));
        let lost = self.lost.len() - lost;
        let requests = partner.concur.requests().split_off(before);
        let granted = requests.iter().filter(|request| request.status() == Some(200)).count();
        let live = partner.tokens("state = 'active'").into_values();
        let dead = live.filter(|token| !partner.concur.is_live(token)).count();
        if (granted, requests.len(), dead) == (marked - lost, marked, 0) {
            return Ok(());
        }
        Err(format!(
            "{marked} were made due, of which {lost} were lost: {} requests, {granted} grants, {dead} dead tokens",
            requests.len()
        ))
    }

    /// What the history of the requests does not show.
    fn judge(&self, history: &History, judged: &mut Judged) {
        for (company, token) in &self.lost {
            if history.count(token, 400) == 0 {
                judged.unexplained.push(format!("{company} needs a person, and its token was not refused"));
            }
        }
        for (company, granted) in history.grants() {
            let marks = self.marks.get(company).copied().unwrap_or_default();
            if granted > marks {
                judged
                    .unexplained
                    .push(format!("{company} was made due {marks} times, and renewed {granted} times"));
            }
        }
        // Each grant was saved, or is one of the lost. The first ones are not noted.
        let saved = self.partner.companies.len() + self.partner.noted().len();
        let granted = history.requests.iter().filter(|it| it.status == 200).count();
        if granted != saved + judged.not_saved {
            judged
                .unexplained
                .push(format!("{granted} grants, {saved} saved, {} not saved", judged.not_saved));
        }
        let left = self.partner.count("state <> 'needs_reauthorization' AND lease_owner IS NOT NULL");
        let live = self.partner.count("lease_until > clock_timestamp()");
        if left + live > 0 {
            judged.unexplained.push(format!("{left} rows are left leased, {live} leases have not lapsed"));
        }
    }

    /// The table.
    fn told(&self, history: &History, judged: &Judged, counts: &Counts, started: usize) -> String {
        let mut told = String::new();
        let mut row =
            |what: &str, value: &dyn std::fmt::Debug| writeln!(told, "{what:<44} {value:?}").unwrap();
        let by_cause =
            |of: &HashMap<Cause, usize>| of.iter().map(|(a, b)| (*a, *b)).collect::<BTreeMap<_, _>>();
        let is_granted = |status| move |it: &&workers::Request| it.status == status;
        row("processes started", &started);
        row("kills", &counts.kills);
        row("suspensions", &counts.suspensions);
        row("restarts of the server", &counts.restarts);
        row("cuts", &counts.cuts);
        row("due marks", &self.marks.values().sum::<usize>());
        row("grants", &history.requests.iter().filter(is_granted(200)).count());
        row("  of which renewals", &history.grants().values().sum::<usize>());
        row("refused", &history.requests.iter().filter(is_granted(400)).count());
        row("saves", &self.partner.database.psql("SELECT sum(version) FROM concur_auth_tokens"));
        row("replies not saved", &judged.not_saved);
        row("  by cause", &by_cause(&judged.causes));
        row("families revoked, by cause", &by_cause(&judged.families));
        row("companies lost", &self.lost.len());
        row(
            "  of which connected again",
            &(self.sign_ins.values().sum::<usize>() - self.partner.companies.len()),
        );
        let late = self.lost.iter().filter(|(_, token)| history.has_successor(token)).count();
        row("  of which were saved late", &late);
        row("  of which need a person in the end", &self.partner.count("state = 'needs_reauthorization'"));
        row("rows left leased", &self.partner.count("lease_until > clock_timestamp()"));
        let saves = history.saves();
        let each = |of: &dyn Fn(&usize, &usize) -> bool| {
            saves.values().copied().reduce(|a, b| if of(&a, &b) { a } else { b })
        };
        row("renewals of a worker: least", &each(&|a, b| a < b));
        row("renewals of a worker: most", &each(&|a, b| a > b));
        row("unexplained", &judged.unexplained.len());
        told
    }
}

/// What the logs say of each company in these complaints.
fn lines_of(unexplained: &[String], parent: &Parent<'_>, folder: &Path, started: usize) -> String {
    let mut told = String::new();
    for company in parent.partner.companies.iter().map(|company| company.uuid()) {
        if !unexplained.iter().any(|complaint| complaint.contains(company)) {
            continue;
        }
        for worker in 1..=started {
            let log = Log::read(&folder.join(format!("worker-{worker}.log")));
            for line in log.of(company) {
                writeln!(told, "worker-{worker}: {line}").unwrap();
            }
        }
    }
    told
}

/// As `until`, with a question that starts a process. An error names the rows that are still there.
async fn until_none(mut rows: impl FnMut() -> String) -> Result<(), String> {
    let mut left = String::new();
    for _ in 0..600 {
        left = rows();
        if left.is_empty() {
            return Ok(());
        }
        really_wait(Duration::from_millis(200)).await;
    }
    Err(format!("after two minutes, these rows are not yet as they should be:\n{left}"))
}
