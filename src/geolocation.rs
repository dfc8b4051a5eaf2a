//! Base URIs that may receive secrets.
//!
//! Always: a [`Geolocation`] is the origin of a Concur host over https, or of a host that the program's own
//! configuration named. Every other host is refused before anything is sent.

use std::{fmt, str::FromStr, sync::Arc};

use url::{Host, Url};

use crate::{Error, ErrorKind, shown};

/// The domains that SAP runs Concur's API under; data centres are added below them.
const CONCUR_DOMAINS: [&str; 2] = [".concursolutions.com", ".concurcdc.cn"];

/// Concur's tokens and UUIDs are longer.
const LONGEST_LABEL: usize = 30;

/// The base URI of a data centre ("geolocation" in SAP's replies), checked.
///
/// Parsing accepts the URIs that a program's configuration may name: https hosts below `concursolutions.com` and
/// `concurcdc.cn` on the standard port, and, for tests against a simulated Concur, loopback addresses with http or
/// https on any port. A path is dropped and the host is written in lower case, because SAP's replies have been seen
/// with paths and upper case.
///
/// The host that counts is the host that the URL standard reads from the text, since requests connect to that host:
/// full-width letters, soft hyphens or line breaks in a Concur name do not change the host; a Cyrillic letter does.
///
/// ```
/// use concur_auth::Geolocation;
///
/// let us: Geolocation = "https://us.api.Concursolutions.com/oauth2/v0/token".parse()?;
/// assert_eq!(us.as_str(), "https://us.api.concursolutions.com/");
/// assert_eq!(us.join("profile/identity/v4/Users")?.path(), "/profile/identity/v4/Users");
/// assert!("https://us.api.concursolutions.com.example.net".parse::<Geolocation>().is_err());
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// The constants are the data centres that SAP lists today, for
/// [`base_uri`](crate::TokenManagerBuilder::base_uri); other hosts below SAP's domains are accepted, too.
///
/// `Display` and `Debug` are for people and logs. A host that only a reply of Concur's named is shown if it consists of
/// known words, such as `us2`; of any other they say "a host below concursolutions.com".
///
/// Source: SAP Concur developer centre, "Base URIs".
#[derive(Clone)]
pub struct Geolocation {
    /// Shared by the managers of a fleet.
    base: Arc<Url>,
    trust: Arc<Named>,
}

/// The hosts that are trusted in addition to Concur's: the configuration named them.
#[derive(Debug)]
struct Named {
    /// The host of the configured base URI, if its words are not known. The program named it, so it is shown.
    base: Option<Box<str>>,
    hosts: Arc<[String]>,
    loopback: bool,
}

impl Named {
    fn trusts(&self, host: &str) -> bool {
        self.hosts.iter().any(|named| named.eq_ignore_ascii_case(host))
    }
}

impl Geolocation {
    /// The global landing zone: where a sign-in starts when nothing else is configured.
    pub const GLZ: &str = "https://glz.api.concursolutions.com";
    /// United States.
    pub const US: &str = "https://us.api.concursolutions.com";
    /// United States, the second data centre.
    pub const US2: &str = "https://us2.api.concursolutions.com";
    /// United States, public sector (CCPS).
    pub const USG: &str = "https://usg.api.concursolutions.com";
    /// Europe.
    pub const EU: &str = "https://eu.api.concursolutions.com";
    /// Europe, the second data centre.
    pub const EU2: &str = "https://eu2.api.concursolutions.com";
    /// Europe, the Middle East and Africa.
    pub const EMEA: &str = "https://emea.api.concursolutions.com";
    /// Asia, Pacific and Japan.
    pub const APJ1: &str = "https://apj1.api.concursolutions.com";
    /// China.
    pub const CN: &str = "https://cn.api.concurcdc.cn";
    /// The implementation site in the United States, which redirects to production.
    pub const US_IMPL: &str = "https://us-impl.api.concursolutions.com";
    /// The implementation site in Europe, which redirects to production.
    pub const EMEA_IMPL: &str = "https://emea-impl.api.concursolutions.com";

