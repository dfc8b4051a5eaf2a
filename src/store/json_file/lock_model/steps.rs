//! The protocol: every step that is possible in a state, and the state after it.

use std::fmt;

use super::{
    rules::{Rule, Rules},
    state::{At, Content, Failed, File, Invariant, Process, State, TOKENS, Temp},
};

/// What happens. The name of the function that does it comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Open,
    TryLock,
    LockIsTaken,
    AdoptRename,
    AdoptDelete,
    ListWithoutTheLock,
    DeleteWithoutTheLock,
    ReadLocked,
    TryOutWrite,
    TryOutRename,
    TryOutSuperseded,
    Reserve,
    ReserveFails,
    IsFresh,
    Send,
    SendRefused,
    ReplyLost,
    WriteReply,
    WriteReplyInPlace,
    WriteFails,
    DiskIsFull,
    RenameReply,
    RenameFails,
    RenameFindsNothing,
    UnlockUnsaved,
    GiveUpUnsaved,
    Unlock,
    Kill,
    KillInMidWrite,
    PersonWrites,
}

impl Action {
    /// Whether it is a fault, or what only a person does. All else happens sooner or later by itself.
    fn is_fault(self) -> bool {
        use Action::*;
        matches!(
            self,
            ReserveFails
                | ReplyLost
                | WriteFails
                | DiskIsFull
                | RenameFails
                | Kill
                | KillInMidWrite
                | PersonWrites
        )
    }
}

/// What happens, and to which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    process: Option<usize>,
    action: Action,
}

impl Step {
    pub(super) fn is_fault(self) -> bool {
        self.action.is_fault()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(p) = self.process {
            write!(f, "process {}: ", p + 1)?;
        }
        f.write_str(match self.action {
            Action::Open => "FileLock::try_acquire opens the lock file",
            Action::TryLock => "FileLock::try_acquire takes the lock",
            Action::LockIsTaken => "FileLock::try_acquire finds the lock taken",
            Action::AdoptRename => "leftovers::adopt renames the newest",
            Action::AdoptDelete => "leftovers::adopt deletes another",
            Action::ListWithoutTheLock => "JsonFileStore::look finds no token in a temporary file",
            Action::DeleteWithoutTheLock => "JsonFileStore::look deletes it",
            Action::ReadLocked => "JsonFileStore::read_locked",
            Action::TryOutWrite => "JsonFileStore::try_out writes the token that is held",
            Action::TryOutRename => "JsonFileStore::try_out renames it",
            Action::TryOutSuperseded => "JsonFileStore::try_out finds another token file",
            Action::Reserve => "JsonFileStore::try_out reserves room",
            Action::ReserveFails => "JsonFileStore::try_out finds the disk full",
            Action::IsFresh => "the token needs no renewal",
            Action::Send => "the request, and its reply",
            Action::SendRefused => "the request is refused",
            Action::ReplyLost => "the request, and its reply is lost",
            Action::WriteReply => "JsonFileStore::write writes the temporary file",
            Action::WriteReplyInPlace => "JsonFileStore::write begins to write the token file",
            Action::WriteFails => "JsonFileStore::write fails",
            Action::DiskIsFull => "JsonFileStore::write finds the disk full",
            Action::RenameReply => "JsonFileStore::write renames",
            Action::RenameFails => "JsonFileStore::write cannot rename",
            Action::RenameFindsNothing => "JsonFileStore::write finds that the temporary file is gone",
            Action::UnlockUnsaved => "FileLock::drop, with an unsaved token in memory",
            Action::GiveUpUnsaved => "the unsaved token is forgotten",
            Action::Unlock => "FileLock::drop",
            Action::Kill => "killed",
            Action::KillInMidWrite => "killed in mid-write",
            Action::PersonWrites => "a person writes a new token into the token file",
        })
    }
}

/// Collects the steps that are possible.
struct Steps<'a> {
    from: &'a State,
    process: Option<usize>,
    found: Vec<(Step, State)>,
}

impl Steps<'_> {
    fn add(&mut self, action: Action, change: impl FnOnce(&mut State)) {
        let mut next = *self.from;
        if action.is_fault() && action != Action::PersonWrites {
            let Some(left) = next.left.faults.checked_sub(1) else { return };
            next.left.faults = left;
        }
        change(&mut next);
        if let Some(broken) = next.check() {
            next.break_(broken);
        }
        self.found.push((Step { process: self.process, action }, next));
    }
}

pub(super) fn steps(state: &State, rules: Rules) -> Vec<(Step, State)> {
    let mut steps = Steps { from: state, process: None, found: Vec::new() };
    for (p, process) in state.processes.iter().enumerate() {
        steps.process = Some(p);
        run(&mut steps, p, rules);
        if process.at != At::Idle {
            steps.add(Action::Kill, |next| kill(next, p));
        }
    }
    steps.process = None;
    if state.left.foreign > 0 && usize::from(state.issued) + 1 < TOKENS && state.of_person == 0 {
        steps.add(Action::PersonWrites, |next| {
            next.left.foreign -= 1;
            let token = next.issue(1);
            next.target = File { content: Content::Token(token), written: next.now() };
            for p in 0..next.processes.len() {
                let is_late = matches!(next.processes[p].at, At::Holding | At::ReplyWritten);
                next.processes[p].is_late = is_late;
                if let Some(temp) = next.temp_of(p) {
                    next.temps[temp].is_late = is_late;
                }
            }
        });
    }
    steps.found
}

