//! Three years of programs that run seldom, or by a calendar, while Concur has outages. `cargo test --lib calendar --
//! --nocapture` prints the tables.
//!
//! Always: what a program should have done is worked out from its calendar, the outages and Concur's list of grants, and
//! not from the code that is tested. A request in an outage changes nothing at Concur.

use std::{
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde_json::json;
use time::{Month, OffsetDateTime, Weekday};

use super::{
    HOUR, MINUTE,
    crowd::{Counting, builder, client},
    world::{BEGINNING, Watch, World},
};
use crate::{
    Clock, Grant, MemoryStore, OAuthClient, TokenManager, TokenManagerBuilder,
    caught::locked,
    oauth_client::{Failure, OutgoingCall, Response},
    seed::seed,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
const THREE_YEARS: Duration = Duration::from_secs(3 * 365 * 24 * 3600);
/// Of a refresh token, from each grant on. An access token lives for an hour.
const LIFE: Duration = Duration::from_secs(180 * 24 * 3600);
/// How much later than the calendar says a run begins on a busy machine, at most.
const LONGEST_DELAY: Duration = Duration::from_secs(2 * 60);
/// A run is over by then, and so is the pause after a failure (60 s) of a program that goes on running.
const LONGEST_RUN: Duration = Duration::from_secs(2 * 60);
/// `keep_alive` has tried again by then: it pauses for an hour at most after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(65 * 60);
/// Nothing is asked of a run that is as close as this to the moment that decides: it may be on either side.
const SLACK: Duration = Duration::from_secs(5 * 60);

type Spans = Arc<[Range<Duration>]>;

/// Whether two times have something in common.
fn overlap(spans: &[Range<Duration>], with: Range<Duration>) -> bool {
    let first = spans.partition_point(|span| span.end <= with.start);
    spans.get(first).is_some_and(|span| span.start < with.end)
}

fn date(at: Duration) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(BEGINNING.cast_signed()).unwrap() + at
}

/// Outages of five minutes to a week, most of them short: a tenth of the time. The first day has none.
fn outages(seed: u64, end: Duration) -> Spans {
    const SHORTEST: Duration = Duration::from_secs(5 * 60);
    const LONGEST: f64 = 7.0 * 24.0 * 12.0;
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut spans, mut at) = (Vec::new(), DAY);
    while at < end {
        let span = at..at + SHORTEST.mul_f64(LONGEST.powf(dice.f64()));
        at = span.end + (DAY * 33 / 2).mul_f64(dice.f64());
        spans.push(span);
    }
    spans.into()
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calendar {
    Every(Duration),
    FirstOfMonth,
    /// At nine, without weekends and two weeks in August.
    WorkingDays,
    /// Five minutes after a laptop woke up.
    Laptop,
    /// Hourly, and on the last day each minute.
    DenserAtTheEnd,
}

impl Calendar {
    fn runs(self, begin: Duration, end: Duration) -> Vec<Duration> {
        match self {
            Self::Every(interval) => {
                (1..).map(|nth| begin + interval * nth).take_while(|at| *at < end).collect()
            }
            Self::FirstOfMonth => days(begin, end, |day| day.day() == 1, 6 * HOUR),
            Self::WorkingDays => {
                let is_holiday = |day: OffsetDateTime| day.month() == Month::August && day.day() <= 14;
                days(begin, end, |day| is_weekday(day) && !is_holiday(day), 9 * HOUR)
            }
            Self::Laptop => awake(begin, end).iter().map(|span| span.start + 5 * MINUTE).collect(),
            Self::DenserAtTheEnd => {
                let last_day = end.saturating_sub(DAY);
                let mut runs = Self::Every(HOUR).runs(begin, last_day);
                runs.extend(Self::Every(MINUTE).runs(last_day, end));
                runs
            }
        }
    }
}

fn is_weekday(day: OffsetDateTime) -> bool {
    !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)
}