    /// A base URI from the configuration (`origin` says from where in it); `hosts` are the further hosts that it
    /// trusts.
    pub(crate) fn configured(uri: &str, origin: &str, hosts: Arc<[String]>) -> Result<Self, Error> {
        let base = Url::parse(uri.trim()).map_err(|e| {
            let message = format!("the base URI ({origin}) is not a URL; write it like {}", Self::GLZ);
            Error::new(ErrorKind::Config, message).caused_by(e)
        })?;
        let loopback = is_loopback(&base);
        let host = base.host_str().filter(|host| !consists_of_known_words(host)).map(Into::into);
        Self::check(base, origin, Arc::new(Named { base: host, hosts, loopback }), true)
    }

    /// A URI from outside (a reply, the token file), checked against the hosts that `self`, the configured base,
    /// trusts.
    pub(crate) fn received(&self, uri: &str, origin: &str) -> Result<Self, Error> {
        let base =
            Url::parse(uri.trim()).map_err(|e| refused("a text that is not a URL", origin).caused_by(e))?;
        Self::check(base, origin, self.trust.clone(), false)
    }

    fn check(mut base: Url, origin: &str, trust: Arc<Named>, is_ours: bool) -> Result<Self, Error> {
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("a URI with user information", origin));
        }
        let Some(host) = base.host_str() else {
            return Err(refused("a URI without a host", origin));
        };
        let is_concur = is_below_concur(host) && base.port().is_none();
        let named = &*trust;
        let is_named = named.trusts(host);
        let allowed = match base.scheme() {
            "https" => is_concur || is_named || (named.loopback && is_loopback(&base)),
            "http" => named.loopback && is_loopback(&base),
            _ => false,
        };
        if !allowed {
            let what = match base.scheme() {
                scheme if is_ours => format!("{scheme}://{host}"),
                scheme @ ("http" | "https") if is_shown(&base, named) => format!("{scheme}://{host}"),
                _ if is_below_concur(host) => "a URI that is not Concur's".to_owned(),
                _ => "a host that is not Concur's".to_owned(),
            };
            return Err(refused(&what, origin));
        }
        base.set_path("/");
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self { base: base.into(), trust })
    }

    /// The base URI, ending with a slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.base.as_str()
    }

    /// The base URI for browsers: Concur's host with `www-` in front. Loopback and your own hosts stay unchanged.
    ///
    /// ```
    /// use concur_auth::Geolocation;
    ///
    /// let us2: Geolocation = "https://us2.api.concursolutions.com".parse()?;
    /// assert_eq!(us2.for_browsers().as_str(), "https://www-us2.api.concursolutions.com/");
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    ///
    /// Source: SAP Concur developer centre, "Base URIs".
    #[must_use]
    pub fn for_browsers(&self) -> Self {
        let mut browsers = self.clone();
        let host = self.real_host();
        if is_below_concur(host) && !host.starts_with("www-") {
            // A name is refused only if it has more than 253 letters, and then no server has that name.
            let _ = Arc::make_mut(&mut browsers.base).set_host(Some(&format!("www-{host}")));
        }
        browsers
    }

    /// The host, without scheme and port, as errors and logs show it.
    pub(crate) fn host(&self) -> &str {
        let host = self.real_host();
        if is_shown(&self.base, &self.trust) {
            host
        } else if host.ends_with(CONCUR_DOMAINS[1]) {
            "a host below concurcdc.cn"
        } else {
            "a host below concursolutions.com"
        }
    }

    fn real_host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Whether this is plain http, which is for loopback only.
    pub(crate) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// The URL of an endpoint below this base, for use with the bearer token.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Untrusted`] when `path` leads to another host; [`ErrorKind::Config`] when it is not a path.
    pub fn join(&self, path: &str) -> Result<Url, Error> {
        let url = self.base.join(path).map_err(|e| {
            Error::new(
                ErrorKind::Config,
                "that path cannot be joined to the geolocation; pass one such as profile/identity/v4/Users",
            )
            .caused_by(e)
        })?;
        // Not by comparing origins: user information in a URL does not change its origin.
        if url.as_str().starts_with(self.base.as_str()) {
            Ok(url)
        } else {
            Err(Error::new(
                ErrorKind::Untrusted,
                format!("the path leads away from {}; pass a path, not a URL", self.host()),
            ))
        }
    }
}

/// Whether the host may be shown: the configuration named it, or it is loopback, or consists of known words.
fn is_shown(uri: &Url, named: &Named) -> bool {
    uri.host_str().is_some_and(|host| {
        named.base.as_deref() == Some(host) || named.trusts(host) || consists_of_known_words(host)
    }) || is_loopback(uri)
}

