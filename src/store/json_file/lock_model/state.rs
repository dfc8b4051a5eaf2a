//! What the model knows at one moment: the folder, Concur, the processes, and what may still go wrong.
//!
//! Tokens are numbered in the order in which Concur issued them; 0 is none. A person's token is of a family of its own.

use super::rules::{Rule, Rules};

pub(super) const PROCESSES: usize = 3;
/// Temporary files: each process that lives has one at most, and each crash leaves one at most.
pub(super) const TEMPS: usize = 4;
/// Tokens are numbered below this.
pub(super) const TOKENS: usize = 6;

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Content {
    /// There is no file.
    #[default]
    None,
    /// Spaces, or the beginning of a token.
    NoToken,
    Token(u8),
}

impl Content {
    fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::NoToken => 1,
            Self::Token(token) => u64::from(token) + 1,
        }
    }
}

/// A file, and when it was written: later is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) written: u8,
}

/// A temporary file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Temp {
    pub(super) file: File,
    /// The process that has made it, while it lives and has not given it up.
    pub(super) owner: Option<u8>,
    /// It has a reply whose request was under way when a person wrote a token: no program knows that.
    pub(super) is_late: bool,
    /// A process that has no lock has seen no token in it, and deletes it next.
    pub(super) is_condemned: bool,
}

/// What a process is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum At {
    #[default]
    Idle,
    /// The lock file is open.
    Opened,
    /// The lock is taken: leftovers are looked at next.
    Locked,
    /// The token file was read.
    Read,
    /// A temporary file has the token that was read.
    RehearsalWritten,
    /// The temporary file has replaced the token file.
    RehearsalRenamed,
    /// There is room for the reply: the request is sent next.
    Ready,
    /// The reply is in memory.
    Holding,
    /// The reply is in the temporary file.
    ReplyWritten,
    /// The token file has all that is known.
    Unlocking,
}

/// Why a save has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Failed {
    #[default]
    Not,
    /// The disk is full, or the reply was on the disk before.
    Avoidably,
    /// The disk does not work.
    Otherwise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) at: At,
    pub(super) has_lock: bool,
    /// The lock file that is open, if it is not the one that has the name now.
    pub(super) is_lock_file_old: bool,
    /// The token that was read, and when the token file that is known was written.
    pub(super) token: u8,
    pub(super) known: u8,
    /// The token of the reply.
    pub(super) reply: u8,
    /// How a save has failed.
    pub(super) failed: Failed,
    // What no program knows; the invariants are judged by it.
    /// A person's token was written after this process had sent its request.
    pub(super) is_late: bool,
}

impl Process {
    fn key(&self) -> u64 {
        pack(&[
            (self.at as u64, 4),
            (self.has_lock.into(), 1),
            (self.is_lock_file_old.into(), 1),
            (self.token.into(), 3),
            (self.known.into(), 4),
            (self.reply.into(), 3),
            (self.failed as u64, 2),
            (self.is_late.into(), 1),
        ])
    }
}

/// How much may still happen, so that the search ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Processes that are killed, calls of the disk that fail, replies that are lost.
    pub(super) faults: u8,
    /// Tokens that Concur issues.
    pub(super) tokens: u8,
    /// Tokens that a person, or a program that takes no lock, writes into the token file.
    pub(super) foreign: u8,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invariant {
    OneHolderOfTheLock,
    NoTokenIsLost,
    NoTokenIsPresentedTwice,
    NoNewerTokenIsReplacedByAnOlder,
    NothingOfAPersonIsOverwritten,
    NoReaderSeesHalfAFile,
    NoDeadEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The token file.
    pub(super) target: File,
    pub(super) temps: [Temp; TEMPS],
    pub(super) processes: [Process; PROCESSES],
    /// The newest token of each family, which Concur accepts: of the company's, and of a person's.
    pub(super) live: [u8; 2],
    pub(super) issued: u8,
    /// Tokens whose successor was lost for a reason that no rule can prevent. One bit for each.
    pub(super) excused: u8,
    /// The tokens of a person, one bit for each.
    pub(super) of_person: u8,
    pub(super) clock: u8,
    pub(super) left: Budget,
    /// What the last step broke.
    pub(super) broken: Option<Invariant>,
}

