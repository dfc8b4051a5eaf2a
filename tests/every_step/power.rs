//! The power fails after any call: what was not synced may be on the disk, or not, or half.
//!
//! The disk is a model of what POSIX promises: a file's content is there once the file was synced, and names are there once their folder
//! was, in their order. Each state that the disk can be in is made in a folder, and the real program is run there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
};

use super::{TOKEN, has_strace, held, renewal, scene, stored};
use crate::scene::Scene;

/// What one call does to the disk.
#[derive(Clone, Debug)]
enum Change {
    Create { fd: u32, name: String },
    Open { fd: u32, name: String },
    Write { fd: u32, bytes: Vec<u8> },
    ToStart { fd: u32 },
    Truncate { fd: u32, length: usize },
    Sync { fd: u32 },
    SyncFolder,
    Rename { from: String, to: String },
    Remove { name: String },
}

/// A line of strace, if it changes the disk.
fn change(line: &str, folder: &str) -> Option<Change> {
    let (_, call) = line.split_once(' ')?;
    let (name, arguments) = call.trim_start().split_once('(')?;
    let in_folder = |text: &str| {
        let (_, rest) = text.split_once(&format!("\"{folder}/"))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let fd = || arguments.split(['<', ',']).next()?.parse().ok();
    let is_of_a_file = arguments.contains(&format!("<{folder}/"));
    let result = || line.rsplit_once(" = ")?.1.split(['<', ' ']).next()?.parse().ok();
    Some(match name {
        "openat" if arguments.contains("O_CREAT") => {
            Change::Create { fd: result()?, name: in_folder(arguments)? }
        }
        "openat" => Change::Open { fd: result()?, name: in_folder(arguments)? },
        "write" if is_of_a_file => {
            let (_, text) = arguments.split_once(", \"")?;
            Change::Write { fd: fd()?, bytes: unescaped(text.rsplit_once("\", ")?.0) }
        }
        "lseek" if is_of_a_file => Change::ToStart { fd: fd()? },
        "ftruncate" if is_of_a_file => Change::Truncate {
            fd: fd()?,
            length: arguments.split(", ").nth(1)?.split(')').next()?.parse().ok()?,
        },
        "fsync" if is_of_a_file => Change::Sync { fd: fd()? },
        "fsync" if arguments.contains(&format!("<{folder}>")) => Change::SyncFolder,
        "rename" => {
            let (from, to) = arguments.split_once("\", ")?;
            Change::Rename { from: in_folder(&format!("{from}\""))?, to: in_folder(to)? }
        }
        "unlink" => Change::Remove { name: in_folder(arguments)? },
        _ => return None,
    })
}

/// As strace writes text.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'n') => b'\n',
                Some(byte @ (b'"' | b'\\')) => byte,
                other => panic!("an escape that JSON does not need: {other:?}"),
            },
            byte => byte,
        });
    }
    bytes
}

type Inode = usize;

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    /// When it was synced last.
    synced: Option<Vec<u8>>,
    at: usize,
}

/// What the processor sees, and what the disk has for certain.
#[derive(Clone, Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, Inode>,
    synced_names: BTreeMap<String, Inode>,
    /// The folder after each change since it was synced.
    since: Vec<BTreeMap<String, Inode>>,
    open: HashMap<u32, Inode>,
}

impl Disk {
    /// All of it is synced.
    fn of(scene: &Scene) -> Self {
        let mut disk = Self::default();
        for entry in fs::read_dir(scene.dir.path()).unwrap() {
            let entry = entry.unwrap();
            let now = fs::read(entry.path()).unwrap();
            disk.names.insert(entry.file_name().into_string().unwrap(), disk.files.len());
            disk.files.push(File { synced: Some(now.clone()), now, at: 0 });
        }
        disk.synced_names = disk.names.clone();
        disk
    }

