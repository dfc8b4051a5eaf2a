//! Worker processes whose logs say afterwards, to the step, what each had done when it was killed or suspended; and the
//! accounts of a run of many such processes.
//!
//! Always: a worker's log has a line before each step and after it, each written by one system call. A loss is explained by
//! what was done to the process, or to its connections, while the request was in its window; any other loss is unexplained.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test file uses its own part")]

mod chaos;
mod history;
mod log;
mod process;
mod told;

pub use self::{
    chaos::{Chaos, Counts},
    history::{Cause, History, Hit, Judged, Request, SentBy},
    log::{Log, Sent},
    process::Worker,
    told::{CHECKED, Told, Writer, log_to},
};
