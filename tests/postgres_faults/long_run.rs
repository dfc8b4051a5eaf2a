//! Four processes on one company, killed and suspended at random, while PostgreSQL is restarted and connections are cut. The
//! long run has its own command; with its seed, the parent's choices are the same again:
//!
//! ```text
//! CONCUR_AUTH_SEED=1 cargo test --release --all-features --test postgres_faults long_run -- --ignored --nocapture
//! ```
//!
//! Two of the processes come by way of PgBouncer, where it is installed. The company request token, which the parent replaces
//! when its uses run out, is the way back when a family is lost.
//!
//! Always: each refresh token that Concur refused, and each reply that was not saved, has a cause that the logs show. The window
//! of a request is from the last look at the lease before it until its save has ended. A loss is explained if its process was
//! killed within the window, or suspended within it, or if the database was down within it and the save was late. With so short
//! a lease, a request is sent when half of the lease is left, whatever the request may take. So a suspension that begins in the
//! window need not last for a whole lease to be the cause. Any other loss fails the test.

use std::collections::HashMap;

use super::*;
use crate::{
    support::{really_wait, seed},
    worker::{Log, Sent},
};

/// The lease is shorter than most suspensions.
const SHORT: Limits = Limits {
    lease: Duration::from_secs(1),
    doubt: Duration::from_secs(3),
    late_save: Duration::from_secs(1),
};

#[tokio::test]
#[ignore = "takes minutes; its command is at the top of this file"]
async fn five_hundred_kills_and_suspensions() {
    four_processes("five_hundred_kills_and_suspensions", 500).await;
}

#[tokio::test]
async fn twenty_kills_and_suspensions() {
    four_processes("twenty_kills_and_suspensions", 20).await;
}

/// What the parent has done to a worker, and how many lines its log had then.
#[derive(Clone, Copy, Debug)]
enum Hit {
    Killed,
    Suspended(usize),
    /// The database was restarted, or the connections were cut, between these lines.
    CutOff(usize, usize),
}

/// Why a reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Killed,
    Suspended,
    /// The save could not be made before the lease was over.
    CutOff,
}

/// A worker process, and those that were in its place before.
struct Place<'a> {
    proxy: &'a Proxy,
    worker: Worker,
    name: String,
    /// For how many rounds it will be suspended.
    sleeps: u32,
}

#[derive(Debug, Default)]
struct Counts {
    kills: usize,
    suspensions: usize,
    restarts: usize,
    cuts: usize,
}