/// This time of day, on such days.
fn days(
    begin: Duration,
    end: Duration,
    such: impl Fn(OffsetDateTime) -> bool,
    time: Duration,
) -> Vec<Duration> {
    let since_midnight = Duration::from_secs(BEGINNING % DAY.as_secs());
    (1..)
        .map(|nth| (DAY * nth + time).saturating_sub(since_midnight))
        .take_while(|at| *at < end)
        .filter(|at| *at > begin && such(date(*at)))
        .collect()
}

/// A laptop is used for an hour in the morning and in the afternoon, and sleeps at all other times, on weekends and for
/// three weeks in summer.
fn awake(begin: Duration, end: Duration) -> Vec<Range<Duration>> {
    let is_away = |day: OffsetDateTime| day.month() == Month::July && (4..=24).contains(&day.day());
    let is_used = |day| is_weekday(day) && !is_away(day);
    let hours = |from: u32| days(begin, end, is_used, from * HOUR).into_iter().map(|at| at..at + HOUR);
    let mut spans: Vec<_> = hours(10).chain(hours(14)).collect();
    spans.sort_by_key(|span| span.start);
    spans
}

/// The clock of a machine that is asleep at all other times: the time of day jumps, and a sleep goes on where it was.
#[derive(Debug)]
struct LaptopClock {
    watch: Watch,
    awake: Vec<Range<Duration>>,
}

impl Clock for LaptopClock {
    fn now(&self) -> SystemTime {
        self.watch.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let now = self.watch.0.passed();
        let (mut at, mut left) = (now, duration);
        let next = self.awake.partition_point(|span| span.end <= now);
        for span in &self.awake[next..] {
            at = at.max(span.start);
            let room = left.min(span.end - at);
            (at, left) = (at + room, left - room);
            if left.is_zero() {
                break;
            }
        }
        self.watch.sleep(at + left - now)
    }
}

/// What a refresh grant does to the refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grants {
    /// Another token, which lives for 180 days, and the one before is dead.
    Rotate,
    /// The same token, which lives for another 180 days.
    Extend,
    /// The same token, and its life stays as it is.
    KeepExpiry,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    at: Duration,
    expires: Duration,
    is_sign_in: bool,
}

/// Concur, with one principal.
struct Concur {
    world: Arc<World>,
    grants: Grants,
    outages: Spans,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sign-ins that a person has allowed.
    request_tokens: u32,
    refresh_token: String,
    granted: Vec<Granted>,
}

impl Concur {
    fn is_down(&self, around: Range<Duration>) -> bool {
        overlap(&self.outages, around)
    }

    fn expires(&self) -> Duration {
        locked(&self.state).granted.last().map_or(Duration::ZERO, |last| last.expires)
    }

    fn answer(&self, call: &OutgoingCall<'_>) -> (Duration, Result<Response, Failure>) {
        // Long enough that a token is issued in a later second than that in which the run began.
        let (now, soon) = (self.world.passed(), SECOND + self.world.up_to(SECOND));
        if self.is_down(now..now + SECOND / 1000) {
            return match locked(&self.world.dice).u8(..3) {
                0 => (soon, Ok(call.reply(503, &json!({})))),
                1 => (soon, Err(call.not_connected())),
                _ => {
                    let (longest, failure) = call.no_answer();
                    (longest, Err(failure))
                }
            };
        }
        let mut state = locked(&self.state);
        let is_sign_in = call.grant_type() == Some("password");
        let before = state.granted.last().map(|last| last.expires);
        let is_good = if is_sign_in {
            let left = state.request_tokens;
            state.request_tokens = left.saturating_sub(1);
            left > 0
        } else {
            call.field("refresh_token") == Some(&state.refresh_token) && before.is_some_and(|end| now < end)
        };
        if !is_good {
            let code = if is_sign_in { 5 } else { 108 };
            return (soon, Ok(call.reply(400, &json!({"code": code, "error": "invalid_grant"}))));
        }
        let at = now + soon;
        let expires = match before {
            Some(before) if !is_sign_in && self.grants == Grants::KeepExpiry => before,
            _ => Duration::from_secs((at + LIFE).as_secs()),
        };
        state.granted.push(Granted { at, expires, is_sign_in });
        if is_sign_in || self.grants == Grants::Rotate {
            state.refresh_token = format!("refresh-{}", state.granted.len());
        }
        let reply = json!({
            "refresh_token": state.refresh_token, "refresh_expires_in": BEGINNING + expires.as_secs(),
            "access_token": format!("access-{}", state.granted.len()), "expires_in": 3600,
        });
        (soon, Ok(call.reply(200, &reply)))
    }
}

