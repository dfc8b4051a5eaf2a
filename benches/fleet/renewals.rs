//! Renewals by one worker, beside the bare loop, and by several workers in processes of their own.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use concur_auth::{Fleet, PostgresFleet};

use super::{
    Scale, bare,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members::APP,
    process::processor_time,
};
use crate::{
    postgres::Postgres,
    support::{human, median, say},
};

/// At least 70 % of the renewals per second of the bare loop.
pub const GOAL: f64 = 1.43;
const DEADLINE: Duration = Duration::from_secs(60);

/// Lets the fleet's worker renew all that are due, `count`, and returns how long that took, from the start of the worker until the
/// last reply is saved.
pub fn renew_all(stage: &Stage<'_>, fleet: &Fleet, count: usize) -> Duration {
    let all = stage.endpoint.answered() + count;
    let start = Instant::now();
    let worker = stage.block_on(fleet.keep_alive()).expect("a worker");
    stage.endpoint.until(all);
    stage.until_saved(APP);
    let took = start.elapsed();
    drop(worker);
    stage.block_on(fleet.shutdown(DEADLINE)).expect("all is saved");
    took
}

pub fn one_worker(postgres: &Postgres, scale: Scale, what: &str, goal: Option<f64>) {
    let (count, rounds) = scale.of((50, 2), (3000, 9));
    let (stage, its_endpoint) = (Stage::new(postgres), Endpoint::start());
    stage.insert(APP, count, &stage.endpoint.uri, "interval '61 days'");
    stage.insert(bare::APP, count, &its_endpoint.uri, "interval '61 days'");
    let (bare, fleet) = (bare::Loop::new(&stage, &its_endpoint.uri), stage.fleet());
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    let (mut floor_works, mut ours_works) = (Vec::new(), Vec::new());
    let busy = |work: &dyn Fn() -> Duration| {
        let before = processor_time();
        let took = work();
        (took, (processor_time() - before).as_secs_f64() * 1e9 / count as f64)
    };
    // The first round is a warm-up.
    for round in 0..=rounds {
        stage.make_due(bare::APP, count);
        let (below, its_work) = busy(&|| stage.block_on(bare.renew_all()));
        stage.make_due(APP, count);
        let (above, our_work) = busy(&|| renew_all(&stage, &fleet, count));
        if round > 0 {
            floor.push(below.as_secs_f64() * 1e9 / count as f64);
            ours.push(above.as_secs_f64() * 1e9 / count as f64);
            floor_works.push(its_work);
            ours_works.push(our_work);
        }
    }
    for app in [APP, bare::APP] {
        stage.assert_saved(app, count, rounds + 1);
    }
    assert_eq!(
        (stage.endpoint.refused(), its_endpoint.refused()),
        (0, 0),
        "tokens that were presented twice"
    );
    let ratio = median(ours.iter().zip(&floor).map(|(ours, floor)| ours / floor));
    let (ours, floor) = (median(ours.into_iter()), median(floor.into_iter()));
    say(&format!("{what}: a renewal, 1 worker"), ours, floor, ratio, goal);
    println!(
        "  >> {what}: {:.0} renewals a second by 1 worker, {:.0} by the bare loop: {:.0} % (median of {rounds} turns of {count})",
        1e9 / ours,
        1e9 / floor,
        100.0 / ratio
    );
    let (ours, floor) = (median(ours_works.into_iter()), median(floor_works.into_iter()));
    println!(
        "  >> {what}: processor time of a renewal, the endpoint's included and the database's not: {}; of the bare loop {}",
        human(ours),
        human(floor)
    );
}

/// By the count of the server.
pub fn statements(stage: &Stage<'_>, count: usize) -> f64 {
    stage.make_due(APP, count);
    let before = stage.transactions().0;
    let fleet = stage.fleet();
    let all = stage.endpoint.answered() + count;
    let worker = stage.block_on(fleet.keep_alive()).expect("a worker");
    stage.endpoint.until(all);
    // Replies that are still to be saved are saved by then.
    stage.block_on(fleet.shutdown(DEADLINE)).expect("all is saved");
    drop(worker);
    let (after, connections) = stage.transactions();
    let statements = after - before - connections;
    let each = statements as f64 / count as f64;
    println!(
        "  >> {count} renewals: {statements} statements, by the server's count without those to connect ({connections}): \
         {each:.3} a renewal (goal: 2.1 at most)"
    );
    each
}

pub fn count_statements(postgres: &Postgres, scale: Scale) {
    let count = scale.of(50, 2000);
    let stage = Stage::new(postgres);
    stage.insert(APP, count, &stage.endpoint.uri, "interval '61 days'");
    statements(&stage, count);
    stage.assert_saved(APP, count, 1);
}

/// Another process, which works on the same rows.
struct Worker {
    process: Child,
    input: ChildStdin,
}

/// What the process of a worker does: says that it is ready, waits for a line, and works until its input ends.
pub fn worker(arguments: &[String]) {
    let [database, uri] = arguments else { panic!("a database and an endpoint") };
    let runtime = runtime();
    let store = PostgresFleet::new(database).expect("a URL");
    let fleet = fleet_on(store, uri).build().expect("a fleet");
    runtime.block_on(fleet.health()).expect("a database");
    println!("ready");
    let mut input = std::io::stdin().lock();
    input.read_line(&mut String::new()).expect("a line");
    let worker = runtime.block_on(fleet.keep_alive()).expect("a worker");
    input.read_to_end(&mut Vec::new()).expect("the end");
    runtime.block_on(fleet.shutdown(DEADLINE)).expect("all is saved");
    drop(worker);
}

impl Worker {
    fn start(stage: &Stage<'_>) -> Self {
        let mut program = Command::new(env::current_exe().expect("this program"));
        program.args([super::WORKER, &stage.database.url(), &stage.endpoint.uri]);
        let mut process = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let input = process.stdin.take().expect("piped");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self { process, input }
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.process.wait().expect("a process").success());
    }
}

pub fn workers(postgres: &Postgres, scale: Scale) {
    let (count, rounds) = scale.of((60, 1), (4000, 5));
    for delay in scale.of(vec![None], vec![None, Some(Duration::from_millis(200))]) {
        let stage = Stage::new(postgres);
        stage.insert(APP, count, &stage.endpoint.uri, "interval '61 days'");
        if let Some(delay) = delay {
            stage.endpoint.delay(delay);
        }
        let mut saved = 0;
        for workers in [1, 2, 4] {
            let seconds = (0..rounds).map(|_| {
                stage.make_due(APP, count);
                let mut workers: Vec<_> = (0..workers).map(|_| Worker::start(&stage)).collect();
                let all = stage.endpoint.answered() + count;
                let start = Instant::now();
                for worker in &mut workers {
                    worker.input.write_all(b"\n").expect("it waits");
                }
                stage.endpoint.until(all);
                stage.until_saved(APP);
                let took = start.elapsed();
                workers.into_iter().for_each(Worker::end);
                took.as_secs_f64()
            });
            let seconds = median(seconds.collect::<Vec<_>>().into_iter());
            saved += rounds;
            stage.assert_saved(APP, count, saved);
            assert_eq!((stage.endpoint.answered(), stage.endpoint.refused()), (saved * count, 0));
            println!(
                "  >> {workers} workers, each in a process of its own, replies after {:?}: {:.0} renewals a second, each of {count} \
                 rows once (median of {rounds} turns)",
                delay.unwrap_or_default(),
                count as f64 / seconds
            );
        }
    }
}
