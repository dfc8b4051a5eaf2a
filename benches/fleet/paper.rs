//! What ten million companies need of PostgreSQL, on paper: sizes and write-ahead log, measured at 100,000.

use super::{Scale, database::Stage, members::APP, renewals::renew_all};
use crate::postgres::Postgres;

const MEMBERS: f64 = 10e6;
/// A token is renewed once in this many days, on average: a third of 180 days, less half of the longest jitter.
const PERIOD: f64 = 50.0;

pub fn ten_million(postgres: &Postgres, scale: Scale) {
    let (members, renewals) = scale.of((500, 50), (100_000, 600));
    let stage = Stage::new(postgres);
    stage.insert(APP, members, &stage.endpoint.uri, "interval '1 day'");
    // As far apart as those of a fleet in which few are due at a time.
    stage.database.psql(&format!(
        "UPDATE concur_auth_tokens SET renew_at = now() - interval '1 minute'
          WHERE principal IN (SELECT principal FROM concur_auth_tokens ORDER BY md5(principal) LIMIT {renewals})"
    ));
    stage.tidy();
    let size = |of: &str| stage.number(&format!("SELECT {of}('concur_auth_tokens')")) / members as f64;
    let (all, indexes) = (size("pg_total_relation_size"), size("pg_indexes_size"));
    // Each renewal is the first since a checkpoint that writes to its pages, which then are in the log as a whole.
    let before = stage.log_position();
    renew_all(&stage, &stage.fleet(), renewals);
    let log = (stage.log_position() - before) as f64 / renewals as f64;
    let a_day = MEMBERS / PERIOD;
    let gigabytes = |bytes: f64| bytes / 1e9;
    println!(
        "  >> measured at {members} rows: {all:.0} bytes a row with its indexes, which take {indexes:.0}; {log:.0} bytes of log a renewal"
    );
    println!(
        "  >> 10 million: {:.1} GB of table, {:.2} GB of it indexes; {a_day:.0} renewals a day, {:.1} a second; {:.2} GB of log a day",
        gigabytes(all * MEMBERS),
        gigabytes(indexes * MEMBERS),
        a_day / 86_400.0,
        gigabytes(log * a_day),
    );
}