/// What a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Refresh,
    Access,
    /// Nothing: `keep_alive` runs, and the program looks at what is held.
    KeptAlive,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    calendar: Calendar,
    asks: Asks,
    /// Whether each run is a process of its own.
    is_short_lived: bool,
    /// Whether each run begins when the calendar says.
    is_punctual: bool,
    margin: Option<Duration>,
}

impl Kind {
    fn of(name: &'static str, calendar: Calendar, asks: Asks) -> Self {
        let is_laptop = calendar == Calendar::Laptop;
        Self { name, calendar, asks, is_short_lived: !is_laptop, is_punctual: is_laptop, margin: None }
    }

    /// For how long before a run an outage may be what makes it fail.
    fn aftermath(&self) -> Duration {
        match (self.asks, self.is_short_lived) {
            (Asks::KeptAlive, _) => LONGEST_PAUSE,
            (_, true) => Duration::ZERO,
            (_, false) => LONGEST_RUN,
        }
    }

    fn build(&self, builder: TokenManagerBuilder, store: &MemoryStore) -> TokenManager {
        let builder = match self.margin {
            Some(margin) => builder.refresh_token_margin(margin),
            None => builder,
        };
        builder.store(store.clone()).build().unwrap()
    }

    /// No run renews before the start of this time, and each does from its end on.
    fn due(&self, last: &Granted) -> Range<Duration> {
        let access = last.at + 54 * MINUTE..last.at + HOUR;
        let refresh = match self.margin {
            Some(margin) => last.expires - margin,
            None => last.at + (last.expires - last.at) / 3,
        };
        match self.asks {
            Asks::Refresh => {
                let due = refresh.max(access.end);
                due.saturating_sub(SLACK)..due
            }
            Asks::Access => access,
            Asks::KeptAlive => last.at..access.end,
        }
    }
}

async fn ask(tokens: &TokenManager, asks: Asks, concur: &Concur) -> Result<(), String> {
    match asks {
        Asks::Refresh => {
            let served = tokens.get_valid_refresh_token().await.map_err(|e| e.to_string())?;
            assert_eq!(served.secret(), locked(&concur.state).refresh_token);
        }
        Asks::Access => drop(tokens.access_token().await.map_err(|e| e.to_string())?),
        Asks::KeptAlive => {
            let status = tokens.status();
            if !(status.access_token_valid && status.refresh_token_valid) {
                return Err(format!("{status:?}"));
            }
        }
    }
    Ok(())
}

/// What happened to one program.
#[derive(Default)]
struct Course {
    runs: usize,
    requests: usize,
    granted: Vec<Granted>,
    in_outage: usize,
    lapses: Vec<Duration>,
}