/// Values and their widths in bits, one after the other.
fn pack(values: &[(u64, u32)]) -> u64 {
    let mut packed = 0;
    for &(value, bits) in values {
        debug_assert!(value < 1 << bits, "{value} in {bits} bits");
        packed = packed << bits | value;
    }
    packed
}

fn bit(token: u8) -> u8 {
    1 << token
}

impl State {
    /// A company that has signed in; nothing was renewed yet.
    pub(super) fn first(left: Budget) -> Self {
        Self {
            target: File { content: Content::Token(1), written: 1 },
            temps: [Temp::default(); TEMPS],
            processes: [Process::default(); PROCESSES],
            live: [1, 0],
            issued: 1,
            excused: 0,
            of_person: 0,
            clock: 1,
            left,
            broken: None,
        }
    }

    pub(super) fn break_(&mut self, invariant: Invariant) {
        self.broken.get_or_insert(invariant);
    }

    fn family(&self, token: u8) -> usize {
        usize::from(self.of_person & bit(token) != 0)
    }

    pub(super) fn is_live(&self, token: u8) -> bool {
        token != 0 && self.live[self.family(token)] == token
    }

    /// Concur's successor of a token, or a person's new token.
    pub(super) fn issue(&mut self, family: usize) -> u8 {
        self.issued += 1;
        self.of_person |= if family == 1 { bit(self.issued) } else { 0 };
        self.live[family] = self.issued;
        self.issued
    }

    /// The newest of its family was lost for a reason that no rule can prevent.
    pub(super) fn excuse(&mut self, token: u8) {
        self.excused |= bit(token);
    }

    pub(super) fn is_excused(&self, token: u8) -> bool {
        self.excused & bit(token) != 0
    }

    /// Whether the newest token of this token's family was lost in a way that is excused.
    pub(super) fn is_successor_lost(&self, token: u8) -> bool {
        let newest = self.live[self.family(token)];
        self.is_excused(newest)
    }

    pub(super) fn now(&mut self) -> u8 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn temp_of(&self, process: usize) -> Option<usize> {
        self.temps.iter().position(|temp| temp.owner == Some(process as u8))
    }

    /// The newest leftover that is complete and, by the rule, not older than the token file.
    pub(super) fn adoptable(&self, rules: Rules) -> Option<usize> {
        let whole = |temp: &Temp| matches!(temp.file.content, Content::Token(_));
        let is_in_time = |temp: &Temp| {
            temp.file.written >= self.target.written || !rules.has(Rule::OlderLeftoversAreNotAdopted)
        };
        (0..TEMPS)
            .filter(|&i| whole(&self.temps[i]) && is_in_time(&self.temps[i]))
            .max_by_key(|&i| self.temps[i].file.written)
    }

    /// Puts a temporary file in the token file's place.
    pub(super) fn rename(&mut self, temp: usize) {
        let Temp { file, is_late, .. } = std::mem::take(&mut self.temps[temp]);
        let before = std::mem::replace(&mut self.target, file);
        let (Content::Token(old), Content::Token(new)) = (before.content, file.content) else { return };
        if self.family(old) == 1 && self.family(new) == 0 && self.is_live(old) {
            if is_late {
                self.excuse(old);
            } else {
                self.break_(Invariant::NothingOfAPersonIsOverwritten);
            }
        } else if self.family(old) == self.family(new) && new < old {
            self.break_(Invariant::NoNewerTokenIsReplacedByAnOlder);
        }
    }

