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
    worker::{Log, Sent, WORKER},
};

/// The lease is shorter than the longest suspension and longer than a restart of the server.
const SHORT: Limits = Limits {
    lease: Duration::from_secs(2),
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
        really_wait(Duration::from_millis(random.u64(5..100))).await;
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
        let cuts_off = match random.u32(..40) {
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
            // Up to four seconds, at 50 milliseconds a round.
            place.sleeps = random.u32(2..80);
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
    company.machine().refresh().await.unwrap();
    company.is_well("in the end");

    let history = History::of(&company, first, &hits, started);
    let judged = history.judge();
    if !judged.unexplained.is_empty() {
        let folder = company.folder.path().to_owned();
        std::mem::forget(company.folder);
        panic!(
            "CONCUR_AUTH_SEED={seed}\n{:#?}\nlogs in {}\n{history:#?}\n{hits:#?}",
            judged.unexplained,
            folder.display()
        );
    }
    let saves = company.row("version");
    let [granted, signed_in] = [|_: &str| true, |grant: &str| grant == "password"]
        .map(|is_meant| history.requests.iter().filter(|it| it.status == 200 && is_meant(&it.grant)).count());
    eprintln!("CONCUR_AUTH_SEED={seed}: {counts:?}");
    eprintln!("{started} processes, {granted} grants ({signed_in} sign-ins), {saves} saves");
    eprintln!(
        "{} requests refused for {} replies lost: {:?}; {} replies not saved",
        judged.refused, judged.lost, judged.causes, judged.not_saved
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
    worker: String,
    /// Its number among the worker's requests.
    number: usize,
    grant: String,
    presented: Option<String>,
    status: u16,
}

#[derive(Debug)]
struct History<'a> {
    requests: Vec<Request>,
    logs: HashMap<String, (Log, Vec<Sent>)>,
    hits: &'a HashMap<String, Vec<Hit>>,
    /// For each refresh token the one that was presented for it; `None` for the first of a family.
    issued: HashMap<String, Option<String>>,
}

#[derive(Debug, Default)]
struct Judged {
    refused: usize,
    lost: usize,
    not_saved: usize,
    causes: HashMap<Cause, usize>,
    unexplained: Vec<String>,
}

impl<'a> History<'a> {
    fn of(company: &Company<'_>, first: String, hits: &'a HashMap<String, Vec<Hit>>, started: usize) -> Self {
        let names = (1..=started).map(|number| format!("worker-{number}"));
        let logs: HashMap<_, _> = names
            .map(|name| {
                let log = Log::read(&company.folder.path().join(format!("{name}.log")));
                let sent = log.sent();
                (name, (log, sent))
            })
            .collect();
        let mut numbers = HashMap::<String, usize>::new();
        let requests: Vec<_> = company
            .concur
            .requests()
            .into_iter()
            .map(|request| {
                let form: HashMap<_, _> =
                    url::form_urlencoded::parse(request.body().as_bytes()).into_owned().collect();
                let worker = request.header(WORKER).unwrap_or("parent").to_owned();
                let next = numbers.entry(worker.clone()).or_default();
                *next += 1;
                Request {
                    worker,
                    number: *next - 1,
                    grant: request.grant_type().unwrap_or_default().to_owned(),
                    presented: form.get("refresh_token").cloned(),
                    status: request.status().unwrap_or_default(),
                }
            })
            .collect();
        let mut issued = HashMap::from([(first, None)]);
        for request in requests.iter().filter(|request| request.status == 200) {
            let sent = logs.get(&request.worker).and_then(|(_, sent)| sent.get(request.number));
            if let Some(token) = sent.and_then(|sent| sent.issued.clone()) {
                issued.insert(token, request.presented.clone());
            }
        }
        Self { requests, logs, hits, issued }
    }

    fn judge(&self) -> Judged {
        let mut judged = Judged::default();
        let mut lost = HashMap::new();
        for (at, request) in self.requests.iter().enumerate().filter(|(_, it)| it.worker != "parent") {
            let is_refresh = request.grant == "refresh_token";
            match (request.status, is_refresh) {
                (200, _) => {
                    let sent = &self.logs[&request.worker].1[request.number];
                    if sent.settled.is_none_or(|(_, is_saved)| !is_saved) {
                        judged.not_saved += 1;
                        if self.cause(request).is_none() {
                            judged
                                .unexplained
                                .push(format!("request {at} was answered and not saved: {sent:?}"));
                        }
                    }
                }
                (400, true) => {
                    judged.refused += 1;
                    let culprit = self.culprit(request.presented.as_deref().unwrap_or_default(), at);
                    match culprit.map(|it| (it, self.cause(&self.requests[it]))) {
                        Some((culprit, Some(cause))) => _ = lost.insert(culprit, cause),
                        other => judged.unexplained.push(format!("request {at} was refused: {other:?}")),
                    }
                }
                // The request token was used up before the parent could replace it.
                (400, false) => {}
                (status, _) => judged.unexplained.push(format!("request {at}: status {status}")),
            }
        }
        judged.lost = lost.len();
        for cause in lost.into_values() {
            *judged.causes.entry(cause).or_default() += 1;
        }
        judged
    }

    /// The request whose lost reply is the reason why this token was refused by request number `at`: it has presented the same
    /// token before, or that of an ancestor in the same family, which was revoked when another process presented it again.
    fn culprit(&self, token: &str, at: usize) -> Option<usize> {
        let before = &self.requests[..at];
        let presented = |token: &str, status: u16| {
            before.iter().position(|it| it.presented.as_deref() == Some(token) && it.status == status)
        };
        if let Some(culprit) = presented(token, 200) {
            return Some(culprit);
        }
        let mut ancestor = self.issued.get(token)?.as_deref();
        while let Some(token) = ancestor {
            if presented(token, 400).is_some() {
                return presented(token, 200);
            }
            ancestor = self.issued.get(token)?.as_deref();
        }
        None
    }

    /// What was done to the worker in the window of this request.
    fn cause(&self, request: &Request) -> Option<Cause> {
        let (log, sent) = self.logs.get(&request.worker)?;
        let Sent { checked, settled, .. } = sent.get(request.number)?;
        let end = settled.map_or(log.0.len(), |(line, _)| line);
        // Whether the window was open while the log had so many lines.
        let is_open = |lines: usize| (checked + 1..=end).contains(&lines);
        let hits = self.hits.get(&request.worker)?;
        let causes = hits.iter().filter_map(|hit| match *hit {
            Hit::Killed => settled.is_none().then_some(Cause::Killed),
            Hit::Suspended(lines) => is_open(lines).then_some(Cause::Suspended),
            Hit::CutOff(before, after) => (before <= end && after > *checked).then_some(Cause::CutOff),
        });
        // The database is the cause only where nothing else is.
        causes.min_by_key(|cause| *cause == Cause::CutOff)
    }
}
