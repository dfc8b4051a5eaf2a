//! Who may ask: checked before any route.
//!
//! Always: a browser gets nothing, and over loopback nothing is answered without the key.

use std::{fs, io, path::Path, sync::Arc};

use hyper::{
    HeaderMap, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, ORIGIN, TRANSFER_ENCODING, UPGRADE},
};

use crate::{
    failure::{Failure, Outcome},
    say,
};

/// The shortest key that is accepted, in bytes.
const SHORTEST_KEY: usize = 16;

/// Through which listener a request comes.
pub(crate) enum Door {
    /// A Unix socket, which only the processes of some users can open.
    #[cfg(unix)]
    Socket,
    /// A loopback address, which every process and every browser of the machine can reach.
    Loopback { address: String, key: Key },
}

/// What requests over loopback must show.
#[derive(Clone)]
pub(crate) struct Key(Arc<str>);

impl Key {
    /// For the target in `fuzz/`.
    #[cfg(fuzzing)]
    pub(crate) fn given(key: &str) -> Self {
        Self(key.into())
    }

    /// The key in a file, which is made if it is absent.
    pub(crate) fn in_file(path: &Path, mode: u32) -> Outcome<Self> {
        let cannot =
            |what: &str, e: &io::Error| Failure::io(format_args!("could not {what} {}", path.display()), e);
        match fs::read_to_string(path) {
            Ok(text) if text.trim().len() < SHORTEST_KEY => Err(Failure::Other(format!(
                "the key in {} has fewer than {SHORTEST_KEY} characters; remove the file, and a key is made",
                path.display()
            ))),
            Ok(text) => Ok(Self(text.trim().into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut random = [0; 32];
                getrandom::fill(&mut random).map_err(|e| Failure::Other(format!("no random bytes: {e}")))?;
                let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                match made(path, mode, &key) {
                    Ok(()) => Ok(Self(key.into())),
                    // Another process was faster.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match fs::read_to_string(path) {
                        Ok(text) => Ok(Self(text.trim().into())),
                        Err(e) => Err(cannot("read", &e)),
                    },
                    Err(e) => Err(cannot("make", &e)),
                }
            }
            Err(e) => Err(cannot("read", &e)),
        }
    }

    fn is(&self, shown: &[u8]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), shown).is_ok()
    }
}

/// Makes the file whole: a client that finds it finds all of the key.
fn made(path: &Path, mode: u32, key: &str) -> io::Result<()> {
    use std::io::Write as _;

    let mut name = path.as_os_str().to_owned();
    // A process that was killed may have had the same number.
    name.push(format!(".tmp-{}-{}", std::process::id(), say::now().unix_timestamp_nanos()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&name)?;
    let finished =
        writeln!(file, "{key}").and_then(|()| with_mode(&file, mode)).and_then(|()| file.sync_all());
    // Not over a file that another process has made meanwhile.
    let linked = finished.and_then(|()| fs::hard_link(&name, path));
    fs::remove_file(&name)?;
    linked
}

#[cfg(unix)]
fn with_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn with_mode(_: &fs::File, _: u32) -> io::Result<()> {
    Ok(())
}

impl Door {
    /// Whether the request may come in; otherwise why not.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), (StatusCode, &'static str)> {
        let headers = request.headers();
        let has = |name: HeaderName| headers.contains_key(name);
        if request.method() == Method::CONNECT || has(UPGRADE) || names_upgrade(headers) {
            return Err((StatusCode::FORBIDDEN, "connections are not upgraded or tunnelled here"));
        }
        if has(ORIGIN) {
            return Err((StatusCode::FORBIDDEN, "this is not for browsers"));
        }
        let codings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
        if !codings.is_empty()
            && !matches!(codings[..], [coding] if coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        {
            return Err((StatusCode::NOT_IMPLEMENTED, "the only transfer coding here is `chunked`"));
        }
        // A request target with a host of its own would make the header meaningless.
        if request.uri().authority().is_some() {
            return Err((StatusCode::BAD_REQUEST, "write the path alone into the request line"));
        }
        let (address, key) = match self {
            #[cfg(unix)]
            Self::Socket => return Ok(()),
            Self::Loopback { address, key } => (address, key),
        };
        let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
        if !matches!(hosts[..], [host] if host.as_bytes() == address.as_bytes()) {
            return Err((StatusCode::FORBIDDEN, "the Host is not the address that is listened on"));
        }
        let mut shown = headers
            .get_all(AUTHORIZATION)
            .iter()
            .filter_map(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match shown.next() {
            Some(shown) if key.is(shown) => Ok(()),
            _ => Err((StatusCode::UNAUTHORIZED, "show the key: Authorization: Bearer KEY")),
        }
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let named =
        headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    named.into_iter().any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}
