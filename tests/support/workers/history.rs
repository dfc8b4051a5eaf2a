//! What happened in a run of many workers, and why.
//!
//! The window of a request is from the last look at the lease before it until its save has ended. A loss is explained if its
//! process was killed within the window, or suspended within it, or if the database was down within it and the save was late.
//! With a short lease, a request is sent when half of the lease is left, whatever the request may take. So a suspension that
//! begins in the window need not last for a whole lease to be the cause. A worker that was suspended before its request arrived, while
//! another worker renewed and saved, presents a token a second time: then the window of the late request has the cause.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use concur_auth::simulator::ConcurSimulator;

use super::{Log, Sent};

/// What the parent has done to a worker, and how long its log was then.
#[derive(Clone, Copy, Debug)]
pub enum Hit {
    Killed,
    Suspended(usize),
    /// The database was restarted, or the connections were cut, while the log grew from the one length to the other.
    CutOff(usize, usize),
}

/// Why a reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    Killed,
    Suspended,
    /// The save could not be made before the lease was over.
    CutOff,
}

/// A request that Concur has answered.
#[derive(Debug)]
pub struct Request {
    /// The refresh token that it presents; `None` for a sign-in.
    pub presented: Option<String>,
    pub status: u16,
}

/// What a worker has sent.
#[derive(Debug)]
pub struct SentBy {
    pub worker: String,
    /// How long the worker's log is.
    pub logged: usize,
    pub sent: Sent,
}

pub struct History {
    pub requests: Vec<Request>,
    pub sent: Vec<SentBy>,
    pub hits: HashMap<String, Vec<Hit>>,
    /// All refresh tokens that the store has ever held, where the store tells.
    pub saved: Option<HashSet<String>>,
    /// The numbers of the requests that present this token.
    presented: HashMap<String, Vec<usize>>,
    /// Of what was sent and not refused, what presents this token.
    spenders: HashMap<String, Vec<usize>>,
    /// For each refresh token that a worker was given the one that was presented for it; `None` for the first of a family.
    issued: HashMap<String, Option<String>>,
}

#[derive(Debug, Default)]
pub struct Judged {
    pub not_saved: usize,
    /// Those that were revoked, by the cause of the first loss.
    pub families: HashMap<Cause, usize>,
    /// Of the replies that were not saved.
    pub causes: HashMap<Cause, usize>,
    pub unexplained: Vec<String>,
}

impl History {
    /// Of all that Concur was asked, and of the logs of these workers in `folder`.
    pub fn of(
        concur: &ConcurSimulator,
        folder: &Path,
        workers: impl IntoIterator<Item = String>,
        hits: HashMap<String, Vec<Hit>>,
    ) -> Self {
        let requests = concur.requests().into_iter().map(|request| {
            let mut form = url::form_urlencoded::parse(request.body().as_bytes());
            let presented = form.find(|(name, _)| name == "refresh_token");
            Request {
                presented: presented.map(|(_, token)| token.into_owned()),
                status: request.status().unwrap_or_default(),
            }
        });
        let requests: Vec<_> = requests.collect();
        let mut sent = Vec::new();
        for worker in workers {
            let log = Log::read(&folder.join(format!("{worker}.log")));
            let logged = log.len();
            sent.extend(log.sent().into_iter().map(|sent| SentBy { worker: worker.clone(), logged, sent }));
        }
        let mut presented = HashMap::<_, Vec<_>>::new();
        for (at, request) in requests.iter().enumerate() {
            if let Some(token) = &request.presented {
                presented.entry(token.clone()).or_default().push(at);
            }
        }
        let (mut spenders, mut issued) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        for (number, SentBy { sent, .. }) in sent.iter().enumerate() {
            if let (Some(token), None) = (&sent.presented, sent.refused) {
                spenders.entry(token.clone()).or_default().push(number);
            }
            if let Some(token) = &sent.issued {
                issued.insert(token.clone(), sent.presented.clone());
            }
        }
        Self { requests, sent, hits, saved: None, presented, spenders, issued }
    }

    /// Looks at all renewals after the first `skipped` requests. Those from number `workers` on are the parent's.
    pub fn judge_renewals(&self, skipped: usize, workers: usize) -> Judged {
        let mut judged = Judged::default();
        let mut families = HashMap::new();
        for (at, request) in self.requests.iter().enumerate().skip(skipped) {
            match (request.status, &request.presented) {
                (200, Some(token)) if at < workers => match self.spender(token) {
                    Some(sent) => self.look_at(sent, &mut judged),
                    None => judged.unexplained.push(format!("nobody has sent request {at}")),
                },
                (400, Some(token)) => {
                    let lost = self.lost(token, at);
                    let cause =
                        |(spent, sent)| Some((spent, self.cause(sent).or_else(|| self.came_late(spent))?));
                    match lost.and_then(cause) {
                        Some((spent, cause)) => _ = families.insert(spent, cause),
                        None => {
                            let by = self.sent.iter().find(|it| it.sent.presented.as_ref() == Some(token));
                            judged
                                .unexplained
                                .push(format!("request {at} was refused, {by:?}; lost: {lost:?}"));
                        }
                    }
                }
                (200, _) | (400, None) => {}
                (status, _) => judged.unexplained.push(format!("request {at}: status {status}")),
            }
        }
        for cause in families.into_values() {
            *judged.families.entry(cause).or_default() += 1;
        }
        judged
    }

