//! Tokens that the database did not take, on the local disk until it takes them.
//!
//! ```text
//! FOLDER/ROW.SAVE_ID.spooled      one save
//! ```
//!
//! In it is whose token it is, what the save starts from, and the token's text as it would be in the row.
//!
//! ROW is a hash of whose token it is, so that a file that cannot be read keeps that row, and no other, from being used.
//!
//! Always:
//! - A file is complete and synced, and is removed only once its save is done, or the row is certain to have gone on from there. So it
//!   does no harm if two processes save one file, or a process dies at any step.
//! - No stored token is presented while a file of its row may hold the token's successor.

#[cfg(fuzzing)]
pub(super) mod fuzzing;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    database::Database,
    row::{AtRest, Base, Ending, Now, ToSave, TokenRow, reason_against},
};
use crate::{
    Error, ErrorKind, RefreshTokenObject,
    caught::locked,
    files::{self, TempFile},
    log,
    sealing::Unusable,
    store::file_failure::{could_not, read_if_there},
};

const FORMAT: u64 = 1;
const EXTENSION: &str = "spooled";

/// A folder of the local disk.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: Arc<Path>,
    /// What the log says already.
    told: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// Whose token a file holds, as far as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowHash(u64);

impl RowHash {
    /// FNV-1a: the same in every program, whatever built it.
    pub(super) fn of(app_id: &str, principal: &str) -> Self {
        let bytes = app_id.bytes().chain([0xff]).chain(principal.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash)
    }
}

/// One save.
#[derive(Serialize, Deserialize)]
pub(super) struct Spooled {
    format: u64,
    /// Database and server in words.
    database: String,
    app_id: String,
    principal: String,
    save_id: String,
    base: Base,
    /// Of a sign-in: its number. Otherwise the token was renewed from the base.
    sign_in: Option<i64>,
    /// Who held the lease.
    holder: String,
    /// Sealed, where the row is.
    token: Zeroizing<String>,
}

/// What the row says of a save that waits.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    /// The row may be what the save starts from: the save itself compares again.
    ToBeSaved,
    /// Another token has been stored since, or the tokens were revoked.
    Superseded,
    /// It is another row, or it is not there.
    Unknown,
}

impl Spooled {
    pub(super) fn new(
        row: &TokenRow,
        to_save: ToSave<'_>,
        sign_in: Option<i64>,
        holder: &str,
    ) -> Result<Self, Error> {
        Ok(Self {
            format: FORMAT,
            database: row.database.describe(),
            app_id: row.app_id.clone(),
            principal: row.principal.clone(),
            save_id: to_save.save_id.to_owned(),
            base: to_save.base.clone(),
            sign_in,
            holder: holder.to_owned(),
            token: Zeroizing::new(row.text().of(to_save.token)?.to_string()),
        })
    }

    fn is_of(&self, app_id: &str, principal: &str) -> bool {
        self.app_id == app_id && self.principal == principal
    }

    /// Save ids are random, and the numbers of sign-ins are microseconds, so they also tell that it is the same database, whatever
    /// name it has by now. Only of the database of the same name it is concluded that the row has gone on.
    fn verdict(&self, now: Option<&Now>, database: &str) -> Verdict {
        let Some(Now { base: now, has_token }) = now else { return Verdict::Unknown };
        if now.save_id.as_ref() == Some(&self.save_id) {
            return Verdict::Done;
        }
        let has_not_changed = now.version == self.base.version;
        let is_base = now.sign_in == self.base.sign_in
            && match self.sign_in {
                Some(_) => *has_token || has_not_changed,
                None => now.save_id == self.base.save_id && (now.save_id.is_some() || has_not_changed),
            };
        if is_base {
            Verdict::ToBeSaved
        } else if database != self.database {
            Verdict::Unknown
        } else if now.version > self.base.version || now.sign_in > self.base.sign_in {
            Verdict::Superseded
        } else {
            // A restore has brought back what was stored before.
            Verdict::ToBeSaved
        }
    }
}

impl Spool {
    pub(super) fn new(folder: &Path) -> Self {
        // Absolute, so that errors name a place that can be found.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Self { folder: folder.into(), told: Arc::default() }
    }

