//! Where the tokens are, and what is needed to use them: flags first, then variables, then files.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use concur_auth::{
    AppCredentials, CredentialSource as _, CredentialsFile, EnvCredentials, Error, Fleet, FleetBuilder,
    FleetMember, FolderFleet, JsonFileStore, MemberKind, SealingKeys, TokenManager,
};

use crate::{
    arguments::PlaceArguments,
    failure::{Failure, Outcome},
};

pub(crate) const CREDENTIALS: &str = "credentials.json";
pub(crate) const TOKENS: &str = "refreshTokenObjectFile.json";
/// What systemd gives to a service with LoadCredential.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
const SEALING_KEYS: &str = "sealing-keys";
const KEYS: &str = "CONCUR_AUTH_SEALING_KEYS";
/// Where sign-ins start, unless it is said otherwise.
pub(crate) const LANDING_ZONE: &str = "https://glz.api.concursolutions.com";
/// How many members of a fleet are read at once.
const PAGE: usize = 1000;

/// A place, of one company or of many.
pub(crate) struct Place {
    dir: PathBuf,
    fleet: Option<OsString>,
    /// For the commands of fleets also where there is a folder: that has the app's credentials.
    fleet_of_variable: Option<OsString>,
    company: Option<String>,
    base_uri: Option<String>,
    keys: Option<PathBuf>,
}

/// The tokens of one company or user.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) manager: TokenManager,
    /// Where the manager belongs to one.
    pub(crate) fleet: Option<Fleet>,
}

/// The tokens of one, or of a fleet.
#[derive(Clone)]
pub(crate) enum Kept {
    One(Tokens),
    Fleet(Fleet),
}

impl Place {
    pub(crate) fn of(arguments: PlaceArguments) -> Outcome<Self> {
        let PlaceArguments { dir, fleet, company, base_uri, sealing_keys } = arguments;
        // A flag beats a variable, and a fleet beats a folder.
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let fleet_of_variable = variable("CONCUR_AUTH_FLEET");
        let fleet = match (fleet, &dir) {
            (Some(fleet), _) => Some(fleet),
            (None, Some(_)) => None,
            (None, None) => fleet_of_variable.clone(),
        };
        if company.is_some() && fleet.is_none() {
            return Err(Failure::Usage(
                "--company is for a fleet; add --fleet PLACE or set CONCUR_AUTH_FLEET".to_owned(),
            ));
        }
        let dir =
            dir.or_else(|| variable("CONCUR_AUTH_DIR").map(PathBuf::from)).unwrap_or_else(|| ".".into());
        Ok(Self { dir, fleet, fleet_of_variable, company, base_uri, keys: sealing_keys })
    }

    /// The folder of one company; an error where the place is a fleet.
    pub(crate) fn folder(&self) -> Outcome<&Path> {
        match self.fleet {
            None => Ok(&self.dir),
            Some(_) => {
                Err(Failure::Usage("this command is for a folder, not for a fleet; use --dir DIR".to_owned()))
            }
        }
    }

    pub(crate) fn base_uri(&self) -> Option<&str> {
        self.base_uri.as_deref()
    }

    /// The company or user of the fleet that the command is about.
    pub(crate) fn company(&self) -> Option<&str> {
        self.company.as_deref()
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.join(TOKENS)
    }

    /// Where the credentials are read from, and a person writes them.
    pub(crate) fn credentials_file(&self) -> PathBuf {
        of_service_manager(CREDENTIALS).unwrap_or_else(|| self.dir.join(CREDENTIALS))
    }

    /// Whether the service manager gives the credentials.
    pub(crate) fn has_given_credentials() -> bool {
        of_service_manager(CREDENTIALS).is_some()
    }

    /// Whether the environment has an app's credentials, or a part of them.
    pub(crate) fn has_variables() -> bool {
        ["CONCUR_APP_ID", "CONCUR_CLIENT_SECRET"].iter().any(|name| env::var_os(name).is_some())
    }

    pub(crate) fn keys(&self) -> Outcome<Option<SealingKeys>> {
        if env::var_os(KEYS).is_some() {
            return Ok(Some(SealingKeys::from_env()?));
        }
        if let Some(file) = &self.keys {
            return Ok(Some(SealingKeys::from_file(file)?));
        }
        Ok(of_service_manager(SEALING_KEYS).map(SealingKeys::from_file).transpose()?)
    }

    /// The token file of the folder, sealed where there are keys.
    pub(crate) fn store(&self) -> Outcome<JsonFileStore> {
        let store = JsonFileStore::new(self.token_file());
        Ok(match self.keys()? {
            Some(keys) => store.sealed_with(keys),
            None => store,
        })
    }

    /// The tokens of one company or user.
    pub(crate) async fn tokens(&self) -> Outcome<Tokens> {
        self.kept().await?.of_one()
    }

    /// All that this place has: one company or user, or a fleet.
    pub(crate) async fn kept(&self) -> Outcome<Kept> {
        self.kept_with(Self::has_variables()).await
    }

    /// The same for a command that only looks: no blank credentials.json is written where it is missing.
    pub(crate) async fn kept_as_it_is(&self) -> Outcome<Kept> {
        self.kept_with(Self::has_variables() || !self.credentials_file().exists()).await
    }