    /// What holds in every state, whatever the step before.
    pub(super) fn check(&self) -> Option<Invariant> {
        if self.processes.iter().filter(|process| process.has_lock).count() > 1 {
            return Some(Invariant::OneHolderOfTheLock);
        }
        if self.target.content == Content::NoToken {
            return Some(Invariant::NoReaderSeesHalfAFile);
        }
        for family in [0, 1] {
            let token = self.live[family];
            let is_in_target = self.target.content == Content::Token(token);
            let is_in_hand = self.processes.iter().any(|process| process.reply == token);
            let is_left = self.temps.iter().any(|temp| {
                temp.file.content == Content::Token(token) && temp.file.written >= self.target.written
            });
            // A person has signed in again.
            let is_replaced = match self.target.content {
                Content::Token(stored) => family == 0 && self.family(stored) == 1,
                _ => false,
            };
            if token != 0
                && !is_in_target
                && !is_in_hand
                && !is_left
                && !is_replaced
                && !self.is_excused(token)
            {
                return Some(Invariant::NoTokenIsLost);
            }
        }
        None
    }

    /// Nothing runs, and the token file has a token that Concur accepts, or whose loss is excused.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_idle = self.processes.iter().all(|process| process.at == At::Idle);
        let is_settled = match self.target.content {
            Content::Token(token) => self.is_live(token) || self.is_successor_lost(token),
            _ => false,
        };
        is_idle && is_settled && self.temps.iter().all(|temp| temp.file.content == Content::None)
    }

    /// Processes and files in an order of their own, and times by their rank.
    pub(super) fn canonical(&self) -> Self {
        let mut canonical = *self;
        // What no step looks at any more.
        for process in &mut canonical.processes {
            if process.at == At::Idle {
                *process = Process::default();
            }
        }
        let mut times = vec![0, self.target.written];
        times.extend(self.temps.iter().map(|temp| temp.file.written));
        times.extend(canonical.processes.iter().map(|process| process.known));
        times.sort_unstable();
        times.dedup();
        let rank = |time: u8| times.iter().position(|known| *known == time).unwrap_or(0) as u8;
        canonical.clock = times.len() as u8;
        canonical.target.written = rank(self.target.written);
        let keys = canonical.processes.map(|process| process.key());
        let temp_key = |p: usize| {
            self.temp_of(p).map(|i| self.temps[i].file).map(|file| (file.content.number(), file.written))
        };
        let mut order: [usize; PROCESSES] = std::array::from_fn(|p| p);
        order.sort_unstable_by_key(|&p| (keys[p], temp_key(p)));
        let moved = canonical.processes;
        canonical.processes = order.map(|p| Process { known: rank(moved[p].known), ..moved[p] });
        for temp in &mut canonical.temps {
            temp.file.written = rank(temp.file.written);
            temp.owner = temp
                .owner
                .map(|owner| order.iter().position(|&p| p == usize::from(owner)).unwrap_or_default() as u8);
        }
        canonical.temps.sort_unstable_by_key(Temp::key);
        canonical
    }

    pub(super) fn key(&self) -> [u64; 3] {
        let others = pack(&[
            (self.target.content.number(), 3),
            (self.target.written.into(), 4),
            (self.live[0].into(), 3),
            (self.live[1].into(), 3),
            (self.issued.into(), 3),
            (self.excused.into(), 8),
            (self.of_person.into(), 8),
            (self.left.faults.into(), 2),
            (self.left.tokens.into(), 3),
            (self.left.foreign.into(), 2),
        ]);
        let [a, b, c] = self.processes.map(|process| process.key());
        let temps = self.temps.iter().fold(0, |key, temp| key << 12 | temp.key());
        [others << 19 | c, a << 19 | b, temps]
    }
}

impl Temp {
    fn key(&self) -> u64 {
        let owner = self.owner.map_or(0, |owner| u64::from(owner) + 1);
        pack(&[
            (self.file.content.number(), 3),
            (self.file.written.into(), 4),
            (owner, 3),
            (self.is_late.into(), 1),
            (self.is_condemned.into(), 1),
        ])
    }
}
