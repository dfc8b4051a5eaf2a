//! Three years in which nothing happens but renewals.

use std::sync::Arc;

use super::{
    concur::{Concur, Grants, Line, issued_at},
    office::Kept,
    sky::Sky,
    times::{DAY, HOUR, YEAR},
};
use crate::{
    Clock as _, OAuthClient,
    caught::locked,
    manager::simulation::world::{Watch, World},
    seed::seed,
};

/// With hourly access tokens, and a refresh token that is another after each grant.
#[test]
fn three_years_without_a_lapse() {
    let world = World::new(seed());
    let concur = Concur::new(&world, Sky::default(), [Grants::RotateAndRevoke].into_iter());
    let tokens = Kept::new(&concur, 0).manager(&OAuthClient::on(Line(Arc::clone(&concur))), world.machine(0));
    let (at, asked) = (Arc::clone(&world), Arc::clone(&concur));
    world.spawn(0, async move {
        let _kept = tokens.keep_alive().await.unwrap();
        let watch = Watch(Arc::clone(&at));
        let requests = || locked(&asked.tally).requests;
        // It begins at a random moment of the first minute.
        watch.sleep(HOUR / 2).await;
        for day in 0..YEAR.as_secs() * 3 / DAY.as_secs() {
            // Looked at four times a day: both tokens are valid, and taking them sends nothing.
            let before = requests();
            for _ in 0..4 {
                let (now, begun) = (requests(), at.passed());
                let access = tokens.access_token().await.unwrap();
                assert!(begun < issued_at(access.secret()) + HOUR, "an expired access token on day {day}");
                let refresh = tokens.get_valid_refresh_token().await.unwrap();
                assert!(asked.is_good(0, refresh.secret()), "a refused refresh token on day {day}");
                assert_eq!((requests(), at.passed()), (now, begun), "a caller had to renew on day {day}");
                watch.sleep(6 * HOUR).await;
            }
            let requests = requests() - before;
            assert!((27..=29).contains(&requests), "{requests} requests on day {day}");
        }
        at.note("three years later");
    });
    world.run();
    concur.check_the_end(world.passed());
    assert_eq!(*locked(&concur.broken), [""; 0]);
    assert_eq!(locked(&world.diary).last().unwrap().1, "three years later");
    let tally = *locked(&concur.tally);
    assert_eq!((tally.sign_ins, tally.requests), (1, tally.grants));
}