#[allow(clippy::print_stderr, reason = "the counts are what the long run is for")]
async fn four_processes(test: &str, most_hits: usize) {
    let Some(postgres) = Postgres::start(test) else { return };
    let bouncer = PgBouncer::start(&postgres, test);
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let company = Company::of(&postgres).await;
    let first = company.stored();
    // As over a network: what is killed at random is then often a process that waits for an answer.
    company.concur.set_fault(Fault::Delay(Duration::from_millis(30)));
    let servers: [&dyn Server; 4] = {
        let pooled = bouncer.as_ref().map_or(&postgres as &dyn Server, |it| it);
        [&postgres, &postgres, pooled, pooled]
    };
    let proxies = servers.map(Proxy::before);
    let mut hits = HashMap::<String, Vec<Hit>>::new();
    let mut started = 0;
    let start = |proxy: &Proxy, random: &mut fastrand::Rng, started: &mut usize| {
        *started += 1;
        let name = format!("worker-{started}");
        let work = match random.u32(..10) {
            0..6 => Work::Refresh,
            6..8 => Work::Invalidate,
            _ => Work::KeepAlive,
        };
        let url = company.database.url_by(proxy);
        (Worker::start(company.folder.path(), &name, &url, SHORT, work), name)
    };
    let mut places = Vec::new();
    for proxy in &proxies {
        let (worker, name) = start(proxy, &mut random, &mut started);
        places.push(Place { proxy, worker, name, sleeps: 0 });
    }
    let mut counts = Counts::default();
    while counts.kills + counts.suspensions < most_hits {
        // A moment that no log can name.
        really_wait(Duration::from_millis(random.u64(50..500))).await;
        keep_request_token(&company);
        for place in &mut places {
            if place.sleeps == 1 {
                place.worker.go_on();
            }
            place.sleeps = place.sleeps.saturating_sub(1);
        }
        let lengths = |places: &[Place<'_>]| -> Vec<_> {
            places.iter().map(|place| place.worker.log().0.len()).collect()
        };
        let cuts_off = match random.u32(..25) {
            0 => {
                counts.restarts += 1;
                Some(true)
            }
            1..4 => {
                counts.cuts += 1;
                Some(false)
            }
            _ => None,
        };
        if let Some(restarts) = cuts_off {
            let before = lengths(&places);
            if restarts {
                postgres.restart_immediate();
            } else {
                proxies[random.usize(..4)].cut_all();
            }
            let after = lengths(&places);
            for ((place, before), after) in places.iter().zip(before).zip(after) {
                hits.entry(place.name.clone()).or_default().push(Hit::CutOff(before, after));
            }
        }
        let place = &mut places[random.usize(..4)];
        if random.bool() {
            assert!(place.worker.is_running(), "{} ended by itself", place.name);
            place.worker.kill();
            counts.kills += 1;
            hits.entry(place.name.clone()).or_default().push(Hit::Killed);
            (place.worker, place.name) = start(place.proxy, &mut random, &mut started);
            place.sleeps = 0;
        } else if place.sleeps == 0 {
            place.worker.suspend();
            counts.suspensions += 1;
            let lines = place.worker.log().0.len();
            hits.entry(place.name.clone()).or_default().push(Hit::Suspended(lines));
            // Up to four seconds, at about 300 milliseconds a round.
            place.sleeps = random.u32(2..14);
        }
    }
    for place in places.iter().filter(|place| place.sleeps > 0) {
        place.worker.go_on();
    }
    fs::write(company.folder.path().join("stop"), "").unwrap();
    for place in &mut places {
        until(|| {
            keep_request_token(&company);
            !place.worker.is_running()
        })
        .await;
        assert_eq!(place.worker.outcome(), "done", "{}", place.name);
    }
    keep_request_token(&company);
    let before_the_end = company.concur.token_requests();
    company.machine().refresh().await.unwrap();
    company.is_well("in the end");

    let history = History::of(&company, first, &hits, started);
    let judged = history.judge(before_the_end);
    if !judged.unexplained.is_empty() {
        let folder = company.folder.path().to_owned();
        std::mem::forget(company.folder);
        panic!(
            "CONCUR_AUTH_SEED={seed}\n{:#?}\nlogs in {}\n{:#?}\n{hits:#?}",
            judged.unexplained,
            folder.display(),
            history.requests,
        );
    }
    let saves: usize = company.row("version").parse().unwrap();
    let granted = history.requests.iter().filter(|it| it.status == 200).count();
    // Each grant was saved, or is one of the lost.
    assert_eq!(granted, saves + judged.not_saved, "{judged:?}");
    eprintln!("CONCUR_AUTH_SEED={seed}: {counts:?}, {started} processes");
    eprintln!("{granted} grants, {} of them sign-ins; {saves} saves", company.concur.count("password"));
    eprintln!(
        "{} replies not saved, by these causes: {:?}; families revoked: {:?}",
        judged.not_saved, judged.causes, judged.families
    );
}

/// Writes a new request token into the credentials when the old one is nearly used up.
fn keep_request_token(company: &Company<'_>) {
    if company.concur.request_token_uses_left() > 2 {
        return;
    }
    company.concur.issue_request_token();
    let (new, path) = (company.folder.path().join("new"), company.folder.path().join("credentials.json"));
    fs::write(&new, company.concur.credentials_json()).unwrap();
    fs::rename(new, path).unwrap();
}

// ---------------------------------------------------------------------------------------------------------------------
// What happened, and why.

#[derive(Debug)]
struct Request {
    /// The refresh token that it presents; `None` for a sign-in.
    presented: Option<String>,
    status: u16,
}

struct History<'a> {
    requests: Vec<Request>,
    /// What the workers have sent: the worker's name, its log's length, and the request.
    sent: Vec<(String, usize, Sent)>,
    hits: &'a HashMap<String, Vec<Hit>>,
    /// For each refresh token the one that was presented for it; `None` for the first of a family.
    issued: HashMap<String, Option<String>>,
}

#[derive(Debug, Default)]
struct Judged {
    not_saved: usize,
    /// Those that were revoked, by the cause of the first loss.
    families: HashMap<Cause, usize>,
    /// Of the replies that were not saved.
    causes: HashMap<Cause, usize>,
    unexplained: Vec<String>,
}

impl<'a> History<'a> {
    fn of(company: &Company<'_>, first: String, hits: &'a HashMap<String, Vec<Hit>>, started: usize) -> Self {
        let requests = company.concur.requests().into_iter().map(|request| {
            let mut form = url::form_urlencoded::parse(request.body().as_bytes());
            let presented = form.find(|(name, _)| name == "refresh_token");
            Request {
                presented: presented.map(|(_, token)| token.into_owned()),
                status: request.status().unwrap_or_default(),
            }
        });
        let mut sent = Vec::new();
        for name in (1..=started).map(|number| format!("worker-{number}")) {
            let log = Log::read(&company.folder.path().join(format!("{name}.log")));
            sent.extend(log.sent().into_iter().map(|sent| (name.clone(), log.0.len(), sent)));
        }
        let mut issued = HashMap::from([(first, None)]);
        for (_, _, sent) in &sent {
            if let Some(token) = &sent.issued {
                issued.insert(token.clone(), sent.presented.clone());
            }
        }
        Self { requests: requests.collect(), sent, hits, issued }
    }