/// The process is gone, and its lock is free; its temporary file stays.
fn kill(next: &mut State, p: usize) {
    let Process { at, reply, failed, .. } = next.processes[p];
    // A reply under way is the one thing that a kill may lose, and one that a broken disk did not take.
    if at == At::Holding && failed != Failed::Avoidably {
        next.excuse(reply);
    }
    if let Some(temp) = next.temp_of(p) {
        next.temps[temp].owner = None;
    }
    next.processes[p] = Process::default();
}

/// What a process does next.
fn run(steps: &mut Steps<'_>, p: usize, rules: Rules) {
    let state = *steps.from;
    let process = state.processes[p];
    let to = |at: At| move |next: &mut State| next.processes[p].at = at;
    match process.at {
        At::Idle => {
            steps.add(Action::Open, |next| {
                if !rules.has(Rule::ReadAgainUnderTheLock) {
                    read(next, p);
                }
                next.processes[p].at = At::Opened;
            });
            if !rules.has(Rule::LeftoversAreAdoptedUnderTheLock) {
                adopt_without_the_lock(steps);
            }
        }
        At::Opened => {
            // Two lock files, if the name was given to another meanwhile.
            let holds =
                |other: &Process| other.has_lock && other.is_lock_file_old == process.is_lock_file_old;
            if state.processes.iter().any(holds) && rules.has(Rule::TheLockExcludes) {
                steps.add(Action::LockIsTaken, |next| next.processes[p] = Process::default());
            } else {
                steps.add(Action::TryLock, |next| {
                    next.processes[p].has_lock = true;
                    next.processes[p].at = At::Locked;
                });
            }
        }
        At::Locked => {
            let is_left = |temp: &Temp| temp.owner.is_none() && temp.file.content != Content::None;
            let has_leftovers = state.temps.iter().any(is_left);
            if has_leftovers && rules.has(Rule::LeftoversAreAdoptedFirst) {
                adopt(steps, rules);
            } else if rules.has(Rule::ReadAgainUnderTheLock) || process.token == 0 {
                steps.add(Action::ReadLocked, |next| read(next, p));
            } else {
                steps.add(Action::ReadLocked, |next| {
                    next.processes[p].known = next.target.written;
                    next.processes[p].at = At::Read;
                });
            }
        }
        At::Read => try_out(steps, p, rules),
        At::RehearsalWritten => {
            let Some(temp) = state.temp_of(p) else {
                // Another process has taken it.
                steps.add(Action::TryOutSuperseded, to(At::Unlocking));
                return;
            };
            if state.target.written != process.known && rules.has(Rule::WhatWasReadIsCompared) {
                steps.add(Action::TryOutSuperseded, |next| {
                    next.temps[temp] = Temp::default();
                    next.processes[p].at = At::Locked;
                });
            } else {
                steps.add(Action::TryOutRename, |next| {
                    next.processes[p].at = At::RehearsalRenamed;
                    next.processes[p].known = next.temps[temp].file.written;
                    next.rename(temp);
                });
            }
        }
        At::RehearsalRenamed => {
            if rules.has(Rule::RoomIsReserved) {
                steps.add(Action::Reserve, |next| {
                    create(next, p, Content::NoToken);
                    next.processes[p].at = At::Ready;
                });
                steps.add(Action::ReserveFails, to(At::Unlocking));
            } else {
                steps.add(Action::Reserve, to(At::Ready));
            }
        }
        At::Ready => send(steps, p, rules),
        At::Holding => hold(steps, p, rules),
        At::ReplyWritten => {
            let Some(temp) = state.temp_of(p) else {
                steps.add(Action::RenameFindsNothing, to(At::Holding));
                return;
            };
            steps.add(Action::RenameReply, |next| {
                next.rename(temp);
                next.processes[p].reply = 0;
                next.processes[p].at = At::Unlocking;
            });
            steps.add(Action::RenameFails, |next| {
                next.processes[p].failed = Failed::Otherwise;
                if !rules.has(Rule::WrittenRepliesAreKept) {
                    next.processes[p].failed = Failed::Avoidably;
                    next.temps[temp] = Temp::default();
                    next.processes[p].at = At::Holding;
                }
            });
        }
        At::Unlocking => steps.add(Action::Unlock, |next| unlock(next, p, rules)),
    }
}

fn adopt(steps: &mut Steps<'_>, rules: Rules) {
    let state = *steps.from;
    if let Some(newest) = state.adoptable(rules) {
        steps.add(Action::AdoptRename, |next| next.rename(newest));
        return;
    }
    for i in (0..state.temps.len()).filter(|&i| state.temps[i].file.content != Content::None) {
        steps.add(Action::AdoptDelete, |next| next.temps[i] = Temp::default());
    }
}

