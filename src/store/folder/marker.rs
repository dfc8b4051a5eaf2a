//! `fleet.json`: which app's tokens are in a folder, and how the folder is laid out.
//!
//! Always: the file appears whole, and is never changed after that.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    Error, ErrorKind,
    files::{self, TempFile},
    shown,
    store::file_failure::{could_not, read_if_there},
};

const FORMAT: u64 = 1;
const NAME: &str = "fleet.json";

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u64,
    #[serde(rename = "appID", default)]
    app_id: String,
}

/// Makes folder and file, unless they are there. An error if the folder belongs to another app, or has another format.
pub(super) fn make(place: &Path, app_id: &str) -> Result<(), Error> {
    if check(place, app_id)? {
        return Ok(());
    }
    files::create_private_folder(place)
        .map_err(|e| could_not("make the folder", place, "make the folder that it is to be in", e))?;
    let path = place.join(NAME);
    match publish(&path, app_id) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(could_not("write", &path, "check that this user can create files there", e))
        }
        // Another process may have been faster.
        _ => check(place, app_id).map(drop),
    }
}

/// Whether the file is there. An error if the folder belongs to another app, or has another format.
pub(super) fn check(place: &Path, app_id: &str) -> Result<bool, Error> {
    let path = place.join(NAME);
    let Some(json) = read_if_there(&path)? else { return Ok(false) };
    let wrong = |what: &dyn fmt::Display| {
        Error::new(ErrorKind::Config, format!("{}: {what}; nothing was changed", path.display()))
    };
    let Ok(marker) = serde_json::from_slice::<Marker>(&json) else {
        let whole = as_json(app_id);
        return Err(wrong(&format_args!(
            "the file does not say which app's tokens are in the folder; if they are those of app {app_id}, make its content \
             {whole}, otherwise name another folder"
        )));
    };
    if marker.format != FORMAT {
        return Err(wrong(&format_args!(
            "the folder has format {}, and this version of concur-auth knows format {FORMAT}; use the version that made the \
             folder, or name another folder",
            marker.format
        )));
    }
    if marker.app_id != app_id {
        let theirs =
            shown::uuid(Some(&marker.app_id)).map_or("another app".to_owned(), |id| format!("app {id}"));
        return Err(wrong(&format_args!(
            "the tokens in the folder are those of {theirs}, not of app {app_id}; give each app a folder of its own"
        )));
    }
    Ok(true)
}

fn publish(path: &Path, app_id: &str) -> io::Result<()> {
    let mut temp = TempFile::create(path)?;
    temp.write(format!("{}\n", as_json(app_id)).as_bytes())?;
    temp.publish_new()
}

fn as_json(app_id: &str) -> String {
    // As a program writes JSON for a person.
    let app_id = serde_json::Value::from(app_id);
    format!("{{\"format\": {FORMAT}, \"appID\": {app_id}}}")
}
