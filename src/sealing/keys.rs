//! The keys that tokens are sealed with, and where they come from.

use std::{env, fmt, path::Path, sync::Arc};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use zeroize::Zeroizing;

use super::{
    Kind, Parts, TokenText, Unusable, VERSION,
    cipher::{KEY_BYTES, Key},
    is_key_id,
};
use crate::{Error, ErrorKind, RefreshTokenObject, files, refresh_token_object::sealed_member, unguessable};

const VARIABLE: &str = "CONCUR_AUTH_SEALING_KEYS";
/// The folder of systemd's `LoadCredential=`.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
const FILE_IN_CREDENTIALS_DIRECTORY: &str = "sealing-keys";

/// Keys are typed and copied: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Keys that seal tokens where they are kept: who reads the file or the table finds ciphertext. Feature `sealing`.
///
/// Tokens are sealed with the first key, and opened with any. Each key has a name, which stands in the sealed text, so that keys
/// can be exchanged: put a new key first, and take the old key away once [no text needs it any more](Self::key_of). Clones are
/// the same keys, which are wiped with the last clone.
///
/// ```
/// use concur_auth::{FolderFleet, SealingKeys};
///
/// // Once: a new key, to be kept where the program finds it, and a backup of the tokens does not.
/// let line = SealingKeys::generate("2026-11")?;
/// assert!(line.starts_with("2026-11:"));
///
/// let keys: SealingKeys = line.parse()?; // or from_env(), or from_file()
/// let store = FolderFleet::new("/var/lib/my-app/tokens").sealed_with(keys);
/// # let _ = store;
/// # Ok::<(), concur_auth::Error>(())
/// ```
///
/// # The sealed text
///
/// `{"sealed":"v1.KEYID.BASE64"}`, another text form of a [`RefreshTokenObject`]. Sealed with AES-256-GCM-SIV (RFC 8452), which
/// stays safe should a random value ever come twice. A text is bound to its place: the text of one company cannot be passed off
/// as that of another.
///
/// # What sealing is for, and what not
///
/// It protects a lost disk, a copied backup, and a table that more people may read than may act for every company. It does not
/// protect from who can read the program's memory, or the keys. SAP's sample program cannot read a sealed file; it would obtain
/// another token and replace the file.
#[derive(Clone)]
pub struct SealingKeys(Arc<[SealingKey]>);

struct SealingKey {
    id: String,
    key: Key,
}