/// Signs in at `begin`, and runs by the calendar until `end`. Wherever a token has lapsed, a person signs in again.
///
/// Fails where a program that is touched by no outage is not served although its token lives; where a refresh token that
/// lives is not served, outage or not; and where the grants are not those that [`check`] expects.
fn simulate(seed: u64, kind: Kind, grants: Grants, outages: Spans, begin: Duration, end: Duration) -> Course {
    let world = World::new(seed);
    let concur = Arc::new(Concur { world: Arc::clone(&world), grants, outages, state: Mutex::default() });
    let answering = Arc::clone(&concur);
    let line = Counting::new(&world, move |call, _| answering.answer(call));
    let mut runs = kind.calendar.runs(begin, end);
    if !kind.is_punctual {
        runs.iter_mut().for_each(|at| *at += world.up_to(LONGEST_DELAY));
        runs.sort();
    }
    let is_clean = {
        let concur = Arc::clone(&concur);
        move |at: Duration| !concur.is_down(at.saturating_sub(kind.aftermath())..at + LONGEST_RUN)
    };
    let course = Arc::new(Mutex::new(Course::default()));
    let (noted, planned, is_clean_run) = (Arc::clone(&course), runs.clone(), is_clean.clone());
    let (at, asked, sender) = (Arc::clone(&world), Arc::clone(&concur), Arc::clone(&line));
    world.spawn(0, async move {
        let watch = Watch(Arc::clone(&at));
        let store = MemoryStore::new();
        let new_process = |client: &OAuthClient| kind.build(builder(&at, client, 0), &store);
        watch.sleep(begin).await;
        locked(&asked.state).request_tokens = 1;
        new_process(&client(&sender)).get_valid_refresh_token().await.unwrap();

        let mut builder = builder(&at, &client(&sender), 0);
        if kind.calendar == Calendar::Laptop {
            let awake = awake(begin, end);
            builder = builder.clock(LaptopClock { watch: watch.clone(), awake });
        }
        let long_lived = kind.build(builder, &store);
        let _kept = match kind.asks {
            Asks::KeptAlive => Some(long_lived.keep_alive().await.unwrap()),
            _ => None,
        };
        for run in planned {
            watch.sleep(run.saturating_sub(at.passed())).await;
            let (run, expires) = (at.passed(), asked.expires());
            let tokens = if kind.is_short_lived { new_process(&client(&sender)) } else { long_lived.clone() };
            let outcome = ask(&tokens, kind.asks, &asked).await;
            assert!(at.passed() < run + LONGEST_RUN);
            let is_clean = is_clean_run(run);
            {
                let mut course = locked(&noted);
                course.runs += 1;
                course.in_outage += usize::from(!is_clean);
            }
            let Err(error) = outcome else { continue };
            let what = format!("{kind:?}, {grants:?}, run on {}: {error}", date(run));
            assert!(!is_clean || expires <= at.passed(), "not served although the token lives: {what}");
            assert!(kind.asks != Asks::Refresh || expires <= at.passed(), "not served in an outage: {what}");
            if is_clean {
                locked(&noted).lapses.push(run);
                locked(&asked.state).request_tokens = 1;
                tokens.sign_in(Grant::company_request_token("company 0", "request token")).await.unwrap();
            }
        }
    });
    world.run();
    let mut course = std::mem::take(&mut *locked(&course));
    assert_eq!(course.runs, runs.len(), "all runs have happened");
    course.requests = line.requests().len();
    course.granted = locked(&concur.state).granted.clone();
    check(&kind, &course, &runs, end, is_clean);
    course
}

/// A token is renewed in the first run that begins when it is due, or later, and that no outage touches; and in none before.
/// So there is no lapse unless there were runs from the due time until the expiry, each of them touched by an outage; and two
/// grants for a refresh token are at least a third of a life apart.
///
/// A refresh token is due when a third of its life has passed, an access token in the last minutes of its hour. With a margin
/// of 30 days, there may also have been no run in that time.
fn check(
    kind: &Kind,
    course: &Course,
    runs: &[Duration],
    end: Duration,
    is_clean: impl Fn(Duration) -> bool,
) {
    let Course { granted, requests, in_outage, lapses, .. } = course;
    let nexts = granted[1..].iter().map(Some).chain([None]);
    for (last, next) in granted.iter().zip(nexts) {
        let due = kind.due(last);
        let until = next.map_or(end, |next| next.at).min(last.expires).saturating_sub(SLACK);
        let first = runs.partition_point(|run| *run < due.end + SLACK);
        let missed = runs[first..].iter().take_while(|run| **run < until).find(|run| is_clean(**run));
        assert!(missed.is_none(), "{kind:?} did not renew on {}: {last:?} {next:?}", date(*missed.unwrap()));
        let Some(next) = next else { continue };
        let earliest = if next.is_sign_in { last.expires } else { due.start };
        assert!(earliest <= next.at, "{kind:?} renewed too early, on {}: {last:?}", date(next.at));
        let has_had_a_run = runs.iter().any(|run| (due.start..last.expires).contains(run));
        let is_as_built = kind.margin.is_none();
        assert!(!next.is_sign_in || has_had_a_run || !is_as_built, "{kind:?} lapsed without a run: {last:?}");
    }
    let sign_ins = granted.iter().filter(|granted| granted.is_sign_in).count();
    assert_eq!(sign_ins, 1 + lapses.len());
    // When `keep_alive` finds that a laptop has woken up, and once more within the hour.
    let most = if kind.asks == Asks::KeptAlive { 2 * runs.len() } else { runs.len() };
    assert!(granted.len() <= 1 + most, "{kind:?}: {} grants in {} runs", granted.len(), runs.len());
    if kind.asks != Asks::KeptAlive {
        // Four attempts with a refresh token that looks expired, and with the request token before; after the outage, one
        // of each is refused.
        let most = granted.len() + 8 * in_outage + 2 * lapses.len();
        assert!(*requests <= most, "{kind:?}: {requests} requests for {} grants", granted.len());
    }
}

