//! The rules of the files, each of which can be broken.

use crate::exploration;

/// One rule. The comment says what the function does because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// `FileLock::try_acquire` takes no lock that another process holds.
    TheLockExcludes,
    /// `FileLock::drop` leaves the lock file where it is.
    TheLockFileStays,
    /// `JsonFileStore::try_lock` looks for what a killed process left before anything else is done under the lock.
    LeftoversAreAdoptedFirst,
    /// `JsonFileStore::look` adopts leftovers under the lock only.
    LeftoversAreAdoptedUnderTheLock,
    /// `leftovers::adopt` leaves the token file alone if it is newer than the leftover.
    OlderLeftoversAreNotAdopted,
    /// `JsonFileStore::read_locked` reads the token again once the lock is held.
    ReadAgainUnderTheLock,
    /// `JsonFileStore::try_out` compares the token file with what was read, before it replaces the file.
    WhatWasReadIsCompared,
    /// `JsonFileStore::try_out` compares them once more, when there is nothing left to do before the request.
    WhatWasReadIsComparedLast,
    /// `JsonFileStore::try_out` reserves room for the reply.
    RoomIsReserved,
    /// `JsonFileStore::write` writes a temporary file, and renames it.
    NothingIsWrittenInPlace,
    /// `TempFile::keep`: what could not be renamed stays for the next process.
    WrittenRepliesAreKept,
    /// `LockedStore::release` keeps the lock with a token that could not be saved.
    UnsavedKeepsTheLock,
    /// `TokenCache::save_unsaved` repeats a save that failed.
    FailedSavesAreRepeated,
}

pub(super) type Rules = exploration::Rules<Rule>;
