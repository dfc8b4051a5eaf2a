//! Renewals by one worker, compared with the bare loop, and by several workers in processes of their own.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use concur_auth::{Fleet, PostgresFleet, PostgresStore, TokenStore as _};
use tokio_postgres::types::{ToSql, Type};

use super::{
    Scale, bare,
    database::{Stage, fleet_on, runtime},
    endpoint::Endpoint,
    members::{self, APP},
};
use crate::{
    postgres::{Postgres, Proxy},
    support::{
        human, median,
        process::{processor_time, processor_time_of_children},
        rounds, say,
    },
};

/// At least 70 % of the renewals per second of the bare loop.
const GOAL: f64 = 1.43;
/// How long a reply may take.
const REPLY: Duration = Duration::from_millis(200);
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

/// What a renewal takes, in nanoseconds.
#[derive(Default)]
struct Costs {
    time: Vec<f64>,
    /// Of processors: this process, with the endpoint, and the database.
    here: Vec<f64>,
    database: Vec<f64>,
}

impl Costs {
    fn add(&mut self, database: u32, count: usize, work: impl FnOnce() -> Duration) {
        let each = |spent: Duration| spent.as_secs_f64() * 1e9 / count as f64;
        let before = (processor_time(), processor_time_of_children(database));
        self.time.push(each(work()));
        self.here.push(each(processor_time() - before.0));
        self.database.push(each(processor_time_of_children(database).saturating_sub(before.1)));
    }

    fn spent(&self) -> String {
        let [here, database] = [&self.here, &self.database].map(|of| human(median(of.iter().copied())));
        format!("{here} here and {database} in the database")
    }
}

/// What is measured of one worker.
#[derive(Default)]
struct OneWorker {
    what: &'static str,
    goal: Option<f64>,
    /// Of each reply.
    delay: Option<Duration>,
}

pub fn and_the_bare_loop(postgres: &Postgres, scale: Scale) {
    let what = "PostgreSQL";
    one_worker(postgres, scale, OneWorker { what, goal: Some(GOAL), ..Default::default() });
    // As long as Concur takes.
    let what = "PostgreSQL, replies after 200 ms";
    one_worker(postgres, scale, OneWorker { what, delay: Some(REPLY), ..Default::default() });
}

pub fn without_fsync(postgres: &Postgres, scale: Scale) {
    one_worker(postgres, scale, OneWorker { what: "PostgreSQL without fsync", ..Default::default() });
}

fn one_worker(postgres: &Postgres, scale: Scale, OneWorker { what, goal, delay }: OneWorker) {
    let (count, rounds) =
        if delay.is_some() { scale.of((50, 1), (2000, 3)) } else { scale.of((50, 1), (3000, 9)) };
    let (stage, its_endpoint) = (Stage::new(postgres), Endpoint::start());
    stage.insert(APP, count, &stage.endpoint.uri, "interval '61 days'");
    stage.insert(bare::APP, count, &its_endpoint.uri, "interval '61 days'");
    for endpoint in [&stage.endpoint, &its_endpoint] {
        delay.into_iter().for_each(|delay| endpoint.delay(delay));
    }
    let (bare, fleet) = (bare::Loop::new(&stage, &its_endpoint.uri), stage.fleet());
    let [database, _] = postgres.processes();
    let (mut floor, mut ours) = (Costs::default(), Costs::default());
    for round in 0..=rounds {
        // The first round is a warm-up.
        if round == 1 {
            (floor, ours) = Default::default();
        }
        stage.make_due(bare::APP, count);
        floor.add(database, count, || stage.block_on(bare.renew_all()));
        stage.make_due(APP, count);
        ours.add(database, count, || renew_all(&stage, &fleet, count));
    }
    for app in [APP, bare::APP] {
        stage.assert_saved(app, count, rounds + 1);
    }
    assert_eq!(
        (stage.endpoint.refused(), its_endpoint.refused()),
        (0, 0),
        "tokens that were presented twice"
    );
    let ratio = median(ours.time.iter().zip(&floor.time).map(|(ours, floor)| ours / floor));
    let [above, below] = [&ours, &floor].map(|costs| median(costs.time.iter().copied()));
    say(&format!("{what}: a renewal, 1 worker"), above, below, ratio, goal);
    println!(
        "  >> {what}: {:.0} renewals a second by 1 worker, {:.0} by the bare loop: {:.0} % (median of {rounds} turns of {count})",
        1e9 / above,
        1e9 / below,
        100.0 / ratio
    );
    println!(
        "  >> {what}: processor time of a renewal: {}; of the bare loop: {}",
        ours.spent(),
        floor.spent()
    );
}

