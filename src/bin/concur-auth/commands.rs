//! The commands, each in a function.

mod doctor;
mod fleet;
mod init;
mod tokens;

use clap::CommandFactory as _;

use crate::{
    arguments::{Arguments, Command},
    failure::Outcome,
    place::Place,
    serve,
    service_manager::Activated,
};

pub(crate) async fn run(place: &Place, command: Command, activated: Activated) -> Outcome {
    match command {
        Command::Init => init::run(place).await,
        Command::Status { json } => tokens::status(place, json).await,
        Command::AccessToken { min_validity, format } => {
            tokens::access_token(place, min_validity, format).await
        }
        Command::RefreshToken { show } => tokens::refresh_token(place, show).await,
        Command::Renew { now } => tokens::renew(place, now).await,
        Command::Exec { command } => tokens::exec(place, command).await,
        Command::Serve(arguments) => serve::run(place, arguments, activated).await,
        Command::KeepAlive => serve::keep_alive(place).await,
        Command::Adopt { file } => tokens::adopt(place, &file).await,
        Command::Revoke { yes } => tokens::revoke(place, yes).await,
        Command::Doctor => doctor::run(place).await,
        Command::Fleet(command) => fleet::run(place, command).await,
        Command::Completions { shell } => completions(shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "concur-auth", &mut script);
    crate::say::out(String::from_utf8_lossy(&script).trim_end())
}
