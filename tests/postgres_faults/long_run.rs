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
//! Always: each refresh token that Concur refused, and each reply that was not saved, has a cause that the logs show, as
//! `support/workers/history.rs` says. Any other loss fails the test.

use super::*;
use crate::{
    support::{say, seed},
    workers::{Chaos, History, Judged},
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

async fn four_processes(test: &str, most_hits: usize) {
    let Some(postgres) = Postgres::start(test) else { return };
    let bouncer = PgBouncer::start(&postgres, test);
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let company = Company::of(&postgres).await;
    // As over a network: what is killed at random is then often a process that waits for an answer.
    company.concur.set_fault(Fault::Delay(Duration::from_millis(30)));
    let servers: [&dyn Server; 4] = {
        let pooled = bouncer.as_ref().map_or(&postgres as &dyn Server, |it| it);
        [&postgres, &postgres, pooled, pooled]
    };
    let proxies = servers.map(Proxy::before);
    let mut chaos = Chaos::new(4, &mut random, |place, name, random| {
        let work = match random.u32(..10) {
            0..6 => Work::Refresh,
            6..8 => Work::Invalidate,
            _ => Work::KeepAlive,
        };
        let url = company.database.url_by(&proxies[place]);
        worker::start(company.folder.path(), name, &url, SHORT, work)
    });
    while chaos.counts.kills + chaos.counts.suspensions < most_hits {
        keep_request_token(&company);
        chaos.round(&mut random, Some((&postgres, &proxies))).await;
    }
    chaos.calm();
    chaos.end(company.folder.path(), || keep_request_token(&company)).await;
    keep_request_token(&company);
    let before_the_end = company.concur.token_requests();
    company.machine().refresh().await.unwrap();
    company.is_well("in the end");

    let (names, counts, started) = (chaos.names(), chaos.counts, chaos.started);
    let history = History::of(&company.concur, company.folder.path(), names, chaos.hits);
    let judged = judge(&history, before_the_end);
    if !judged.unexplained.is_empty() {
        let folder = company.folder.path().to_owned();
        std::mem::forget(company.folder);
        panic!(
            "CONCUR_AUTH_SEED={seed}\n{:#?}\nlogs in {}\n{:#?}\n{:#?}",
            judged.unexplained,
            folder.display(),
            history.requests,
            history.hits,
        );
    }
    let saves: usize = company.row("version").parse().unwrap();
    let granted = history.requests.iter().filter(|it| it.status == 200).count();
    // Each grant was saved, or is one of the lost.
    assert_eq!(granted, saves + judged.not_saved, "{judged:?}");
    let sign_ins = company.concur.count("password");
    say(&format!("{test}, CONCUR_AUTH_SEED={seed}: {sign_ins} sign-ins, {saves} saves"));
    say(&format!("lost by these causes: {:?}; families revoked: {:?}", judged.causes, judged.families));
    counts.say(started, granted, judged.not_saved);
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

/// The workers' requests are all but the very first and those from number `workers` on.
fn judge(history: &History, workers: usize) -> Judged {
    let mut judged = history.judge_renewals(1, workers);
    let sign_ins = |status| {
        let requests = history.requests[1..workers].iter();
        requests.filter(|it| it.presented.is_none() && it.status == status).count()
    };
    // Which of the killed has signed in and which has not come so far makes no difference: their number is known. The request
    // token may be used up before the parent has replaced it, which is no loss.
    let (mut answered, mut killed) = (0, Vec::new());
    for sent in history.sent.iter().filter(|it| it.sent.presented.is_none() && it.sent.refused.is_none()) {
        if sent.sent.issued.is_some() {
            answered += 1;
            history.look_at(sent, &mut judged);
        } else {
            killed.push(sent);
        }
    }
    match sign_ins(200).checked_sub(answered) {
        Some(lost) if lost <= killed.len() => {
            killed.into_iter().take(lost).for_each(|sent| history.look_at(sent, &mut judged));
        }
        other => judged.unexplained.push(format!("{other:?} sign-ins without a sender")),
    }
    judged
}
