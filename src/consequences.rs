//! What an error leads to, kind by kind: the table that every decision after a failure reads.

use crate::ErrorKind;

/// What a manager does after an error of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Consequences {
    /// A caller gets the token that is still valid instead of the error.
    pub(crate) serves_held: bool,
    /// The same is not sent again until credentials or token change, or a cool-down has passed.
    pub(crate) is_remembered: bool,
    /// A sign-in that fails so cannot help until a person acts.
    pub(crate) leaves_no_sign_in: bool,
}

pub(crate) fn of(kind: ErrorKind) -> Consequences {
    let row = |serves_held, is_remembered, leaves_no_sign_in| Consequences {
        serves_held,
        is_remembered,
        leaves_no_sign_in,
    };
    match kind {
        // The network, the server or the disk may recover before the held token expires. `Untrusted`: nothing was sent, as
        // behind a captive portal or with a certificate that is renewed too late.
        ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::Untrusted | ErrorKind::Store => {
            row(true, false, false)
        }
        // A person is editing the credentials, or has blanked what is not needed for the time being.
        ErrorKind::CredentialsNeeded => row(true, false, true),
        ErrorKind::CredentialsInvalid => row(true, false, false),
        // Accounts get locked by asking again.
        ErrorKind::Refused => row(false, true, false),
        ErrorKind::ReauthorizationRequired => row(false, true, true),
        // The program must change.
        ErrorKind::Config => row(false, false, false),
    }
}