/// Runs a kind of program once for each seed and prints what happened in all.
#[allow(clippy::print_stdout, reason = "the table is for a person who asks for it with --nocapture")]
fn simulate_all(kind: Kind, end: Duration, runs: &[(u64, Grants)]) -> Vec<Course> {
    let simulate_one = |(seed, grants): &(u64, Grants)| {
        simulate(*seed, kind, *grants, outages(*seed, end), Duration::ZERO, end)
    };
    let courses: Vec<_> = runs.iter().map(simulate_one).collect();
    let sum = |of: fn(&Course) -> usize| courses.iter().map(of).sum::<usize>();
    println!(
        "{:18} {:10} {:4} times {:4} days, {:6} runs, {:5} in an outage, {:6} requests, {:6} grants, {:4} lapses",
        kind.name,
        format!("{:?}", kind.asks),
        courses.len(),
        end.as_secs() / DAY.as_secs(),
        sum(|it| it.runs),
        sum(|it| it.in_outage),
        sum(|it| it.requests),
        sum(|it| it.granted.len()),
        sum(|it| it.lapses.len()),
    );
    courses
}

/// So many seeds, half of them with a refresh token that is another after each grant.
fn seeds(first: u64, count: u64) -> Vec<(u64, Grants)> {
    let grants = |nth| if nth % 2 == 0 { Grants::Rotate } else { Grants::Extend };
    (0..count).map(|nth| (first.wrapping_add(nth), grants(nth))).collect()
}

fn lapses(courses: &[Course]) -> usize {
    courses.iter().map(|course| course.lapses.len()).sum()
}

#[test]
fn a_program_that_runs_seldom_loses_its_token_only_where_every_run_was_in_an_outage() {
    let seed = seed();
    for asks in [Asks::Refresh, Asks::Access] {
        let mut lapsed = 0;
        for (name, calendar) in [
            ("first of the month", Calendar::FirstOfMonth),
            ("every 40 days", Calendar::Every(40 * DAY)),
            ("every 60 days", Calendar::Every(60 * DAY)),
            ("every 100 days", Calendar::Every(100 * DAY)),
            ("every 170 days", Calendar::Every(170 * DAY)),
        ] {
            lapsed += lapses(&simulate_all(Kind::of(name, calendar, asks), THREE_YEARS, &seeds(seed, 20)));
        }
        // The last two have one run in each life, and one run in ten is in an outage.
        assert!(lapsed > 0, "the outages have no effect");
    }
}

#[test]
fn a_program_that_runs_on_most_days_never_loses_its_token() {
    let seed = seed();
    for asks in [Asks::Refresh, Asks::Access] {
        for (name, calendar) in [
            ("daily", Calendar::Every(DAY)),
            ("working days", Calendar::WorkingDays),
            ("laptop", Calendar::Laptop),
        ] {
            let courses = simulate_all(Kind::of(name, calendar, asks), THREE_YEARS, &seeds(seed, 2));
            assert_eq!(lapses(&courses), 0);
        }
    }
}

