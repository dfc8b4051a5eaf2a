//! Kills and suspends workers at random, and cuts them off from their database.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use super::{Hit, Worker};
use crate::{
    postgres::{Postgres, Proxy},
    support::{really_wait, say, until},
};

/// Workers in places: where a worker was killed, another one starts.
pub struct Chaos<S> {
    places: Vec<Place>,
    /// Starts the worker of a place, by this name.
    start: S,
    pub started: usize,
    pub counts: Counts,
    /// By the workers' names.
    pub hits: HashMap<String, Vec<Hit>>,
}

struct Place {
    worker: Worker,
    name: String,
    /// For how many rounds it will be suspended.
    sleeps: u32,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub kills: usize,
    pub suspensions: usize,
    pub restarts: usize,
    pub cuts: usize,
}

impl Counts {
    /// Says what was tried: for a person, and for the page on reliability.
    pub fn say(&self, processes: usize, granted: usize, lost: usize) {
        let Self { kills, suspensions, restarts, cuts } = self;
        say(&format!(
            "tried: {processes} processes, {kills} kills, {suspensions} suspensions, {restarts} restarts of the server, {cuts} cuts; \
             {granted} grants, {lost} replies not saved, each for a known cause"
        ));
    }
}

/// A server, and the proxy of each place before it.
pub type Connections<'a> = (&'a Postgres, &'a [Proxy]);

impl<S: FnMut(usize, &str, &mut fastrand::Rng) -> Worker> Chaos<S> {
    pub fn new(places: usize, random: &mut fastrand::Rng, start: S) -> Self {
        let (counts, hits) = (Counts::default(), HashMap::new());
        let mut this = Self { places: Vec::new(), start, started: 0, counts, hits };
        for place in 0..places {
            let started = this.start(place, random);
            this.places.push(started);
        }
        this
    }

    fn start(&mut self, place: usize, random: &mut fastrand::Rng) -> Place {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        Place { worker: (self.start)(place, &name, random), name, sleeps: 0 }
    }

    /// All that have ever been started.
    pub fn names(&self) -> impl Iterator<Item = String> + use<S> {
        (1..=self.started).map(|number| format!("worker-{number}"))
    }

    /// Waits for a moment that no log can name, then kills or suspends a worker, for up to four seconds. In some rounds the server
    /// is restarted, or connections are cut. Without connections, workers are only killed.
    pub async fn round(&mut self, random: &mut fastrand::Rng, connections: Option<Connections<'_>>) {
        really_wait(Duration::from_millis(random.u64(50..500))).await;
        for place in &mut self.places {
            if place.sleeps == 1 {
                place.worker.go_on();
            }
            place.sleeps = place.sleeps.saturating_sub(1);
        }
        if let Some((postgres, proxies)) = connections {
            match random.u32(..25) {
                0 => self.restart(postgres),
                1..4 => {
                    self.counts.cuts += 1;
                    let cut = random.usize(..proxies.len());
                    self.cut_off(|place| place == cut, || proxies[cut].cut_all());
                }
                _ => {}
            }
        }
        let number = random.usize(..self.places.len());
        if random.bool() || connections.is_none() {
            self.kill(number, random);
        } else if self.places[number].sleeps == 0 {
            let Place { worker, name, sleeps } = &mut self.places[number];
            worker.suspend();
            self.counts.suspensions += 1;
            self.hits.entry(name.clone()).or_default().push(Hit::Suspended(worker.logged()));
            // At about 300 milliseconds a round.
            *sleeps = random.u32(2..14);
        }
    }

    pub fn restart(&mut self, postgres: &Postgres) {
        self.counts.restarts += 1;
        self.cut_off(|_| true, || postgres.restart_immediate());
    }

    fn kill(&mut self, number: usize, random: &mut fastrand::Rng) {
        let Place { worker, name, .. } = &mut self.places[number];
        assert!(worker.is_running(), "{name} ended by itself");
        worker.kill();
        self.counts.kills += 1;
        self.hits.entry(name.clone()).or_default().push(Hit::Killed);
        self.places[number] = self.start(number, random);
    }

    fn cut_off(&mut self, which: impl Fn(usize) -> bool, fault: impl FnOnce()) {
        let logged = |places: &[Place]| places.iter().map(|it| it.worker.logged()).collect::<Vec<_>>();
        let before = logged(&self.places);
        fault();
        let lengths = before.into_iter().zip(logged(&self.places));
        for (number, (before, after)) in lengths.enumerate().filter(|(number, _)| which(*number)) {
            let hits = self.hits.entry(self.places[number].name.clone()).or_default();
            hits.push(Hit::CutOff(before, after));
        }
    }

    /// Lets all that are suspended go on.
    pub fn calm(&mut self) {
        for place in self.places.iter_mut().filter(|place| place.sleeps > 0) {
            place.worker.go_on();
            place.sleeps = 0;
        }
    }

    /// Tells the workers by a file in `folder` to end, and waits until each has said `done`. `meanwhile` is done again and again.
    pub async fn end(&mut self, folder: &Path, meanwhile: impl Fn()) {
        fs::write(folder.join("stop"), "").unwrap();
        for place in &mut self.places {
            until(|| {
                meanwhile();
                !place.worker.is_running()
            })
            .await;
            assert_eq!(place.worker.outcome(), "done", "{}", place.name);
        }
    }
}