    /// How many requests present this token, with this status.
    pub fn count(&self, token: &str, status: u16) -> usize {
        let numbers = self.presented.get(token).into_iter().flatten();
        numbers.filter(|at| self.requests[**at].status == status).count()
    }

    /// How many renewals Concur has granted to each company.
    pub fn grants(&self) -> HashMap<&str, usize> {
        let mut grants = HashMap::new();
        for token in self.requests.iter().filter(|it| it.status == 200).filter_map(|it| it.presented.as_ref())
        {
            let company = self.spender(token).map_or("", |it| &it.sent.company);
            *grants.entry(company).or_default() += 1;
        }
        grants
    }

    /// How many renewals each worker has saved.
    pub fn saves(&self) -> HashMap<&str, usize> {
        let mut saves = HashMap::new();
        for SentBy { worker, sent, .. } in &self.sent {
            *saves.entry(&**worker).or_default() += usize::from(matches!(sent.settled, Some((_, true))));
        }
        saves
    }

    /// A reply that was not saved has a cause.
    pub fn look_at(&self, sent: &SentBy, judged: &mut Judged) {
        let SentBy { sent: Sent { issued, settled, .. }, .. } = sent;
        let was_saved = issued.as_ref().is_some_and(|token| match &self.saved {
            Some(saved) => saved.contains(token),
            // Killed, or superseded, after its save was carried out and before its log could say so: it was presented since.
            None => matches!(settled, Some((_, true))) || self.presented.contains_key(token),
        });
        if was_saved {
            return;
        }
        judged.not_saved += 1;
        match self.cause(sent) {
            Some(cause) => *judged.causes.entry(cause).or_default() += 1,
            None => judged.unexplained.push(format!("not saved: {sent:?}")),
        }
    }

    /// Whether the token that this one was spent for was saved after all.
    pub fn has_successor(&self, token: &str) -> bool {
        let spenders = self.spenders.get(token).into_iter().flatten();
        let mut issued = spenders.filter_map(|number| self.sent[*number].sent.issued.as_ref());
        issued.any(|token| self.saved.as_ref().is_some_and(|saved| saved.contains(token)))
    }

    /// The request that was granted for this refresh token: whose reply was seen by its worker, or was never seen.
    fn spender(&self, token: &str) -> Option<&SentBy> {
        let candidates = self.spenders.get(token)?.iter().map(|number| &self.sent[*number]);
        candidates.max_by_key(|it| it.sent.issued.is_some())
    }

    /// Why this token was refused by request number `at`: an earlier request has presented it, or an ancestor of the same
    /// family was presented a second time. Returns the token that was presented twice, and the request that had spent it.
    fn lost(&self, token: &str, at: usize) -> Option<(&str, &SentBy)> {
        let before = |token: &str, status: u16| {
            let mut numbers = self.presented.get(token).into_iter().flatten();
            numbers.any(|number| *number < at && self.requests[*number].status == status)
        };
        if before(token, 200) {
            let (token, _) = self.presented.get_key_value(token)?;
            return Some((token, self.spender(token)?));
        }
        let mut ancestor = self.issued.get(token)?.as_deref();
        while let Some(token) = ancestor {
            if before(token, 200) && before(token, 400) {
                return Some((token, self.spender(token)?));
            }
            // The parent has signed the first of a family in, perhaps.
            ancestor = self.issued.get(token)?.as_deref();
        }
        None
    }

    /// Why a request with this token came after the one that was granted: its worker was suspended between its look at the lease and
    /// its request, or killed while its request was on its way.
    fn came_late(&self, token: &str) -> Option<Cause> {
        let mut all = self.sent.iter().filter(|it| it.sent.presented.as_deref() == Some(token));
        all.find_map(|it| self.cause(it))
    }

    /// What was done to the worker in the window of this request.
    fn cause(&self, SentBy { worker, logged, sent }: &SentBy) -> Option<Cause> {
        let end = sent.settled.map(|(place, _)| place).or(sent.refused).unwrap_or(*logged);
        // Whether the window was open while the log was so long.
        let is_open = |length: usize| (sent.checked + 1..=end).contains(&length);
        let causes = self.hits.get(worker)?.iter().filter_map(|hit| match *hit {
            Hit::Killed => (sent.settled.is_none() && sent.refused.is_none()).then_some(Cause::Killed),
            Hit::Suspended(length) => is_open(length).then_some(Cause::Suspended),
            Hit::CutOff(before, after) => (before <= end && after > sent.checked).then_some(Cause::CutOff),
        });
        // The database is the cause only where nothing else is.
        causes.min_by_key(|cause| *cause == Cause::CutOff)
    }
}
