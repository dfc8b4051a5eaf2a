//! Whom tokens belong to, and that they are not mixed up.

use crate::{Error, ErrorKind, RefreshTokenObject};

/// The UUID of a company or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Company(String),
    User(String),
}

impl Principal {
    /// Whose a token says it is.
    pub(crate) fn of(token: &RefreshTokenObject) -> Option<Self> {
        let company = token.company_uuid().map(|uuid| Self::Company(uuid.to_owned()));
        company.or_else(|| token.principal_uuid().map(|uuid| Self::User(uuid.to_owned())))
    }

    /// Refuses a token that says it is somebody else's; `what` names it. One that says nothing is believed to be right,
    /// as SAP's sample leaves them.
    pub(crate) fn check(&self, token: &RefreshTokenObject, what: impl Fn() -> String) -> Result<(), Error> {
        let (company, subject) = (token.company_uuid(), token.principal_uuid());
        match (self, company, subject) {
            // The member companyUUID was written by whoever stored the token, for whom they meant. Only where there is
            // none, `sub` tells.
            (Self::Company(ours), Some(_), _) | (Self::User(ours), _, None) => {
                self.is(company, ours, || format!("{} belongs to company", what()))
            }
            (Self::Company(ours), None, _) | (Self::User(ours), _, Some(_)) => {
                self.is(subject, ours, || format!("{} belongs to the principal", what()))
            }
        }
    }

    /// The same for a company that is about to sign in.
    pub(crate) fn check_company(&self, company: &str, what: &str) -> Result<(), Error> {
        let (Self::Company(ours) | Self::User(ours)) = self;
        self.is(Some(company), ours, || format!("{what} belongs to company"))
    }

    fn is(&self, theirs: Option<&str>, ours: &str, what: impl Fn() -> String) -> Result<(), Error> {
        let kind = match self {
            Self::Company(_) => "company",
            Self::User(_) => "user",
        };
        match theirs {
            Some(theirs) if !theirs.eq_ignore_ascii_case(ours) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{} {theirs}, but the credentials name {kind} {ours}; keep this {kind}'s token in a separate store, \
                     or move the stored token away",
                    what()
                ),
            )),
            _ => Ok(()),
        }
    }
}
