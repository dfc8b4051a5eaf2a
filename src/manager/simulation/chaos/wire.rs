//! From one process to Concur, through a network that fails.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    super::{HOUR, MINUTE, world::Watch},
    books::{Asking, Number},
    planted::Bug,
    run::{Run, SECOND},
    shelf::Shelf,
};
use crate::{
    Clock as _,
    clock::unix_seconds,
    oauth_client::{Failure, Headers, OutgoingCall, Response, Sent, Transport},
};

pub(super) struct Wire {
    pub(super) run: Arc<Run>,
    pub(super) stores: Arc<[Shelf]>,
    pub(super) process: usize,
}

/// Hangs up when dropped, also by a kill.
struct UnderWay<'a>(&'a Run, Asking);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.books().request_ended(self.1.process, self.1.company);
    }
}

/// What the network, or what is in front of Concur, makes of a request.
enum Trouble {
    None,
    LostReply,
    NoAnswer {
        is_processed: bool,
    },
    Fails(Failure),
    /// Nothing is to be sent for so long.
    TooMany(Duration, Response),
    Replies(Response),
}

impl Wire {
    async fn answer(&self, call: &OutgoingCall<'_>) -> Sent {
        let run = &self.run;
        let asking = self.asking(call);
        self.judge(asking);
        let _under_way = UnderWay(run, asking);
        let begun = run.now();
        let travel = run.world.up_to(SECOND);
        run.pause(travel).await;
        let outcome = match self.trouble(call) {
            Trouble::None => {
                let (number, reply) = self.process_request(call, asking);
                run.pause(travel).await;
                if let (None, Some(refresh)) = (number, asking.presents) {
                    run.world.note(format!(
                        "{} is told that {refresh} of {} is dead",
                        self.process, asking.company
                    ));
                    run.books().told_dead(self.process, asking.company, refresh);
                }
                Ok(reply)
            }
            Trouble::LostReply => {
                self.lose(asking, call);
                run.pause(travel).await;
                run.books().told_nothing(asking, run.now());
                if run.has(Bug::SentTwice) {
                    self.judge(asking);
                    Ok(self.process_request(call, asking).1)
                } else if run.has(Bug::LostCountsAsUnsent) {
                    Err(call.not_connected())
                } else {
                    Err(call.lost_reply())
                }
            }
            Trouble::NoAnswer { is_processed } => {
                if is_processed {
                    self.lose(asking, call);
                }
                let (longest, failure) = call.no_answer();
                run.pause(longest - travel).await;
                run.books().told_nothing(asking, run.now());
                Err(failure)
            }
            Trouble::Fails(failure) => {
                run.pause(travel).await;
                Err(failure)
            }
            Trouble::TooMany(pause, reply) => {
                run.pause(travel).await;
                run.books().asked_for_a_pause(self.process, run.now() + pause);
                Ok(reply)
            }
            Trouble::Replies(reply) => {
                run.pause(travel).await;
                Ok(reply)
            }
        };
        let outcome = outcome.map(|mut reply| {
            reply.headers.received_at = call.clock.now();
            reply
        });
        Sent { elapsed: run.now() - begun, outcome }
    }

    fn asking(&self, call: &OutgoingCall<'_>) -> Asking {
        let (run, process) = (&self.run, self.process);
        let number = |text: &str| text.parse::<usize>().unwrap();
        let (company, presents) = match call.field("refresh_token") {
            Some(token) => {
                let (company, refresh) = token.strip_prefix("refresh-").unwrap().split_once('-').unwrap();
                (number(company), Some(number(refresh)))
            }
            None => (number(call.field("username").unwrap().strip_prefix("company ").unwrap()), None),
        };
        let has_lock = self.stores[company].is_held_by(process, run.now());
        Asking { at: run.now(), process, company, presents, has_lock, lock_lapses: run.lock_lapses() }
    }