/// What is seen may be the file of a process that lives.
fn adopt_without_the_lock(steps: &mut Steps<'_>) {
    let state = *steps.from;
    for (i, temp) in state.temps.iter().enumerate() {
        if temp.is_condemned {
            steps.add(Action::DeleteWithoutTheLock, |next| next.temps[i] = Temp::default());
        } else if temp.file.content == Content::NoToken {
            steps.add(Action::ListWithoutTheLock, |next| next.temps[i].is_condemned = true);
        }
    }
}

fn read(next: &mut State, p: usize) {
    let Content::Token(token) = next.target.content else { return };
    next.processes[p].token = token;
    next.processes[p].known = next.target.written;
    next.processes[p].at = At::Read;
}

/// A new temporary file, or the one that the process has, with this in it.
fn create(next: &mut State, p: usize, content: Content) {
    let free = || next.temps.iter().position(|temp| temp.file.content == Content::None);
    let Some(i) = next.temp_of(p).or_else(free) else { return };
    let file = File { content, written: next.now() };
    let is_late = next.processes[p].is_late;
    next.temps[i] = Temp { file, owner: Some(p as u8), is_late, ..next.temps[i] };
}

/// The temporary file that the process has is gone.
fn delete(next: &mut State, p: usize) {
    if let Some(temp) = next.temp_of(p) {
        next.temps[temp] = Temp::default();
    }
}

fn try_out(steps: &mut Steps<'_>, p: usize, rules: Rules) {
    let state = *steps.from;
    let process = state.processes[p];
    steps.add(Action::IsFresh, |next| next.processes[p].at = At::Unlocking);
    // Nothing more is issued in this search, or Concur has refused the token.
    if state.left.tokens == 0 || usize::from(state.issued) + 1 >= TOKENS || process.reply != 0 {
        return;
    }
    if state.target.written != process.known && rules.has(Rule::WhatWasReadIsCompared) {
        steps.add(Action::TryOutSuperseded, |next| next.processes[p].at = At::Locked);
        return;
    }
    steps.add(Action::TryOutWrite, |next| {
        create(next, p, Content::Token(process.token));
        next.processes[p].at = At::RehearsalWritten;
    });
    steps.add(Action::KillInMidWrite, |next| {
        create(next, p, Content::NoToken);
        kill(next, p);
    });
}

fn send(steps: &mut Steps<'_>, p: usize, rules: Rules) {
    let state = *steps.from;
    let Process { token, known, .. } = state.processes[p];
    if state.target.written != known && rules.has(Rule::WhatWasReadIsComparedLast) {
        steps.add(Action::TryOutSuperseded, |next| {
            delete(next, p);
            next.processes[p].at = At::Locked;
        });
        return;
    }
    if !state.is_live(token) {
        steps.add(Action::SendRefused, |next| {
            if !next.is_successor_lost(token) {
                next.break_(Invariant::NoTokenIsPresentedTwice);
            }
            // A person must act: no process tries that again.
            next.left.tokens = 0;
            next.processes[p].at = At::Unlocking;
        });
        return;
    }
    let family = usize::from(state.of_person >> token & 1);
    steps.add(Action::Send, |next| {
        next.left.tokens -= 1;
        next.processes[p].reply = next.issue(family);
        next.processes[p].at = At::Holding;
    });
    steps.add(Action::ReplyLost, |next| {
        next.left.tokens -= 1;
        let lost = next.issue(family);
        next.excuse(lost);
        next.processes[p].at = At::Unlocking;
    });
}

/// The reply is in memory.
fn hold(steps: &mut Steps<'_>, p: usize, rules: Rules) {
    let state = *steps.from;
    let process = state.processes[p];
    if !rules.has(Rule::NothingIsWrittenInPlace) {
        steps.add(Action::WriteReplyInPlace, |next| next.target.content = Content::NoToken);
    }
    steps.add(Action::WriteReply, |next| {
        create(next, p, Content::Token(process.reply));
        next.processes[p].at = At::ReplyWritten;
    });
    steps.add(Action::KillInMidWrite, |next| {
        create(next, p, Content::NoToken);
        kill(next, p);
    });
    steps.add(Action::WriteFails, |next| next.processes[p].failed = Failed::Otherwise);
    // With room reserved, to write over it needs none.
    if state.temp_of(p).is_none() {
        steps.add(Action::DiskIsFull, |next| next.processes[p].failed = Failed::Avoidably);
    }
    if process.failed != Failed::Not {
        if !rules.has(Rule::UnsavedKeepsTheLock) && process.has_lock {
            steps.add(Action::UnlockUnsaved, |next| next.processes[p].has_lock = false);
        }
        if !rules.has(Rule::FailedSavesAreRepeated) {
            steps.add(Action::GiveUpUnsaved, |next| {
                next.processes[p].reply = 0;
                next.processes[p].at = At::Unlocking;
            });
        }
    }
}

fn unlock(next: &mut State, p: usize, rules: Rules) {
    // The reservation goes first.
    delete(next, p);
    next.processes[p] = Process::default();
    if !rules.has(Rule::TheLockFileStays) {
        for process in &mut next.processes {
            process.is_lock_file_old |= process.at != At::Idle;
        }
    }
}