    pub(super) fn add(&self, spooled: &Spooled) -> Result<PathBuf, Error> {
        let path = self.path_of(RowHash::of(&spooled.app_id, &spooled.principal), &spooled.save_id);
        let write = || {
            files::create_private_folder(&self.folder)?;
            // Sized beforehand: a growing buffer would leave unwiped copies behind.
            let mut text = Zeroizing::new(Vec::with_capacity(2 * spooled.token.len() + 1024));
            serde_json::to_writer(&mut *text, spooled)?;
            let mut temp = TempFile::create(&path)?;
            temp.write(&text)?;
            // Complete: as good as the file that it becomes.
            temp.keep();
            temp.rename()?;
            files::sync_folder(&self.folder)
        };
        write().map_err(|e| could_not("write", &path, ADVICE, e))?;
        Ok(path)
    }

    /// Once the save is done, or superseded.
    pub(super) fn remove(&self, row: &TokenRow, save_id: &str) {
        remove(&self.path_of(row.hash(), save_id));
    }

    /// Saves what is here of this row. After an error nothing may be done with the token that is stored.
    pub(super) async fn save_of(&self, row: &TokenRow) -> Result<(), Error> {
        self.try_out();
        for path in self.list(Some(row.hash()))? {
            match read(&path)? {
                Some(spooled) if spooled.is_of(&row.app_id, &row.principal) => {
                    self.save(&path, &spooled, row).await?
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Saves what is here of any row: the process that was to save it may have gone. What cannot be saved stays.
    pub(super) async fn save_all(&self, database: &Arc<Database>, at_rest: &AtRest) -> Result<(), Error> {
        self.try_out();
        for path in self.list(None)? {
            let saved = async {
                let Some(spooled) = read(&path)? else { return Ok(()) };
                let (app_id, principal) = (spooled.app_id.clone(), spooled.principal.clone());
                let row = TokenRow::new(Arc::clone(database), app_id, principal, at_rest.clone());
                self.save(&path, &spooled, &row).await
            };
            if let Err(error) = saved.await {
                self.tell(&path, &error);
                // The database is out of reach for the rest, too.
                if error.is_transient() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Of which rows there are files.
    pub(super) fn waiting(&self) -> Result<BTreeSet<RowHash>, Error> {
        Ok(self.list(None)?.iter().filter_map(|path| parts(path)).map(|(row, _)| row).collect())
    }

    /// Of each token that waits: which key has sealed it.
    #[cfg(feature = "sealing")]
    pub(super) fn sealing_keys(&self) -> Result<Vec<Option<String>>, Error> {
        let spooled = self.list(None)?.into_iter().filter_map(|path| read(&path).transpose());
        spooled.map(|spooled| Ok(crate::SealingKeys::key_of(&spooled?.token))).collect()
    }

    /// First the row is compared, then the text is opened: what is done needs no key.
    async fn save(&self, path: &Path, spooled: &Spooled, row: &TokenRow) -> Result<(), Error> {
        let name = row.database.describe();
        let mut verdict = spooled.verdict(row.now().await?.as_ref(), &name);
        if verdict == Verdict::ToBeSaved {
            save_in(path, row, spooled).await?;
            verdict = spooled.verdict(row.now().await?.as_ref(), &name);
        }
        let (file, store) = (path.display(), row);
        match verdict {
            Verdict::Done => log::event!(info, %file, %store, "a token that waited on the disk is saved"),
            Verdict::Superseded => {
                log::event!(info, %file, %store, "a token that waited on the disk has been replaced by a newer one");
            }
            Verdict::ToBeSaved | Verdict::Unknown => {
                let message = format!(
                    "{store} is not what the token in {file} was renewed from in {}: it is another database, or the row was deleted, or \
                     restored; if the token is of no use, move the file away",
                    spooled.database
                );
                self.tell(path, &Error::new(ErrorKind::Config, message));
                return Ok(());
            }
        }
        remove(path);
        locked(&self.told).remove(path);
        Ok(())
    }

    /// Once for each file.
    fn tell(&self, path: &Path, error: &Error) {
        if locked(&self.told).insert(path.to_owned()) {
            let (file, cause) = (path.display(), log::causes(error));
            log::event!(warn, %file, %error, cause, "a token that waits on the disk could not be saved");
        }
    }

    /// Once: an outage is too late to find out that the folder cannot be used.
    fn try_out(&self) {
        if !locked(&self.told).insert(self.folder.to_path_buf()) {
            return;
        }
        // Always the same file, so that processes that are killed meanwhile leave one at most.
        let file = self.folder.join("try");
        let tried = files::create_private_folder(&self.folder)
            .and_then(|()| fs::File::create(&file))
            .and_then(|_| files::remove_if_there(&file));
        if let Err(e) = tried {
            let error = could_not("write in the spool folder", &self.folder, ADVICE, e);
            log::event!(error, %error, "a token that the database does not take would be in memory only");
        }
    }

    /// The files, of one row or all, temporary ones included: a complete one is the only copy of its token.
    fn list(&self, of: Option<RowHash>) -> Result<Vec<PathBuf>, Error> {
        let paths = files::if_there(files::paths_in(&self.folder));
        let paths = paths
            .map_err(|e| could_not("read the folder", &self.folder, "check that this user may read it", e))?;
        let mut paths = paths.unwrap_or_default();
        paths.retain(|path| parts(path).is_some_and(|(row, _)| of.is_none_or(|of| of == row)));
        Ok(paths)
    }

    fn path_of(&self, row: RowHash, save_id: &str) -> PathBuf {
        self.folder.join(format!("{:016x}.{save_id}.{EXTENSION}", row.0))
    }
}

const ADVICE: &str = "check that this user can create files there, and that the disk has room";

/// Whose file it is, and whether it is a temporary one; `None` for a file of another name.
fn parts(path: &Path) -> Option<(RowHash, bool)> {
    let mut parts = path.file_name()?.to_str()?.splitn(4, '.');
    let (row, save_id, extension, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    let is_hexadecimal = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_temporary = rest.is_some_and(|rest| format!(".{rest}").starts_with(TempFile::INFIX));
    let is_ours = is_hexadecimal(row, 16)
        && is_hexadecimal(save_id, 32)
        && extension == EXTENSION
        && (rest.is_none() || is_temporary);
    let row = RowHash(u64::from_str_radix(row, 16).ok()?);
    is_ours.then_some((row, is_temporary))
}

async fn save_in(path: &Path, row: &TokenRow, spooled: &Spooled) -> Result<(), Error> {
    let token = token_in(path, row, &spooled.token)?;
    let to_save = ToSave { token: &token, save_id: &spooled.save_id, base: &spooled.base };
    match spooled.sign_in {
        Some(sign_in) => row.replace(to_save, sign_in, reason_against(&token, None)).await?,
        None => row.save(to_save, Ending { holder: &spooled.holder, last: None }).await?,
    };
    row.release(&spooled.holder).await
}

fn token_in(path: &Path, row: &TokenRow, text: &str) -> Result<RefreshTokenObject, Error> {
    let path = path.display();
    row.text().token(text.as_bytes()).map_err(|e| match e {
        Unusable::NotAToken(e) => {
            let message = format!("{path} holds no refresh token object; move the file away");
            Error::new(ErrorKind::Config, message).caused_by(e)
        }
        Unusable::Sealed(e) => {
            let what = e.message();
            let message = format!(
                "could not read the token that waits in {path}: {what}; moved away, it blocks nothing"
            );
            Error::new(e.kind(), message)
        }
    })
}

/// `None` for a file that is gone by now, or that another process is just writing.
fn read(path: &Path) -> Result<Option<Spooled>, Error> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    match serde_json::from_slice::<Spooled>(&text) {
        Ok(spooled) if spooled.format == FORMAT => Ok(Some(spooled)),
        _ if parts(path).is_some_and(|(_, is_temporary)| is_temporary) => Ok(None),
        _ => {
            let message = format!(
                "{} is not what this version of concur-auth writes; use the version that wrote it, or move it away",
                path.display()
            );
            Err(Error::new(ErrorKind::Config, message))
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = files::remove_if_there(path) {
        let file = path.display();
        log::event!(warn, %file, %error, "could not remove a file whose token is saved; it does no harm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(save_id: Option<&str>, version: i64, sign_in: i64) -> Base {
        Base { save_id: save_id.map(str::to_owned), version, sign_in }
    }

    fn spooled(base: Base, sign_in: Option<i64>) -> Spooled {
        let [database, app_id, principal, save_id, holder, token] =
            ["here", "app", "company", "ours", "h", "t"].map(str::to_owned);
        let token = Zeroizing::new(token);
        Spooled { format: FORMAT, database, app_id, principal, save_id, base, sign_in, holder, token }
    }

    /// What the log hears of it.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = std::sync::Mutex::new(writer);
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, work);
        std::io::read_to_string(reader).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told_of_once_and_one_that_can_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("spool"), dir.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        // Left by a process that was killed.
        fs::write(folder.join("try"), "").unwrap();
        assert_eq!(logged(|| Spool::new(&folder).try_out()), [""; 0]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::create_dir(folder.join("try")).unwrap();
        for folder in [&folder, &file, &dir.path().join("missing").join("spool")] {
            let spool = Spool::new(folder);
            let told = logged(|| (0..3).for_each(|_| spool.try_out()));
            assert!(told.len() == 1 && told[0].contains("could not write in the spool folder"), "{told:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_saved_is_told_of_once() {
        let spool = Spool::new(Path::new("spool"));
        let error = Error::new(ErrorKind::Config, "why");
        let told =
            logged(|| ["a", "b", "a", "b"].iter().for_each(|path| spool.tell(Path::new(path), &error)));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("could not be saved") && told[0].contains("file=a error=why"), "{told:?}");
    }

    #[test]
    fn only_names_that_are_made_here_are_those_of_spooled_tokens() {
        let (row, save_id) = ("0123456789abcdef", "0123456789abcdef0123456789abcdef");
        for (name, is_temporary) in [
            (format!("{row}.{save_id}.spooled"), Some(false)),
            (format!("{row}.{save_id}.spooled.tmp-0123456789abcdef"), Some(true)),
            (format!("{row}.{save_id}.spooled.bak"), None),
            (format!("{row}.{save_id}.saved"), None),
            (format!("{row}.{save_id}"), None),
            (format!("{row}.{}g.spooled", &save_id[1..]), None),
            (format!("{row}.{}.spooled", &save_id[1..]), None),
            (format!("{}.{save_id}.spooled", &row[1..]), None),
            (format!("{}.{save_id}.spooled", row.to_uppercase()), None),
            ("README".to_owned(), None),
        ] {
            let found = parts(Path::new(&name)).map(|(_, is_temporary)| is_temporary);
            assert_eq!(found, is_temporary, "{name}");
        }
    }

    #[test]
    fn what_is_no_spooled_token_is_an_error_unless_it_is_just_written() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("{:016x}.{}.spooled", 1, "0".repeat(32));
        let complete = dir.path().join(&name);
        let temporary = dir.path().join(name + ".tmp-0123456789abcdef");
        let whole = serde_json::to_string(&spooled(base(None, 0, 0), None)).unwrap();
        let later = whole.replace(r#""format":1"#, r#""format":2"#);
        assert_ne!(whole, later);
        for path in [&complete, &temporary] {
            assert!(read(path).unwrap().is_none());
            fs::write(path, &whole).unwrap();
            assert!(read(path).unwrap().is_some());
        }
        for text in [&whole[1..], &later] {
            fs::write(&complete, text).unwrap();
            fs::write(&temporary, text).unwrap();
            assert!(read(&temporary).unwrap().is_none());
            let error = read(&complete).err().unwrap();
            assert!(error.to_string().contains("is not what this version of concur-auth writes"), "{error}");
        }
        read(dir.path()).err().unwrap();
    }

    #[test]
    fn a_file_is_of_the_row_of_its_app_and_principal() {
        let spooled = spooled(base(None, 0, 0), None);
        assert!(spooled.is_of("app", "company"));
        assert!(!spooled.is_of("app", "another") && !spooled.is_of("another", "company"));
    }

    /// Where two rows have the same hash: their names are compared before the database is asked, which is not there.
    #[tokio::test]
    async fn a_file_of_another_row_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path());
        let database = Arc::new(Database::new("postgres://app@localhost:1/concur").unwrap());
        let [ours, theirs] = ["company", "another"].map(|principal| {
            let (app_id, principal) = ("app".to_owned(), principal.to_owned());
            TokenRow::new(Arc::clone(&database), app_id, principal, AtRest::default())
        });
        let text = serde_json::to_string(&spooled(base(None, 0, 0), None)).unwrap();
        for row in [&ours, &theirs] {
            fs::write(spool.path_of(row.hash(), &"0".repeat(32)), &text).unwrap();
        }
        spool.save_of(&theirs).await.unwrap();
        assert_eq!(spool.save_of(&ours).await.unwrap_err().kind(), ErrorKind::Store);
        assert_eq!(spool.list(None).unwrap().len(), 2);
    }

    /// And what another process is just writing is left to it.
    #[tokio::test]
    async fn where_the_database_is_out_of_reach_the_rest_is_not_tried() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path());
        let database = Arc::new(Database::new("postgres://app@localhost:1/concur").unwrap());
        let text = serde_json::to_string(&spooled(base(None, 0, 0), None)).unwrap();
        let path = |row| spool.path_of(RowHash(row), &"0".repeat(32));
        fs::write(files::beside(&path(1), ".tmp-0123456789abcdef"), "{").unwrap();
        for row in [2, 3] {
            fs::write(path(row), &text).unwrap();
        }
        spool.save_all(&database, &AtRest::default()).await.unwrap();
        let told: Vec<_> = locked(&spool.told).iter().cloned().collect();
        assert_eq!(told, [dir.path().to_owned(), path(2)]);
        assert_eq!(spool.list(None).unwrap().len(), 3);
        let row = TokenRow::new(database, "app".to_owned(), "company".to_owned(), AtRest::default());
        let error = token_in(Path::new("file"), &row, "{}").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.to_string(), "file holds no refresh token object; move the file away");
        // A folder is not removed like a file.
        let told = logged(|| remove(dir.path()));
        assert!(
            told.len() == 1 && told[0].contains("could not remove a file whose token is saved"),
            "{told:?}"
        );
    }

    #[test]
    fn what_a_row_says_of_a_save_that_waits() {
        use Verdict::{Done, Superseded, ToBeSaved, Unknown};
        let before = || base(Some("before"), 5, 7);
        // From what and with which sign-in the save was made; what the row is now, and whether it has a token; here, and in a
        // database of another name.
        for (from, sign_in, now, has_token, here, elsewhere) in [
            (before(), None, base(Some("ours"), 6, 7), true, Done, Done),
            (before(), None, base(Some("before"), 5, 7), true, ToBeSaved, ToBeSaved),
            // Only a note was written.
            (before(), None, base(Some("before"), 6, 7), true, ToBeSaved, ToBeSaved),
            (before(), None, base(Some("later"), 6, 7), true, Superseded, Unknown),
            (before(), None, base(Some("later"), 5, 8), true, Superseded, Unknown),
            // Of a restored database, and of one in which others have worked.
            (before(), None, base(Some("earlier"), 4, 7), true, ToBeSaved, Unknown),
            (before(), None, base(Some("earlier"), 5, 6), true, ToBeSaved, Unknown),
            (before(), None, base(Some("earlier"), 5, 7), true, ToBeSaved, Unknown),
            // The first token of all.
            (base(None, 5, 7), None, base(None, 5, 7), false, ToBeSaved, ToBeSaved),
            (base(None, 5, 7), None, base(None, 6, 7), false, Superseded, Unknown),
            // A sign-in counts whatever was renewed meanwhile, but nothing comes back after a revocation.
            (before(), Some(8), base(Some("later"), 6, 7), true, ToBeSaved, ToBeSaved),
            (before(), Some(8), base(Some("later"), 6, 9), true, Superseded, Unknown),
            (before(), Some(8), base(None, 6, 7), false, Superseded, Unknown),
            (base(None, 5, 7), Some(8), base(None, 5, 7), false, ToBeSaved, ToBeSaved),
        ] {
            let what = format!("{from:?}, sign-in {sign_in:?}, now {now:?}");
            let (spooled, now) = (spooled(from, sign_in), Now { base: now, has_token });
            assert_eq!(spooled.verdict(Some(&now), "here"), here, "{what}");
            assert_eq!(spooled.verdict(Some(&now), "elsewhere"), elsewhere, "{what}");
            assert_eq!(spooled.verdict(None, "here"), Unknown, "{what}");
        }
    }
}