    fn judge(&self, asking: Asking) {
        // Who signs in, or tries again, knows more than Concur did. How long a pause lasts by a clock that is set, is not known.
        let heeds_pauses = !self.run.plan.is_explicit && self.run.plan.troubles.jump_clock == 0.0;
        let wrong = self.run.books().judge(asking, heeds_pauses);
        for wrong in wrong {
            let Asking { process, company, presents, .. } = asking;
            self.run
                .breaks(format!("{process} sends for company {company}, presenting {presents:?}: {wrong}"));
        }
    }

    fn trouble(&self, call: &OutgoingCall<'_>) -> Trouble {
        let run = &self.run;
        let of = run.plan.troubles;
        if run.chance(of.not_connected) {
            return Trouble::Fails(call.not_connected());
        }
        if run.chance(of.unavailable) {
            return Trouble::Replies(call.reply(503, &json!({})));
        }
        if run.chance(of.too_many) {
            let pause = [Duration::ZERO, 2 * SECOND, MINUTE / 2, 10 * MINUTE][run.below(4)];
            let retry_after = (!run.has(Bug::PauseIgnored)).then_some(pause);
            return Trouble::TooMany(pause, self.reply(call, 429, &json!({}), retry_after));
        }
        if run.chance(of.maintenance) {
            let code = json!({"code": 134, "error": "invalid_request"});
            return Trouble::Replies(self.reply(call, 400, &code, Some(5 * MINUTE)));
        }
        if run.chance(of.locked_account) {
            let code = json!({"code": 14, "error": "invalid_grant"});
            return Trouble::Replies(call.reply(400, &code));
        }
        if run.chance(of.no_answer) {
            return Trouble::NoAnswer { is_processed: run.chance(0.5) };
        }
        if run.chance(of.lose_reply) { Trouble::LostReply } else { Trouble::None }
    }

    fn reply(
        &self,
        call: &OutgoingCall<'_>,
        status: u16,
        body: &serde_json::Value,
        retry_after: Option<Duration>,
    ) -> Response {
        let server_time = Some(Watch(Arc::clone(&self.run.world)).now());
        let headers = Headers { retry_after, server_time, ..Headers::none(call.clock.now()) };
        Response::json(status, body, headers)
    }

    /// What Concur does, and what it says.
    fn process_request(&self, call: &OutgoingCall<'_>, asking: Asking) -> (Option<Number>, Response) {
        let (run, Asking { company, process, presents, .. }) = (&self.run, asking);
        let now = run.now();
        let rotates = run.chance_always(run.plan.rotates);
        let (number, refresh) = {
            let mut books = run.books();
            let books = books.company(company);
            let number = match presents {
                Some(presented) => books.refresh(now, process, presented, rotates),
                None => Some(books.sign_in(now, process)),
            };
            (number, number.map(|number| books.issued[number].refresh))
        };
        run.world.note(format!("{process} presents {presents:?} of {company}: {number:?}"));
        if let Some(number) = number
            && run.lock_lapses()
            && !self.stores[company].is_held_by(process, now)
        {
            // Suspended between the check of its lease and the request: the next holder may present the same token.
            run.books().late(company, number, run.was_just_suspended(process));
        }
        let Some((number, refresh)) = number.zip(refresh) else {
            return (None, self.reply(call, 400, &json!({"code": 108, "error": "invalid_grant"}), None));
        };
        let mut reply = json!({
            "refresh_token": format!("refresh-{company}-{refresh}"),
            "access_token": format!("access-{company}-{number}"),
            "expires_in": HOUR.as_secs(),
        });
        if run.chance_always(0.5) {
            let now = unix_seconds(Watch(Arc::clone(&run.world)).now());
            reply["refresh_expires_in"] = json!(now + 180 * 24 * HOUR.as_secs());
        }
        (Some(number), self.reply(call, 200, &reply, None))
    }

    /// The request is processed, and its reply does not arrive.
    fn lose(&self, asking: Asking, call: &OutgoingCall<'_>) {
        if let (Some(number), _) = self.process_request(call, asking) {
            self.run.books().lost(asking.company, number);
        }
    }
}

impl Transport for Wire {
    fn send<'a>(&'a self, call: &'a OutgoingCall<'a>) -> Pin<Box<dyn Future<Output = Sent> + Send + 'a>> {
        Box::pin(self.answer(call))
    }
}