    async fn kept_with(&self, variables: bool) -> Outcome<Kept> {
        if self.fleet.is_none() {
            return Ok(Kept::One(Tokens { manager: self.of_folder(variables)?, fleet: None }));
        }
        let fleet = self.fleet_with(variables, |fleet| fleet).await?;
        match &self.company {
            None => Ok(Kept::Fleet(fleet)),
            Some(uuid) => {
                // A token that is taken over may be of a company that is not known yet.
                let kind = fleet.member(uuid).await?.map_or(MemberKind::Company, |member| member.kind);
                Ok(Kept::One(Tokens { manager: manager_of(&fleet, uuid, kind), fleet: Some(fleet) }))
            }
        }
    }

    fn of_folder(&self, variables: bool) -> Outcome<TokenManager> {
        let builder = TokenManager::builder().store(self.store()?);
        let builder = match variables {
            true => builder.credentials(EnvCredentials),
            false => builder.credentials(CredentialsFile::new(self.credentials_file())),
        };
        let builder = match &self.base_uri {
            Some(uri) => builder.base_uri(uri),
            None => builder,
        };
        Ok(builder.build()?)
    }

    /// The fleet, with settings of the command's.
    pub(crate) async fn fleet(&self, settings: impl FnOnce(FleetBuilder) -> FleetBuilder) -> Outcome<Fleet> {
        self.fleet_with(Self::has_variables(), settings).await
    }

    async fn fleet_with(
        &self,
        variables: bool,
        settings: impl FnOnce(FleetBuilder) -> FleetBuilder,
    ) -> Outcome<Fleet> {
        let place = self.fleet_place()?;
        let app = match variables {
            true => AppCredentials::from_env()?,
            false => CredentialsFile::new(self.credentials_file()).credentials().await?.into(),
        };
        let mut builder = settings(Fleet::builder().app(app));
        if let Some(uri) = &self.base_uri {
            builder = builder.base_uri(uri);
        }
        if let Some(keys) = self.keys()? {
            builder = builder.sealed_with(keys);
        }
        let builder = match database(place) {
            None => builder.store(FolderFleet::new(place)),
            #[cfg(feature = "postgres")]
            Some(url) => builder.store(concur_auth::PostgresFleet::new(url)?),
            #[cfg(not(feature = "postgres"))]
            Some(_) => return Err(no_postgres()),
        };
        Ok(builder.build()?)
    }

    /// The fleet that all commands are about, if it is one.
    pub(crate) fn named_fleet(&self) -> Option<&OsString> {
        self.fleet.as_ref()
    }

    /// The fleet of a command that is about fleets only.
    pub(crate) fn fleet_place(&self) -> Outcome<&OsString> {
        self.fleet.as_ref().or(self.fleet_of_variable.as_ref()).ok_or_else(|| {
            Failure::Usage(
                "which fleet? Add --fleet PLACE, a folder or a PostgreSQL URL, or set CONCUR_AUTH_FLEET"
                    .to_owned(),
            )
        })
    }
}

pub(crate) fn manager_of(fleet: &Fleet, uuid: &str, kind: MemberKind) -> TokenManager {
    if kind == MemberKind::User { fleet.user(uuid) } else { fleet.company(uuid) }
}

/// What the environment names as the base URI.
pub(crate) fn base_uri_of_variable() -> Option<String> {
    env::var("CONCUR_BASE_URI").ok().filter(|uri| !uri.is_empty())
}

/// A file that the service manager gives to the program, if it gives one of this name.
fn of_service_manager(name: &str) -> Option<PathBuf> {
    let given = env::var_os(CREDENTIALS_DIRECTORY).map(|folder| Path::new(&folder).join(name));
    // What cannot be looked at is not absent: the attempt to read it says why.
    given.filter(|path| !matches!(path.try_exists(), Ok(false)))
}

/// All members of a fleet.
pub(crate) async fn members(fleet: &Fleet) -> Result<Vec<FleetMember>, Error> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = fleet.list(after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|member| member.uuid.clone());
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// The place as the URL of a database, where it is none of a folder.
pub(crate) fn database(place: &OsStr) -> Option<&str> {
    place.to_str().filter(|place| place.starts_with("postgres://") || place.starts_with("postgresql://"))
}

#[cfg(not(feature = "postgres"))]
pub(crate) fn no_postgres() -> Failure {
    Failure::Other(
        "this program is built without PostgreSQL; install it with: cargo install concur-auth --features cli,postgres"
            .to_owned(),
    )
}

impl Tokens {
    /// Waits for a renewal under way, and for a token that is not saved yet.
    pub(crate) async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        match &self.fleet {
            Some(fleet) => fleet.shutdown(deadline).await,
            None => self.manager.shutdown(deadline).await,
        }
    }
}

impl Kept {
    /// The tokens of one company or user; wrong usage where there are many.
    pub(crate) fn of_one(self) -> Outcome<Tokens> {
        match self {
            Self::One(tokens) => Ok(tokens),
            Self::Fleet(_) => {
                Err(Failure::Usage("a fleet has many companies; add --company UUID".to_owned()))
            }
        }
    }

    pub(crate) async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        match self {
            Self::One(tokens) => tokens.shutdown(deadline).await,
            Self::Fleet(fleet) => fleet.shutdown(deadline).await,
        }
    }
}
