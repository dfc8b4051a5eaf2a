//! The program `concur-auth`: tokens for shells, schedulers and programs in any language.
//!
//! ```text
//! arguments ─▶ place ─▶ command ─▶ say
//!                └▶ serve: listeners ─▶ door ─▶ routes ─▶ proxy
//! ```
//!
//! Always: it uses the library's public API only. No secret is printed but the one that a command is for. A renewal under way is
//! brought to its end before the program ends.

#![cfg_attr(fuzzing, no_main, allow(dead_code))]
#![allow(clippy::disallowed_methods, reason = "time-outs of real connections, in real time")]

mod arguments;
mod commands;
mod failure;
mod log;
mod place;
mod say;
mod serve;
mod service_manager;
mod signals;

use std::{
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
};

use clap::Parser as _;

use self::{
    arguments::{Arguments, Command},
    failure::{Outcome, USAGE},
    place::Place,
    service_manager::Activated,
};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are what was asked for.
            let code = if told.use_stderr() { USAGE } else { 0 };
            let _ = told.print();
            return ExitCode::from(code);
        }
    };
    // Another command leaves them to the program that it becomes.
    let activated = match arguments.command {
        Command::Serve(_) => service_manager::activated(),
        _ => Activated::default(),
    };
    let stays = arguments.command.stays();
    let runtime = match arguments.command {
        // A program that serves many clients uses all processors.
        Command::Serve(_) | Command::Fleet(_) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(arguments, activated));
            if stays {
                // All that matters was waited for. The name of a host may still be looked up, for how long no program can say.
                runtime.shutdown_background();
            }
            ended
        }
        Err(e) => Err(failure::Failure::io("could not start", &e)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

async fn run(arguments: Arguments, activated: Activated) -> Outcome {
    let waits = log::init(arguments.verbose, arguments.command.stays());
    let place = Place::of(arguments.place)?;
    let command = waits.told(commands::run(&place, arguments.command, activated));
    command.await
}

/// The mutex's value, also after a thread has panicked with it: each value here is replaced in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
