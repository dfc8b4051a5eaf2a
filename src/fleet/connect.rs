//! How members come and go.
//!
//! Always: a token is saved before its sign-in is told. A grant that names no principal proves that its reply can be saved before
//! it is sent, and no token is ever in two places.

use super::{Fleet, managers::AskedBy};
use crate::{
    Error, ErrorKind, Grant, MemberKind, MemberState, RefreshTokenObject, oauth_client::SignsIn,
    principal::Principal, store::member_name,
};

impl Fleet {
    /// Signs a company or user in, saves the token, and returns the UUID. A member that is there already is signed in again.
    ///
    /// Takes any [`Grant`], or what the App Center sends a browser with ([`AppCenterRedirect`](crate::AppCenterRedirect)). A company
    /// request token names its company; of any other grant, Concur's reply says who signed in. Until that is known, the token is
    /// kept under a name `pending-…`. If the reply does not say, it stays there, and the error names it for
    /// [`assign`](Self::assign).
    ///
    /// ```no_run
    /// use concur_auth::Grant;
    ///
    /// # async fn example(fleet: concur_auth::Fleet) -> Result<(), concur_auth::Error> {
    /// let uuid = "b3f4e2a0-0000-4000-8000-000000000000";
    /// fleet.connect(Grant::company_request_token(uuid, "at-0123")).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`TokenManager::sign_in`](crate::TokenManager::sign_in); [`ErrorKind::Config`] for a grant of the app itself, and where it
    /// is not known who has signed in.
    pub async fn connect(&self, grant: impl Into<Grant>) -> Result<String, Error> {
        let grant = grant.into();
        match grant.signs_in() {
            SignsIn::Company(uuid) => {
                let name = member_name::normalized(uuid)?.into_owned();
                self.0.manager(MemberKind::Company, &name, AskedBy::Program).sign_in(grant).await?;
                Ok(name)
            }
            SignsIn::App => {
                let message = "a fleet keeps companies and users; for the app's own tokens use \
                               TokenManagerBuilder::build_for_app";
                Err(Error::new(ErrorKind::Config, message))
            }
            SignsIn::User | SignsIn::Anybody => self.connect_pending(grant).await,
        }
    }

    async fn connect_pending(&self, grant: Grant) -> Result<String, Error> {
        let pending = member_name::pending()?;
        let signed_in = self.0.manager(MemberKind::Pending, &pending, AskedBy::Program).sign_in(grant).await;
        let token = signed_in.inspect_err(|_| self.0.managers.forget(MemberKind::Pending, &pending))?;
        let Some(Principal::Company(uuid) | Principal::User(uuid)) = Principal::of(&token) else {
            let message = format!(
                "the token was saved, but Concur's reply does not say who has signed in; find out, and call \
                 Fleet::assign(\"{pending}\", the UUID)"
            );
            return Err(Error::new(ErrorKind::Config, message));
        };
        self.assign(&pending, &uuid).await.map_err(|e| {
            let message = format!(
                "signed in, and the token was saved as {pending}, but it could not be moved to {uuid}; call \
                 Fleet::assign(\"{pending}\", \"{uuid}\")"
            );
            Error::new(e.kind(), message).caused_by(e)
        })?;
        Ok(uuid.to_ascii_lowercase())
    }

    /// Gives the token that [`connect`](Self::connect) has left under a name `pending-…` to the user with this UUID, in place of the
    /// user's token, if there is one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when there is no such token, or one of the names cannot be one; [`ErrorKind::Store`] when it is not
    /// certain that the token was moved.
    pub async fn assign(&self, pending: &str, uuid: &str) -> Result<(), Error> {
        let (pending, name) =
            (member_name::normalized(pending)?.into_owned(), member_name::normalized(uuid)?.into_owned());
        if !member_name::is_pending(&pending) {
            let message =
                format!("\"{pending}\" is no name that Fleet::connect has made; pass that name, pending-…");
            return Err(Error::new(ErrorKind::Config, message));
        }
        let moved = (pending.clone(), name.clone());
        self.0
            .call(move |fleet| {
                let (pending, name) = moved;
                Box::pin(async move { fleet.store.assign(fleet.app.app_id(), &pending, &name).await })
            })
            .await?;
        self.0.managers.forget(MemberKind::Pending, &pending);
        // What is in memory is the user's token before.
        self.0.manager(MemberKind::User, &name, AskedBy::Program).read_status().await;
        Ok(())
    }

    /// Takes over a token from elsewhere, for example from another system's database, in place of the member's token.
    ///
    /// # Errors
    ///
    /// As [`TokenManager::adopt`](crate::TokenManager::adopt).
    pub async fn adopt(&self, uuid: &str, token: RefreshTokenObject) -> Result<(), Error> {
        let name = member_name::normalized(uuid)?;
        self.0.manager(member_name::kind_of_token(&token), &name, AskedBy::Program).adopt(token).await
    }

    /// Revokes all refresh tokens of the member at Concur, and removes the member's token from the store. As
    /// [`TokenManager::revoke`](crate::TokenManager::revoke).
    ///
    /// # Errors
    ///
    /// As [`TokenManager::revoke`](crate::TokenManager::revoke).
    pub async fn disconnect(&self, uuid: &str) -> Result<(), Error> {
        let name = member_name::normalized(uuid)?;
        let is_user = self.0.managers.has(MemberKind::User, &name);
        let kind = if is_user { MemberKind::User } else { MemberKind::Company };
        let kind = member_name::kind_of(&name, kind);
        self.0.manager(kind, &name, AskedBy::Program).revoke().await?;
        self.forget_elsewhere(kind, &name).await
    }

    /// Removes the member's token from the store and from this process, and sends nothing to Concur, where the token stays valid.
    /// Returns whether there was a token. To revoke it, too, take [`disconnect`](Self::disconnect).
    ///
    /// A token file that cannot be read as a token is set aside, as every such file before it is replaced. The member stays in the
    /// list, without a token.
    ///
    /// ```no_run
    /// # async fn example(fleet: concur_auth::Fleet, uuid: &str) -> Result<(), concur_auth::Error> {
    /// if !fleet.forget(uuid).await? {
    ///     println!("the fleet has no token of {uuid}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store could not be locked, or could not be emptied; [`ErrorKind::Config`] when this cannot be the
    /// name of a member, and in PostgreSQL where the row holds something that cannot be read.
    pub async fn forget(&self, uuid: &str) -> Result<bool, Error> {
        let name = member_name::normalized(uuid)?;
        // Nothing is made for a name that was mistyped.
        let Some(member) = self.member(&name).await? else { return Ok(false) };
        self.0.manager(member.kind, &name, AskedBy::Program).forget().await?;
        self.forget_elsewhere(member.kind, &name).await?;
        Ok(member.state != MemberState::SignedOut)
    }

    /// Where the program uses managers of another kind, too: they must not go on serving what is removed.
    async fn forget_elsewhere(&self, removed: MemberKind, name: &str) -> Result<(), Error> {
        for kind in [MemberKind::Company, MemberKind::User, MemberKind::Pending] {
            if kind != removed && self.0.managers.has(kind, name) {
                self.0.manager(kind, name, AskedBy::Program).forget().await?;
            }
        }
        Ok(())
    }
}