/// Where it asks for access tokens only, each hour is like the next, so half a year shows what three years would.
#[test]
fn a_program_that_runs_once_an_hour_never_loses_its_token() {
    let seed = seed();
    for (asks, time, grants) in
        [(Asks::Refresh, THREE_YEARS, Grants::Rotate), (Asks::Access, THREE_YEARS / 6, Grants::Extend)]
    {
        let kind = Kind::of("hourly", Calendar::Every(HOUR), asks);
        let courses = simulate_all(kind, time, &[(seed, grants)]);
        assert_eq!(lapses(&courses), 0);
    }
}

/// Its clock jumps whenever it wakes up. Five minutes later both tokens are valid, although no call asked for them.
#[test]
fn a_laptop_is_signed_in_again_five_minutes_after_it_woke_up() {
    let kind = Kind::of("laptop", Calendar::Laptop, Asks::KeptAlive);
    let courses = simulate_all(kind, THREE_YEARS, &[(seed(), Grants::Rotate)]);
    assert_eq!(lapses(&courses), 0);
}

/// A server that does not extend the life of a refresh token is asked some twenty times in that life.
#[test]
#[allow(clippy::print_stdout, reason = "the table is for a person who asks for it with --nocapture")]
fn a_life_that_is_never_extended_costs_some_twenty_grants() {
    let seed = seed();
    for (name, calendar, expected) in [
        ("denser at the end", Calendar::DenserAtTheEnd, 19..=22),
        ("daily", Calendar::Every(DAY), 10..=14),
        ("working days", Calendar::WorkingDays, 8..=13),
        ("first of the month", Calendar::FirstOfMonth, 3..=5),
        ("every 40 days", Calendar::Every(40 * DAY), 3..=4),
    ] {
        let kind = Kind::of(name, calendar, Asks::Refresh);
        let end = LIFE - MINUTE;
        let course = simulate(seed, kind, Grants::KeepExpiry, [].into(), Duration::ZERO, end);
        println!("{name:18} {} runs, {} grants", course.runs, course.granted.len());
        assert_eq!(course.requests, course.granted.len());
        assert!(expected.contains(&course.granted.len()), "{name}: {:?}", course.granted);
        // From the reply of one to the request of the next, which takes up to two seconds.
        let is_an_hour_apart = |pair: &[Granted]| pair[0].at + HOUR <= pair[1].at + 2 * SECOND;
        assert!(course.granted.windows(2).all(is_an_hour_apart), "{name}: {:?}", course.granted);
    }
}

/// Why a refresh token is renewed so early. Concur has no outage here, and the first sign-ins are a week apart. From 1 February
/// to 1 July there are 150 days, so on 1 July it is seconds too early for the margin, and on 1 August it is too late.
#[test]
#[allow(clippy::print_stdout, reason = "the table is for a person who asks for it with --nocapture")]
fn with_a_margin_of_30_days_a_run_on_the_first_of_each_month_loses_the_token() {
    const THIRTY_MONTHS: Duration = Duration::from_secs(913 * 24 * 3600);
    let seed = seed();
    let lives = |margin| -> Vec<Course> {
        let kind = Kind::of("first of the month", Calendar::FirstOfMonth, Asks::Refresh);
        let kind = Kind { margin, is_punctual: true, ..kind };
        let first_sign_ins = (0..52).map(|week| 500 * DAY + week * 7 * DAY);
        first_sign_ins
            .map(|at| simulate(seed, kind, Grants::Rotate, [].into(), at, at + THIRTY_MONTHS))
            .collect()
    };
    let (margin, third) = (lives(Some(30 * DAY)), lives(None));
    let lapses: Vec<_> = margin.iter().flat_map(|it| &it.lapses).map(|at| date(*at).date()).collect();
    let lost = margin.iter().filter(|it| !it.lapses.is_empty()).count();
    println!("with a margin of 30 days {lost} of 52 sign-ins end within 30 months: on {lapses:?}");
    assert_eq!(lost, 18);
    for course in third {
        assert!(course.lapses.is_empty());
        // On the first day of the second month, or of the third where the two are shorter than 60 days.
        for pair in course.granted[1..].windows(2) {
            let gap = pair[1].at - pair[0].at;
            assert!((60 * DAY..93 * DAY).contains(&gap), "{gap:?}");
        }
    }
}