    /// The first requests are the workers', but for the very first; the rest is the parent's last look.
    fn judge(&self, workers: usize) -> Judged {
        let mut judged = Judged::default();
        let mut families = HashMap::new();
        for (at, request) in self.requests.iter().enumerate().skip(1) {
            match (request.status, &request.presented) {
                (200, Some(token)) if at < workers => match self.spender(token) {
                    Some(sent) => self.look_at(sent, &mut judged),
                    None => judged.unexplained.push(format!("nobody has sent request {at}")),
                },
                (400, Some(token)) => {
                    let lost = self.lost(token, at);
                    match lost.and_then(|(spent, sent)| Some((spent, self.cause(sent)?))) {
                        Some((spent, cause)) => _ = families.insert(spent, cause),
                        None => judged.unexplained.push(format!("request {at} was refused: {lost:?}")),
                    }
                }
                // Sign-ins are looked at below. The request token may be used up before the parent has replaced it.
                (200, _) | (400, None) => {}
                (status, _) => judged.unexplained.push(format!("request {at}: status {status}")),
            }
        }
        let sign_ins = |status| {
            let requests = self.requests[1..workers].iter();
            requests.filter(|it| it.presented.is_none() && it.status == status).count()
        };
        // Which of the killed has signed in and which has not come so far makes no difference: their number is known.
        let (mut answered, mut killed) = (0, Vec::new());
        for sent in self.sent.iter().filter(|(_, _, sent)| sent.presented.is_none() && !sent.is_refused) {
            if sent.2.issued.is_some() {
                answered += 1;
                self.look_at(sent, &mut judged);
            } else {
                killed.push(sent);
            }
        }
        match sign_ins(200).checked_sub(answered) {
            Some(lost) if lost <= killed.len() => {
                killed.into_iter().take(lost).for_each(|sent| self.look_at(sent, &mut judged));
            }
            other => judged.unexplained.push(format!("{other:?} sign-ins without a sender")),
        }
        for cause in families.into_values() {
            *judged.families.entry(cause).or_default() += 1;
        }
        judged
    }

    /// A reply that was not saved has a cause.
    fn look_at(&self, sent: &(String, usize, Sent), judged: &mut Judged) {
        // Killed after its save was carried out and before its log could say so: somebody has presented the token since.
        let is_presented =
            |token: &String| self.requests.iter().any(|it| it.presented.as_ref() == Some(token));
        if sent.2.settled.map_or_else(|| sent.2.issued.as_ref().is_some_and(is_presented), |(_, saved)| saved)
        {
            return;
        }
        judged.not_saved += 1;
        match self.cause(sent) {
            Some(cause) => *judged.causes.entry(cause).or_default() += 1,
            None => judged.unexplained.push(format!("not saved: {sent:?}")),
        }
    }

    /// The request that was granted for this refresh token: whose reply was seen by its worker, or was never seen.
    fn spender(&self, token: &str) -> Option<&(String, usize, Sent)> {
        let sent = self.sent.iter();
        let candidates = sent.filter(|(_, _, it)| it.presented.as_deref() == Some(token) && !it.is_refused);
        candidates.max_by_key(|(_, _, it)| it.issued.is_some())
    }

    /// Why this token was refused by request number `at`: an earlier request has presented it, or an ancestor of the same
    /// family was presented a second time. Returns the token that was presented twice, and the request that had spent it.
    fn lost(&self, token: &str, at: usize) -> Option<(&str, &(String, usize, Sent))> {
        let before = |token: &str, status: u16| {
            let mut before = self.requests[..at].iter();
            before.any(|it| it.presented.as_deref() == Some(token) && it.status == status)
        };
        let (key, _) = self.issued.get_key_value(token)?;
        if before(key, 200) {
            return Some((key, self.spender(key)?));
        }
        let mut ancestor = self.issued.get(token)?.as_deref();
        while let Some(token) = ancestor {
            if before(token, 200) && before(token, 400) {
                return Some((token, self.spender(token)?));
            }
            ancestor = self.issued.get(token)?.as_deref();
        }
        None
    }

    /// What was done to the worker in the window of this request.
    fn cause(&self, (worker, lines, sent): &(String, usize, Sent)) -> Option<Cause> {
        let end = sent.settled.map_or(*lines, |(line, _)| line);
        // Whether the window was open while the log had so many lines.
        let is_open = |lines: usize| (sent.checked + 1..=end).contains(&lines);
        let causes = self.hits.get(worker)?.iter().filter_map(|hit| match *hit {
            Hit::Killed => sent.settled.is_none().then_some(Cause::Killed),
            Hit::Suspended(lines) => is_open(lines).then_some(Cause::Suspended),
            Hit::CutOff(before, after) => (before <= end && after > sent.checked).then_some(Cause::CutOff),
        });
        // The database is the cause only where nothing else is.
        causes.min_by_key(|cause| *cause == Cause::CutOff)
    }
}