    fn file(&mut self, fd: u32) -> &mut File {
        &mut self.files[self.open[&fd]]
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Create { fd, name } => {
                self.names.insert(name.clone(), self.files.len());
                self.open.insert(*fd, self.files.len());
                self.files.push(File::default());
                self.since.push(self.names.clone());
            }
            Change::Open { fd, name } => _ = self.open.insert(*fd, self.names[name]),
            Change::Write { fd, bytes } => {
                let file = self.file(*fd);
                let end = file.at + bytes.len();
                file.now.resize(file.now.len().max(end), 0);
                file.now[file.at..end].copy_from_slice(bytes);
                file.at = end;
            }
            Change::ToStart { fd } => self.file(*fd).at = 0,
            Change::Truncate { fd, length } => self.file(*fd).now.truncate(*length),
            Change::Sync { fd } => {
                let file = self.file(*fd);
                file.synced = Some(file.now.clone());
            }
            Change::SyncFolder => {
                self.synced_names = self.names.clone();
                self.since.clear();
            }
            Change::Rename { from, to } => {
                let inode = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), inode);
                self.since.push(self.names.clone());
            }
            Change::Remove { name } => {
                self.names.remove(name);
                self.since.push(self.names.clone());
            }
        }
    }

    /// Every folder that may be found after a power cut now.
    fn after_a_power_cut(&self) -> BTreeSet<BTreeMap<String, Vec<u8>>> {
        let mut found = BTreeSet::new();
        for names in self.since.iter().chain([&self.synced_names]) {
            for part in 0..3 {
                let content = |file: &File| match (&file.synced, part) {
                    (Some(synced), _) if *synced == file.now => synced.clone(),
                    (synced, 0) => synced.clone().unwrap_or_default(),
                    (_, 1) => file.now.clone(),
                    // Of what is new, the first half; the rest is as it was, or zeros.
                    (synced, _) => {
                        let mut half = file.now.clone();
                        let middle = half.len() / 2;
                        let before = synced.as_deref().unwrap_or_default();
                        for (i, byte) in half.iter_mut().enumerate().skip(middle) {
                            *byte = before.get(i).copied().unwrap_or(0);
                        }
                        half
                    }
                };
                found.insert(
                    names.iter().map(|(name, inode)| (name.clone(), content(&self.files[*inode]))).collect(),
                );
            }
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_after_any_call_leaves_the_old_token_or_the_new_one() {
    if !has_strace() {
        return;
    }
    let (scene, traces) = (scene().await, tempfile::tempdir().unwrap());
    let trace = traces.path().join("trace");
    let (mut disk, old) = (Disk::of(&scene), stored(&scene));
    let ran = renewal(&scene, &trace, &["--string-limit=300000"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let new = stored(&scene);
    let folder = fs::canonicalize(scene.dir.path()).unwrap().display().to_string();
    let text = fs::read_to_string(&trace).unwrap();
    let changes: Vec<_> = text.lines().filter_map(|line| change(line, &folder)).collect();

    let (mut states, mut with_new) = (0, 0);
    let mut is_saved = false;
    for change in &changes {
        disk.apply(change);
        // The reply's last step.
        let token_file = &disk.files[disk.synced_names[TOKEN]];
        is_saved |=
            token_file.synced.as_ref().is_some_and(|text| String::from_utf8_lossy(text).contains(&new));
        for state in disk.after_a_power_cut() {
            for entry in fs::read_dir(scene.dir.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            for (name, bytes) in &state {
                scene.write_bytes(name, bytes);
            }
            let what = format!("after {change:?}, with {:?}", state.keys());
            let ran = scene.run(&["refresh-token", "--show"]);
            assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
            let found = ran.out.trim();
            assert!(found == new || (found == old && !is_saved), "{what}: {found}");
            with_new += usize::from(found == new);
            states += 1;
        }
    }
    assert!(is_saved && states > 40 && with_new > 5, "{is_saved} {states} {with_new}");
    assert_eq!(scene.concur.token_requests(), 2);
    held(&format!("in {states} states of a disk after a power cut"));
}
