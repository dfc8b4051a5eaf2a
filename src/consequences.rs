//! What an error leads to, kind by kind: the table that every decision after a failure reads.
//!
//! Always: it says what the table in docs/promises.md says.

use crate::ErrorKind;

/// What a manager does after an error of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Consequences {
    /// A caller gets the token that is still valid instead of the error; never a refresh token that is known to be dead.
    pub(crate) serves_held: bool,
    /// The same is not sent again until credentials or token change, or a cool-down has passed.
    pub(crate) is_remembered: bool,
    /// Renewals fail until a person acts.
    pub(crate) needs_person: bool,
    /// A sign-in that fails so cannot help until a person acts.
    pub(crate) leaves_no_sign_in: bool,
}

pub(crate) fn of(kind: ErrorKind) -> Consequences {
    let row = |serves_held, is_remembered, needs_person, leaves_no_sign_in| Consequences {
        serves_held,
        is_remembered,
        needs_person,
        leaves_no_sign_in,
    };
    match kind {
        // The network, the server or the disk may recover before the held token expires. `Untrusted`: nothing was sent, as
        // behind a captive portal or with a certificate that is renewed too late.
        ErrorKind::Unavailable | ErrorKind::Protocol | ErrorKind::Untrusted | ErrorKind::Store => {
            row(true, false, false, false)
        }
        // A person is editing the credentials, or has blanked what is not needed for the time being.
        ErrorKind::CredentialsNeeded => row(true, false, true, true),
        ErrorKind::CredentialsInvalid => row(true, false, true, false),
        // Accounts get locked by asking again. What is held lives nevertheless: what was refused is the account, the app or
        // the sign-in. The one exception, a refresh token that was refused itself, is served to no caller.
        ErrorKind::Refused => row(true, true, true, false),
        ErrorKind::ReauthorizationRequired => row(true, true, true, true),
        // The program must change.
        ErrorKind::Config => row(false, false, true, false),
    }
}

impl ErrorKind {
    /// Whether renewals fail until a person acts, as far as the kind tells.
    ///
    /// [`Status::health`](crate::Status::health) is [`PersonNeeded`](crate::Health::PersonNeeded) after such an error.
    #[must_use]
    pub fn needs_person(self) -> bool {
        of(self).needs_person
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind::*;

    const KINDS: [ErrorKind; 9] = [
        CredentialsNeeded,
        CredentialsInvalid,
        ReauthorizationRequired,
        Refused,
        Unavailable,
        Protocol,
        Untrusted,
        Store,
        Config,
    ];

    #[test]
    fn the_documented_table_is_the_table() {
        let (_, table) = include_str!("../docs/promises.md").split_once("# What an error leads to").unwrap();
        for kind in KINDS {
            let link = format!("ErrorKind::{kind:?})");
            let mut rows = table.lines().filter(|line| line.starts_with("| [") && line.contains(&link));
            let row = rows.next().unwrap_or_else(|| panic!("no row for {kind:?}"));
            assert_eq!(rows.next(), None, "{kind:?} has two rows");
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let [_, _, served, remembered, _, health, next, _] = cells[..] else { panic!("{row}") };
            let documented = Consequences {
                serves_held: served == "yes",
                is_remembered: remembered == "yes",
                needs_person: health == "person needed",
                leaves_no_sign_in: next.contains("a refresh token that looks expired")
                    && (!next.contains(':') || next.starts_with(&format!("`{kind:?}`:"))),
            };
            assert_eq!(of(kind), documented, "{row}");
        }
    }
}
