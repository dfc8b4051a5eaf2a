//! What systemd gives to a service, and wants to know of it.

/// Listeners that the service manager has opened.
#[cfg(unix)]
pub(crate) type Activated = Option<listenfd::ListenFd>;
#[cfg(not(unix))]
pub(crate) type Activated = ();

/// Takes the listeners, before the program has threads: the variables that tell of them are removed.
#[cfg(unix)]
pub(crate) fn activated() -> Activated {
    Some(listenfd::ListenFd::from_env())
}

#[cfg(not(unix))]
pub(crate) fn activated() -> Activated {}

/// The program serves, and how it is.
pub(crate) fn ready(status: &str) {
    tell(status, true);
}

/// How the program is.
pub(crate) fn status(status: &str) {
    tell(status, false);
}

#[cfg(unix)]
fn tell(status: &str, is_ready: bool) {
    use sd_notify::NotifyState::{Ready, Status};
    let line = status.replace('\n', " ");
    let states = [Status(&line), Ready];
    let told = sd_notify::notify(if is_ready { &states } else { &states[..1] });
    if let Err(e) = told {
        crate::say::note(&format!("could not tell the service manager: {e}"));
    }
}

#[cfg(not(unix))]
fn tell(_: &str, _: bool) {}

/// The program was told to end.
pub(crate) fn stopping() {
    #[cfg(unix)]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}
