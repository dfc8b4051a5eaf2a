//! Two processes on many companies in a folder, killed at random. A folder's locks are the operating system's, so what a killed
//! process had claimed is free at once.
//!
//! Always: each refresh token that Concur refused has a cause that the logs show: its process was killed between the request and
//! the save. All others are renewed once a period.

use std::{fs, path::PathBuf, sync::Arc};

use concur_auth::{
    AppCredentials, FolderFleet, MemberState,
    simulator::{ConcurSimulator, Rotation, SimulatedCompany},
};

use super::*;
use crate::{
    partner::grant,
    support::{really_wait, say, seed},
    worker::{Place, Sends},
    workers::{Chaos, History},
};

const COMPANIES: usize = 30;
/// After so many days every token is due.
const PERIOD: usize = 61;

struct Folder {
    concur: ConcurSimulator,
    dir: tempfile::TempDir,
    companies: Vec<SimulatedCompany>,
}

impl Folder {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let days = dir.path().join("days");
        fs::write(&days, "0").unwrap();
        let concur = ConcurSimulator::builder()
            .clock(Leaping::with_days_in(days))
            .rotation(Rotation::AlwaysAndRevokeFamily)
            .start()
            .await;
        let companies = (0..COMPANIES).map(|_| concur.add_company()).collect();
        let this = Self { concur, dir, companies };
        let fleet = this.fleet();
        for company in &this.companies {
            fleet.connect(grant(company)).await.unwrap();
        }
        this
    }

    fn tokens(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    fn days(&self) -> PathBuf {
        self.dir.path().join("days")
    }

    /// For all processes, and for Concur.
    fn pass(&self, days: usize) {
        let new = self.dir.path().join("new");
        fs::write(&new, days.to_string()).unwrap();
        fs::rename(new, self.days()).unwrap();
    }

    /// As in a process of its own.
    fn fleet(&self) -> Fleet {
        let app = self.concur.app();
        let clock = Leaping::with_days_in(self.days());
        Fleet::builder()
            .app(AppCredentials::new(app.id(), app.secret()))
            .base_uri(self.concur.base_uri())
            .store(FolderFleet::new(self.tokens()).clock(clock.clone()))
            .clock(clock)
            .build()
            .unwrap()
    }

    /// How many companies need no person, and are not to be renewed any more in this period.
    async fn settled(&self) -> (usize, usize) {
        let now = concur_auth::Clock::now(&Leaping::with_days_in(self.days()));
        let members = self.fleet().list(None, COMPANIES).await.unwrap();
        let active = members.iter().filter(|member| member.state == MemberState::Active);
        let renewed = active.filter(|member| member.renew_at.is_some_and(|at| at > now)).count();
        let lost = members.iter().filter(|member| member.state == MemberState::NeedsPerson).count();
        (renewed, lost)
    }

    async fn settles(&self) -> (usize, usize) {
        for _ in 0..3000 {
            let (renewed, lost) = self.settled().await;
            if renewed + lost == COMPANIES {
                return (renewed, lost);
            }
            really_wait(Duration::from_millis(20)).await;
        }
        panic!("not all are renewed within a minute: {:?}", self.settled().await);
    }
}

#[tokio::test]
async fn what_kills_lose_in_a_folder_is_explained() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = Arc::new(Folder::new().await);
    folder.concur.set_fault(Fault::Delay(Duration::from_millis(100)));
    let (app, base_uri) = (folder.concur.app(), folder.concur.base_uri());
    let sends = Sends { app: (app.id(), app.secret()), base_uri: &base_uri, concurrent: 2 };
    let mut chaos = Chaos::new(2, &mut random, |_, name, _| {
        let place = Place::Folder(folder.tokens(), folder.days());
        worker::start(folder.dir.path(), name, &place, sends)
    });
    let mut lost_before = 0;
    for period in 1..=5 {
        folder.pass(period * PERIOD);
        chaos.round(&mut random, None).await;
        let (_, lost) = folder.settles().await;
        assert!(lost >= lost_before);
        lost_before = lost;
    }
    // A period without any fault.
    let before = folder.concur.token_requests();
    folder.pass(6 * PERIOD);
    let (renewed, lost) = folder.settles().await;
    chaos.end(folder.dir.path(), || {}).await;
    let in_the_last = folder.concur.token_requests() - before;

    let (names, counts, started) = (chaos.names(), chaos.counts, chaos.started);
    let history = History::of(&folder.concur, folder.dir.path(), names, chaos.hits);
    let judged = history.judge_renewals(COMPANIES, usize::MAX);
    assert_eq!(judged.unexplained, [""; 0], "CONCUR_AUTH_SEED={seed}");
    for (company, granted) in history.grants() {
        assert!(granted <= 6, "CONCUR_AUTH_SEED={seed}: {company} was renewed {granted} times in 6 periods");
    }
    assert_eq!(judged.not_saved, lost, "CONCUR_AUTH_SEED={seed}: {judged:?}");
    assert_eq!(in_the_last, renewed + (lost - lost_before), "CONCUR_AUTH_SEED={seed}");
    say(&format!("{lost} of {COMPANIES} companies lost; {judged:?}"));
    counts.say(started, history.grants().values().sum(), lost);
}
