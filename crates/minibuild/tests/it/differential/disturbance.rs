//! What is done behind minibuild's back between two builds: outputs, state and stores are changed, cut or removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use minibuild_testkit::{Random, Workspace};

use super::definition::TargetDefinition;
use super::sources::{WriteManner, write_file};

/// Where a link leads that takes an output's place.
pub const FOREIGN_LINK: &str = "../../../rules.toml";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    RemoveOutput,
    OverwriteOutput,
    /// Another byte, the old length and the old times.
    OverwriteOutputUnseen,
    MakeOutputWritable,
    OutputBecomesDirectory,
    OutputBecomesLink,
    RemoveTreeEntry,
    AddTreeEntry,
    RemovePackageOutputs,
    RemoveAllOutputs,
    CutState,
    DamageState,
    RemoveState,
    RemoveSnapshots,
    ThinLocalStore,
    DamageLocalStore,
    ThinDiskCache,
    DamageDiskCache,
    Clean,
    CleanAll,
}

/// Each, as often as it is to be likely.
const DISTURBANCES: &[Disturbance] = &[
    Disturbance::RemoveOutput,
    Disturbance::RemoveOutput,
    Disturbance::RemoveOutput,
    Disturbance::RemoveOutput,
    Disturbance::OverwriteOutput,
    Disturbance::OverwriteOutputUnseen,
    Disturbance::OverwriteOutputUnseen,
    Disturbance::MakeOutputWritable,
    Disturbance::OutputBecomesDirectory,
    Disturbance::OutputBecomesLink,
    Disturbance::RemoveTreeEntry,
    Disturbance::AddTreeEntry,
    Disturbance::RemovePackageOutputs,
    Disturbance::RemoveAllOutputs,
    Disturbance::CutState,
    Disturbance::CutState,
    Disturbance::DamageState,
    Disturbance::RemoveState,
    Disturbance::RemoveSnapshots,
    Disturbance::ThinLocalStore,
    Disturbance::ThinLocalStore,
    Disturbance::DamageLocalStore,
    Disturbance::ThinDiskCache,
    Disturbance::ThinDiskCache,
    Disturbance::DamageDiskCache,
    Disturbance::Clean,
    Disturbance::CleanAll,
];

pub fn random_disturbance(random: &mut Random) -> Disturbance {
    DISTURBANCES[random.below(DISTURBANCES.len())]
}

impl Disturbance {
    /// Does it; says to what. Places of targets that are no longer declared are left alone: what is laid there is not known to be
    /// an output.
    pub fn strike(
        self,
        ws: &Workspace,
        disk_cache: &Path,
        targets: &[TargetDefinition],
        is_declared: impl Fn(usize) -> bool,
        random: &mut Random,
    ) -> String {
        let target = &targets[random.below(targets.len())];
        let outputs = target.outputs();
        let output = outputs.get(random.below(2) % outputs.len().max(1)).map(|path| ws.path(path));
        let state = ws.path("minibuild-out/.state");
        match self {
            Self::Clean => drop(ws.run(&["clean"]).ok()),
            Self::CleanAll => drop(ws.run(&["clean", "--all"]).ok()),
            Self::RemoveAllOutputs => remove(&ws.path("minibuild-out/bin")),
            Self::RemovePackageOutputs => remove(&ws.path(&format!("minibuild-out/bin/p{}", target.package))),
            Self::CutState => change_state_file(&state, random, cut),
            Self::DamageState => change_state_file(&state, random, |bytes, place| damage(bytes, place)),
            Self::RemoveState => remove_state(&state),
            Self::RemoveSnapshots => snapshots(&state).iter().for_each(|path| remove(path)),
            Self::ThinLocalStore => thin(&state.join("store"), random),
            Self::DamageLocalStore => damage_some(&state.join("store"), random),
            Self::ThinDiskCache => thin(disk_cache, random),
            Self::DamageDiskCache => damage_some(disk_cache, random),
            _ => {
                if let Some(output) = output.as_ref().filter(|_| is_declared(target.number)) {
                    self.strike_output(output, random);
                }
                return format!("{self:?} {}", outputs.join(" "));
            }
        }
        format!("{self:?}")
    }

    fn strike_output(self, output: &Path, random: &mut Random) {
        let is_file = fs::symlink_metadata(output).is_ok_and(|metadata| metadata.is_file());
        match self {
            Self::RemoveOutput => remove(output),
            Self::OverwriteOutput | Self::OverwriteOutputUnseen if is_file => {
                set_mode(output, 0o644);
                let mut bytes = fs::read(output).unwrap_or_default();
                bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                let is_unseen = self == Self::OverwriteOutputUnseen;
                let manner = if is_unseen { WriteManner::OldTimes } else { WriteManner::InPlace };
                write_file(output, &String::from_utf8_lossy(&bytes), manner, false);
            }
            Self::MakeOutputWritable if is_file => set_mode(output, 0o666),
            Self::OutputBecomesDirectory => {
                remove(output);
                let _ = fs::create_dir_all(output.join("surprise"));
            }
            Self::OutputBecomesLink if output.parent().is_some_and(Path::exists) => {
                remove(output);
                let _ = std::os::unix::fs::symlink(FOREIGN_LINK, output);
            }
            Self::RemoveTreeEntry => remove(&output.join(["first", "empty", "sub", "link"][random.below(4)])),
            Self::AddTreeEntry if output.is_dir() => drop(fs::write(output.join("added"), "added\n")),
            _ => {}
        }
    }
}

/// Removes whatever is there.
pub fn remove(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        let _ = fs::remove_dir_all(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

fn set_mode(path: &Path, mode: u32) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}

/// The logs and snapshots of the state, sorted.
fn state_files(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| !path.ends_with("lock"));
    files.sort();
    files
}

fn snapshots(state: &Path) -> Vec<PathBuf> {
    let mut files = state_files(state);
    files.retain(|path| path.to_string_lossy().contains("snapshot"));
    files
}

fn remove_state(state: &Path) {
    state_files(state).iter().for_each(|path| remove(path));
}

fn change_state_file(state: &Path, random: &mut Random, change: fn(&mut Vec<u8>, usize)) {
    let files = state_files(state);
    let (which, place) = (random.below(1000), random.below(1 << 20));
    let Some(path) = files.get(which % files.len().max(1)) else { return };
    let Ok(mut bytes) = fs::read(path) else { return };
    change(&mut bytes, place);
    let _ = fs::write(path, bytes);
}

fn cut(bytes: &mut Vec<u8>, place: usize) {
    bytes.truncate(place % bytes.len().max(1));
}

fn damage(bytes: &mut [u8], place: usize) {
    let length = bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(place % length) {
        *byte ^= 0x55;
    }
}

/// All files of a store but its bookkeeping, sorted.
fn blobs(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                pending.push(entry.path());
            } else if entry.file_name().len() > 40 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Removes about a third of a store's blobs and results.
pub fn thin(root: &Path, random: &mut Random) {
    for path in blobs(root) {
        if random.below(3) == 0 {
            remove(&path);
        }
    }
}

/// Changes a byte of about a fifth of a store's blobs and results.
fn damage_some(root: &Path, random: &mut Random) {
    for path in blobs(root) {
        if random.below(5) == 0
            && let Ok(mut bytes) = fs::read(&path)
        {
            damage(&mut bytes, random.below(1000));
            set_mode(&path, 0o644);
            let _ = fs::write(&path, bytes);
        }
    }
}