fn consists_of_known_words(host: &str) -> bool {
    CONCUR_DOMAINS
        .into_iter()
        .find_map(|domain| host.strip_suffix(domain))
        .is_some_and(shown::are_known_words)
}

/// Names are sent in clear text, so no part of a trusted name may be as long as a secret.
fn is_below_concur(host: &str) -> bool {
    let is_name = |label: &str| (1..LONGEST_LABEL).contains(&label.len());
    let is_below = |domain| host.strip_suffix(domain).is_some_and(|name| name.split('.').all(is_name));
    CONCUR_DOMAINS.into_iter().any(is_below)
}

fn refused(what: &str, origin: &str) -> Error {
    Error::new(
        ErrorKind::Untrusted,
        format!(
            "refused to send secrets to {what} ({origin}); Concur's hosts are https, below concursolutions.com or \
             concurcdc.cn, without a port (a host of your own must be named with \
             TokenManagerBuilder::trust_host)"
        ),
    )
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

impl FromStr for Geolocation {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        Self::configured(uri, "parsed as a Geolocation", Arc::default())
    }
}

impl fmt::Display for Geolocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_shown(&self.base, &self.trust) { self.as_str() } else { self.host() })
    }
}

impl fmt::Debug for Geolocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Geolocation").field(&self.to_string()).finish()
    }
}

impl PartialEq for Geolocation {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
    }
}

