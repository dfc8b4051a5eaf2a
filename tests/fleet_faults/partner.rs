//! A partner: many companies at one Concur, with their tokens in PostgreSQL.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use concur_auth::{
    AppCredentials, Fleet, FleetBuilder, Grant, PostgresFleet, RefreshTokenObject,
    simulator::{ConcurSimulator, Rotation, SimulatedCompany},
};

use crate::{
    clock::Leaping,
    postgres::{Database, Postgres, Server},
    worker::Limits,
};

/// As by default, but for the wait for a late save.
pub(crate) const LIMITS: Limits = Limits {
    lease: Duration::from_secs(90),
    doubt: Duration::from_secs(3600),
    late_save: Duration::from_millis(300),
};

pub(crate) struct Partner<'a> {
    /// It rotates, and revokes the family of a token that is presented twice.
    pub(crate) concur: ConcurSimulator,
    pub(crate) database: Database<'a>,
    pub(crate) companies: Vec<SimulatedCompany>,
}

impl<'a> Partner<'a> {
    /// All are connected.
    pub(crate) async fn of(postgres: &'a Postgres, companies: usize) -> Self {
        let rotation = Rotation::AlwaysAndRevokeFamily;
        let concur = ConcurSimulator::builder().rotation(rotation).start().await;
        let database = postgres.database();
        PostgresFleet::new(&database.url()).unwrap().migrate().await.unwrap();
        let companies = (0..companies).map(|_| concur.add_company()).collect();
        let this = Self { concur, database, companies };
        let fleet = this.fleet();
        for company in &this.companies {
            fleet.connect(grant(company)).await.unwrap();
        }
        this
    }

    /// As in a process of its own, by way of `server`.
    pub(crate) fn builder(&self, server: &dyn Server, limits: Limits, clock: Leaping) -> FleetBuilder {
        let store = limits.of(PostgresFleet::new(&self.database.url_by(server)).unwrap());
        let app = self.concur.app();
        let app = AppCredentials::new(app.id(), app.secret());
        Fleet::builder().app(app).base_uri(self.concur.base_uri()).store(store).clock(clock)
    }

    pub(crate) fn fleet_by(&self, server: &dyn Server) -> Fleet {
        self.builder(server, LIMITS, Leaping::default()).build().unwrap()
    }

    pub(crate) fn fleet(&self) -> Fleet {
        self.fleet_by(self.database.postgres())
    }

    /// From now on, the database keeps every refresh token that it is given: see [`noted`](Self::noted).
    pub(crate) fn note_saves(&self) {
        self.database.psql(
            "CREATE TABLE noted (token text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO noted VALUES (NEW.token::json->>'refresh_token'); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER UPDATE OF save_id ON concur_auth_tokens
                FOR EACH ROW WHEN (NEW.token IS NOT NULL AND NEW.save_id IS DISTINCT FROM OLD.save_id)
                EXECUTE FUNCTION note();",
        );
    }

    pub(crate) fn noted(&self) -> HashSet<String> {
        self.names("SELECT token FROM noted").into_iter().collect()
    }

    /// Makes these rows due, and returns the names of their companies.
    pub(crate) fn make_due(&self, which: &str) -> Vec<String> {
        self.names(&format!(
            "UPDATE concur_auth_tokens SET renew_at = clock_timestamp() WHERE {which} RETURNING principal"
        ))
    }

    pub(crate) fn names(&self, statement: &str) -> Vec<String> {
        self.database.psql(statement).lines().map(str::to_owned).collect()
    }

    /// How many rows are so.
    pub(crate) fn count(&self, which: &str) -> usize {
        let count = self.database.psql(&format!("SELECT count(*) FROM concur_auth_tokens WHERE {which}"));
        count.parse().unwrap()
    }

    /// The refresh tokens of these rows, by the names of their companies.
    pub(crate) fn tokens(&self, which: &str) -> HashMap<String, String> {
        let rows = format!(
            "SELECT principal || ' ' || replace(token, E'\\n', '') FROM concur_auth_tokens WHERE {which}"
        );
        let rows = self.names(&rows).into_iter().map(|row| {
            let (principal, token) = row.split_once(' ').unwrap();
            (principal.to_owned(), RefreshTokenObject::from_json(token).unwrap().secret().to_owned())
        });
        rows.collect()
    }

    /// The refresh tokens of all requests that presented one.
    pub(crate) fn presented(&self) -> Vec<String> {
        let requests = self.concur.requests();
        let renewals = requests.iter().filter(|request| request.grant_type() == Some("refresh_token"));
        let tokens = renewals.map(|request| {
            let mut form = url::form_urlencoded::parse(request.body().as_bytes());
            form.find(|(name, _)| name == "refresh_token").unwrap().1.into_owned()
        });
        tokens.collect()
    }

    /// Each of so many tokens was renewed once, every row is saved, and no row is leased or in doubt.
    pub(crate) fn is_renewed_once(&self, renewals: usize) {
        let mut presented = self.presented();
        presented.sort();
        presented.dedup();
        assert_eq!((presented.len(), self.concur.count("refresh_token")), (renewals, renewals));
        let tokens = self.tokens("state = 'active' AND lease_owner IS NULL AND in_doubt_since IS NULL");
        assert_eq!(tokens.len(), self.companies.len());
        for (company, token) in tokens {
            assert!(self.concur.is_live(&token), "{company}");
        }
    }
}

pub(crate) fn grant(company: &SimulatedCompany) -> Grant {
    Grant::company_request_token(company.uuid(), company.request_token())
}