impl SealingKeys {
    /// The keys in the environment variable `CONCUR_AUTH_SEALING_KEYS`, as `id:base64[,…]`; if that is not set, those in the file
    /// `sealing-keys` in `$CREDENTIALS_DIRECTORY`, which systemd sets for a service with `LoadCredential=` or
    /// `LoadCredentialEncrypted=`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when there are none, or one cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        match env::var(VARIABLE).map(Zeroizing::new) {
            Ok(keys) => Self::of_text(&keys).map_err(|what| unusable(VARIABLE, &what)),
            Err(env::VarError::NotUnicode(_)) => Err(unusable(VARIABLE, "it is not UTF-8 text")),
            Err(env::VarError::NotPresent) => match env::var_os(CREDENTIALS_DIRECTORY) {
                Some(folder) => Self::from_file(Path::new(&folder).join(FILE_IN_CREDENTIALS_DIRECTORY)),
                None => {
                    let message = format!(
                        "there are no sealing keys; set {VARIABLE} to id:base64, or give the service a credential \
                         {FILE_IN_CREDENTIALS_DIRECTORY}"
                    );
                    Err(Error::new(ErrorKind::Config, message))
                }
            },
        }
    }

    /// The keys in a file, one in each line, as `id:base64`. Blank lines, and those that begin with `#`, count as none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the file cannot be read, or holds no key, or one that cannot be used.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = files::read(path).map_err(|e| {
            let message = format!(
                "could not read the sealing keys in {name}; check that it is a file this user may read"
            );
            Error::new(ErrorKind::Config, message).caused_by(e)
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|_| unusable(&name, "it is not UTF-8 text"))?;
        Self::of_text(text).map_err(|what| unusable(&name, &what))
    }

    /// A new random key of this name, as `id:base64`: a secret, for the environment variable or the file.
    ///
    /// The same as `echo "id:$(openssl rand -base64 32)"`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the name cannot be one, or the operating system gives no random bytes.
    pub fn generate(id: &str) -> Result<String, Error> {
        if !is_key_id(id) {
            return Err(Error::new(ErrorKind::Config, format!("a sealing key's name {ID_RULE}")));
        }
        let key = Zeroizing::new(unguessable::bytes::<KEY_BYTES>()?);
        Ok(format!("{id}:{}", Zeroizing::new(STANDARD.encode(key.as_slice())).as_str()))
    }

    /// The names of the keys, the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| &*key.id)
    }

    /// The token as sealed text. For a [`TokenStore`](crate::TokenStore) of your own, in place of
    /// [`to_json`](RefreshTokenObject::to_json).
    ///
    /// `place` says whose token it is, as the store knows it, such as the key of its row. Stores of this crate use
    /// `app_id/principal` in a fleet and in PostgreSQL, and nothing in a [`JsonFileStore`](crate::JsonFileStore).
    ///
    /// ```
    /// use concur_auth::{RefreshTokenObject, SealingKeys};
    ///
    /// let keys: SealingKeys = SealingKeys::generate("k")?.parse()?;
    /// let token = RefreshTokenObject::from_json(r#"{"refresh_token": "secret"}"#)?;
    /// let text = keys.seal(&token, "row 1")?;
    /// assert!(text.starts_with(r#"{"sealed":"v1.k."#));
    /// assert_eq!(keys.open(&text, "row 1")?.secret(), "secret");
    /// assert!(keys.open(&text, "row 2").is_err());
    /// # Ok::<(), concur_auth::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the operating system gives no random bytes.
    pub fn seal(&self, token: &RefreshTokenObject, place: &str) -> Result<String, Error> {
        self.seal_text(&token.as_json(), Kind::Token, place)
    }

    /// The token in a text that was sealed for this place, or in JSON that was not sealed. For a
    /// [`TokenStore`](crate::TokenStore) of your own, in place of [`from_json`](RefreshTokenObject::from_json).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] when the text is sealed with a key that is missing here, was sealed for another place, or was changed.
    /// As [`from_json`](RefreshTokenObject::from_json) for any other text.
    pub fn open(&self, text: &str, place: &str) -> Result<RefreshTokenObject, Error> {
        TokenText::sealed(self.clone(), place).token(text.as_bytes()).map_err(|e| match e {
            Unusable::NotAToken(e) => e.into_error(),
            Unusable::Sealed(e) => e,
        })
    }

    /// The name of the key that a text is sealed with; `None` for text that is not sealed. To count what an old key still has.
    ///
    /// ```
    /// use concur_auth::SealingKeys;
    ///
    /// assert_eq!(SealingKeys::key_of(r#"{"sealed":"v1.2026-11.AAAA"}"#).as_deref(), Some("2026-11"));
    /// assert_eq!(SealingKeys::key_of(r#"{"refresh_token": "secret"}"#), None);
    /// ```
    pub fn key_of(text: &str) -> Option<String> {
        let sealed = sealed_member(text.as_bytes())?;
        Parts::of(&sealed).map(|parts| parts.key.to_owned())
    }

    pub(super) fn seal_text(&self, text: &str, kind: Kind, place: &str) -> Result<String, Error> {
        // There is one: a set without keys is not made.
        let SealingKey { id, key } = &self.0[0];
        let content = key.seal(text, &bound_to(kind, id, place))?;
        Ok(format!(r#"{{"sealed":"{VERSION}.{id}.{content}"}}"#))
    }

    pub(super) fn open_text(
        &self,
        id: &str,
        content: &str,
        kind: Kind,
        place: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Some(SealingKey { key, .. }) = self.0.iter().find(|key| key.id == id) else {
            let ours = self.ids().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(", ");
            let message = format!(
                "it is sealed with the key \"{id}\", and the sealing keys here are {ours}; add that key to them"
            );
            return Err(Error::new(ErrorKind::Config, message));
        };
        key.open(content, &bound_to(kind, id, place)).ok_or_else(|| {
            let message = format!(
                "it is sealed, and does not open with the key \"{id}\": that is another key of this name, or the text was changed, \
                 or belongs elsewhere; find the right key, or restore the text, or remove it and sign in again"
            );
            Error::new(ErrorKind::Config, message)
        })
    }

    /// The error says what is wrong, and quotes nothing that may be a key.
    fn of_text(text: &str) -> Result<Self, String> {
        let mut keys: Vec<SealingKey> = Vec::new();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
        for (number, entry) in entries.enumerate() {
            let wrong = |what: &str| format!("key {} {what}", number + 1);
            let (id, secret) = entry.split_once(':').ok_or_else(|| wrong("is not of the form id:base64"))?;
            if !is_key_id(id) {
                return Err(wrong(&format!("has a name that cannot be one; it {ID_RULE}")));
            }
            let bytes = LENIENT.decode(secret).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| wrong(&format!("(\"{id}\") is not base64 text after its name")))?;
            let key = Key::new(&bytes).ok_or_else(|| {
                let length = bytes.len();
                wrong(&format!("(\"{id}\") has {length} bytes; make one of {KEY_BYTES} (openssl rand -base64 {KEY_BYTES})"))
            })?;
            if keys.iter().any(|other| other.id == id) {
                return Err(wrong(&format!("has the same name as another, \"{id}\"; give each its own")));
            }
            keys.push(SealingKey { id: id.to_owned(), key });
        }
        if keys.is_empty() {
            return Err("there is no key; give one as id:base64".to_owned());
        }
        Ok(Self(keys.into()))
    }
}

const ID_RULE: &str = "consists of 1 to 32 ASCII letters, digits, hyphens and underscores";

/// The keys in a text, as `id:base64`, separated by commas or line ends.
impl std::str::FromStr for SealingKeys {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::of_text(text).map_err(|what| unusable("the text of the sealing keys", &what))
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKeys").field(&self.ids().collect::<Vec<_>>()).finish()
    }
}

/// What a sealed text is authenticated together with. No key's name has a zero byte.
fn bound_to(kind: Kind, id: &str, place: &str) -> Vec<u8> {
    let kind = match kind {
        Kind::Token => "token",
        Kind::Note => "note",
    };
    format!("concur-auth {VERSION} {kind}\0{id}\0{place}").into_bytes()
}

fn unusable(whose: &str, what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{whose}: {what}"))
}
