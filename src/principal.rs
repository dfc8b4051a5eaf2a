//! The owner of a token, and the check that owners are not mixed up.

use crate::{Error, ErrorKind, RefreshTokenObject, shown};

/// The UUID of a company or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    Company(String),
    User(String),
}

impl Principal {
    /// The owner that a token names.
    pub(crate) fn of(token: &RefreshTokenObject) -> Option<Self> {
        let company = token.company_uuid().map(|uuid| Self::Company(uuid.to_owned()));
        company.or_else(|| token.principal_uuid().map(|uuid| Self::User(uuid.to_owned())))
    }

    /// Refuses a token that names another owner; `what` names the token. A token that names no owner is accepted, since
    /// SAP's sample writes such tokens.
    pub(crate) fn check(&self, token: &RefreshTokenObject, what: impl Fn() -> String) -> Result<(), Error> {
        let (company, subject) = (token.company_uuid(), token.principal_uuid());
        match (self, company, subject) {
            // The member companyUUID was written by the program that stored the token, and says for whom. Without it,
            // `sub` tells.
            (Self::Company(ours), Some(_), _) | (Self::User(ours), _, None) => {
                self.is(company, ours, what, "company")
            }
            (Self::Company(ours), None, _) | (Self::User(ours), _, Some(_)) => {
                self.is(subject, ours, what, "the principal")
            }
        }
    }

    /// The same as a question.
    pub(crate) fn may_own(&self, token: &RefreshTokenObject) -> bool {
        self.check(token, String::new).is_ok()
    }

    /// The same check for a company that is about to sign in.
    pub(crate) fn check_company(&self, company: &str, what: &str) -> Result<(), Error> {
        let (Self::Company(ours) | Self::User(ours)) = self;
        self.is(Some(company), ours, || what.to_owned(), "company")
    }

    /// `owner` says what `theirs` is the UUID of.
    fn is(
        &self,
        theirs: Option<&str>,
        ours: &str,
        what: impl Fn() -> String,
        owner: &str,
    ) -> Result<(), Error> {
        let kind = match self {
            Self::Company(_) => "company",
            Self::User(_) => "user",
        };
        match theirs {
            Some(theirs) if !theirs.eq_ignore_ascii_case(ours) => {
                let theirs = match shown::uuid(Some(theirs)) {
                    Some(uuid) => format!("{owner} {uuid}"),
                    None => format!("a {} without a UUID", owner.trim_start_matches("the ")),
                };
                Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "{} belongs to {theirs}, but the credentials name {kind} {ours}; keep this {kind}'s token in a \
                         separate store, or move the other token away",
                        what()
                    ),
                ))
            }
            _ => Ok(()),
        }
    }
}