/// How much of a save the server parses and plans: each statement of the crate is unnamed, so that PgBouncer may be in between in
/// transaction mode.
pub fn save_statements(postgres: &Postgres, scale: Scale) {
    let (count, turns) = scale.of((5, 1), (300, 9));
    let stage = Stage::new(postgres);
    stage.insert(APP, 64, &stage.endpoint.uri, "interval '61 days'");
    let (company, expires) = (members::uuid(1), 4e9);
    let save = text_of_save(&stage, &company);
    stage
        .database
        .psql(&format!("UPDATE concur_auth_tokens SET save_id = 's' WHERE principal = '{company}'"));
    let token = members::token(1, &stage.endpoint.uri, Duration::ZERO);
    let its_own: &[(&(dyn ToSql + Sync), Type)] = &[
        (&APP, Type::TEXT),
        (&company, Type::TEXT),
        (&"s", Type::TEXT),
        (&token, Type::TEXT),
        (&"company", Type::TEXT),
        (&expires, Type::FLOAT8),
        (&0.5, Type::FLOAT8),
        (&1_i64, Type::INT8),
        (&1_i64, Type::INT8),
        (&"s", Type::TEXT),
        (&true, Type::BOOL),
        (&None::<&str>, Type::TEXT),
        (&"holder", Type::TEXT),
    ];
    let bare: &[(&(dyn ToSql + Sync), Type)] =
        &[(&APP, Type::TEXT), (&company, Type::TEXT), (&token, Type::TEXT), (&expires, Type::FLOAT8)];
    let version = || -> u64 {
        let version = format!("SELECT version FROM concur_auth_tokens WHERE principal = '{company}'");
        stage.database.psql(&version).parse().expect("a number")
    };
    for (whose, statement, parameters) in
        [("the crate's", &*save, its_own), ("the bare loop's", bare::SAVE, bare)]
    {
        let types: Vec<_> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
        let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
        let named = stage.block_on(stage.observer.prepare_typed(statement, &types)).expect("a statement");
        let (mut unnamed_took, mut named_took) = (Vec::new(), Vec::new());
        let before = version();
        let each = |took: Duration| took.as_secs_f64() * 1e9 / count as f64;
        for _ in 0..turns {
            let unnamed = || stage.block_on(stage.observer.query_typed(statement, parameters));
            unnamed_took.push(each(rounds(count, || unnamed().expect("a database"))));
            let named = || stage.block_on(stage.observer.query(&named, &values));
            named_took.push(each(rounds(count, || named().expect("a database"))));
        }
        assert_eq!(version() - before, 2 * turns as u64 * count, "each of them saves");
        let [unnamed, named] = [unnamed_took, named_took].map(|took| median(took.into_iter()));
        println!(
            "  >> a save without fsync, {whose} statement: {}; prepared by name: {}; so {} to parse and plan it",
            human(unnamed),
            human(named),
            human(unnamed - named)
        );
    }
}

/// As the crate sends it.
fn text_of_save(stage: &Stage<'_>, company: &str) -> String {
    let proxy = Proxy::before(stage.database.postgres());
    let store = PostgresStore::new(&stage.database.url_by(&proxy), company).expect("an address").app_id(APP);
    stage.block_on(async {
        let lock = store.try_lock().await.expect("a database").expect("a lease");
        let token = store.load().await.expect("a database").expect("a token");
        store.finish(&token, None, &lock).await.expect("a save");
        store.unlock(lock).await;
    });
    proxy.executed().into_iter().find(|text| text.contains("sign_in = $9,")).expect("a save")
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
    for delay in scale.of(vec![None], vec![None, Some(REPLY)]) {
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