impl Eq for Geolocation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_seen_in_replies_is_accepted() {
        for form in [
            "https://us.api.concursolutions.com",
            "https://us.api.concursolutions.com/",
            "https://us.api.Concursolutions.com",
            "https://us.api.concursolutions.com/oauth2/v0/token",
            "https://us.api.concursolutions.com:443",
        ] {
            let parsed: Geolocation = form.parse().expect(form);
            assert_eq!(parsed.as_str(), "https://us.api.concursolutions.com/", "{form}");
        }
        assert_eq!(
            "https://cn.api.concurcdc.cn".parse::<Geolocation>().unwrap().to_string(),
            "https://cn.api.concurcdc.cn/"
        );
    }

    #[test]
    fn every_data_centre_that_sap_lists_is_a_constant() {
        for uri in [
            Geolocation::GLZ,
            Geolocation::US,
            Geolocation::US2,
            Geolocation::USG,
            Geolocation::EU,
            Geolocation::EU2,
            Geolocation::EMEA,
            Geolocation::APJ1,
            Geolocation::CN,
            Geolocation::US_IMPL,
            Geolocation::EMEA_IMPL,
        ] {
            assert_eq!(uri.parse::<Geolocation>().unwrap().as_str(), format!("{uri}/"));
        }
        // A list that grows: others below SAP's domains are accepted.
        assert!("https://mars.api.concursolutions.com".parse::<Geolocation>().is_ok());
    }

    #[test]
    fn of_a_host_that_a_reply_names_only_known_words_are_shown() {
        let concur: Geolocation = Geolocation::GLZ.parse().unwrap();
        for (uri, host, shown) in [
            ("https://us2.api.concursolutions.com", "us2.api.concursolutions.com", None),
            ("https://cn.api.concurcdc.cn", "cn.api.concurcdc.cn", None),
            ("https://s3cr3t.api.concursolutions.com", "a host below concursolutions.com", Some(())),
            ("https://s3cr3t.api.concurcdc.cn", "a host below concurcdc.cn", Some(())),
        ] {
            let received = concur.received(uri, "a test").unwrap();
            assert_eq!((received.host(), received.as_str()), (host, format!("{uri}/").as_str()));
            let shown = shown.map_or(format!("{uri}/"), |()| host.to_owned());
            assert_eq!(
                (received.to_string(), format!("{received:?}")),
                (shown.clone(), format!("Geolocation({shown:?})"))
            );
            assert!(received.for_browsers().as_str().starts_with("https://www-"));
        }
        // What the program itself names is shown, also when a reply names it.
        let mars: Geolocation = "https://mars.api.concursolutions.com".parse().unwrap();
        assert_eq!(mars.received(mars.as_str(), "a test").unwrap().host(), "mars.api.concursolutions.com");
    }

    #[test]
    fn a_refusal_shows_no_unknown_word_of_a_reply() {
        let concur: Geolocation = Geolocation::GLZ.parse().unwrap();
        for (uri, what) in [
            ("https://s3cr3t.example.net", "a host that is not Concur's"),
            ("s3cr3t://us.api.concursolutions.com", "a URI that is not Concur's"),
            ("https://s3cr3t.api.concursolutions.com:8443", "a URI that is not Concur's"),
            ("http://us.api.concursolutions.com", "http://us.api.concursolutions.com"),
            (
                "https://at-0123456789abcdefghijklmnopqr.api.concursolutions.com",
                "a host that is not Concur's",
            ),
        ] {
            let error = concur.received(uri, "a test").unwrap_err().to_string();
            assert!(error.starts_with(&format!("refused to send secrets to {what} (a test); ")), "{error}");
        }
    }

    #[test]
    fn every_other_host_is_refused() {
        for form in [
            "http://us.api.concursolutions.com",
            "https://evilconcursolutions.com",
            "https://concursolutions.com",
            "https://us.api.concursolutions.com.example.net",
            "https://us.api.concursolutions.com.",
            "https://us.api.concursolutions.com:8443",
            "https://user@us.api.concursolutions.com",
            "https://user:pass@us.api.concursolutions.com",
            "https://192.0.2.1",
            "ftp://us.api.concursolutions.com",
            "file:///etc/passwd",
        ] {
            let refused = form.parse::<Geolocation>().expect_err(form);
            assert_eq!(refused.kind(), ErrorKind::Untrusted, "{form}");
        }
    }

    #[test]
    fn a_base_uri_that_is_not_a_url_is_a_config_error() {
        for form in ["us.api.concursolutions.com", "", "https://"] {
            let error = form.parse::<Geolocation>().expect_err(form);
            assert_eq!(error.kind(), ErrorKind::Config, "{form}");
            assert_eq!(
                error.to_string(),
                "the base URI (parsed as a Geolocation) is not a URL; write it like https://glz.api.concursolutions.com"
            );
        }
    }

    #[test]
    fn loopback_is_trusted_only_where_it_is_configured() {
        let configured: Geolocation = "http://127.0.0.1:8080".parse().unwrap();
        assert!(configured.received("http://[::1]:9", "a test").is_ok());
        assert!(configured.received("https://us.api.concursolutions.com", "a test").is_ok());

        let configured: Geolocation = Geolocation::GLZ.parse().unwrap();
        assert!(configured.received("http://127.0.0.1:8080", "a test").is_err());
        assert!(configured.received("https://localhost", "a test").is_err());
    }

    #[test]
    fn a_host_named_by_the_configuration_is_trusted_with_https_only() {
        let named: Arc<[String]> = [String::from("gateway.example.net")].into();
        let configured =
            Geolocation::configured("https://gateway.example.net:8443", "a test", named).unwrap();
        assert!(configured.received("https://gateway.example.net", "a test").is_ok());
        assert!(configured.received("http://gateway.example.net", "a test").is_err());
        assert!(configured.received("https://other.example.net", "a test").is_err());
    }

    #[test]
    fn only_concurs_hosts_have_a_www_host_for_browsers() {
        for (programs, browsers) in [
            ("https://us.api.concursolutions.com", "https://www-us.api.concursolutions.com/"),
            ("https://glz.api.concursolutions.com", "https://www-glz.api.concursolutions.com/"),
            ("https://cn.api.concurcdc.cn", "https://www-cn.api.concurcdc.cn/"),
            ("https://www-us2.api.concursolutions.com", "https://www-us2.api.concursolutions.com/"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("http://localhost", "http://localhost/"),
        ] {
            let programs: Geolocation = programs.parse().unwrap();
            assert_eq!(programs.for_browsers().as_str(), browsers);
        }
        let named: Arc<[String]> = [String::from("gateway.example.net")].into();
        let gateway = Geolocation::configured("https://gateway.example.net", "a test", named).unwrap();
        assert_eq!(gateway.for_browsers(), gateway);
    }

    #[test]
    fn join_stays_on_the_host() {
        let base: Geolocation = "https://us.api.concursolutions.com".parse().unwrap();
        assert_eq!(base.join("/a/b?c=d").unwrap().as_str(), "https://us.api.concursolutions.com/a/b?c=d");
        for away in [
            "https://example.net/",
            "//example.net/x",
            "http://us.api.concursolutions.com/",
            "//user@us.api.concursolutions.com/",
        ] {
            assert_eq!(base.join(away).unwrap_err().kind(), ErrorKind::Untrusted, "{away}");
        }
    }
}
