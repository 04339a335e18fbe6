// SPDX-License-Identifier: MIT OR Apache-2.0
//! What boxes need from the machine they run on, and how they are cleaned up.
//!
//! Neither machined nor a systemd as PID 1 is needed: root, systemd-nspawn and
//! a writable cgroup file system (v2, or v1 with `name=systemd`) are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{helper, is_installed};

/// This machine and this run of the tests.
#[derive(Debug)]
pub struct Host {
    cache: PathBuf,
    deb: PathBuf,
    /// Where cgroups are made: one directory in each hierarchy that nspawn uses.
    hierarchies: Vec<PathBuf>,
    /// Prefix of the names of this run's boxes.
    id: String,
    /// Locked as long as this process lives: by it a later run sees which
    /// boxes have lost their owner.
    _alive: File,
    boxes: AtomicUsize,
}

impl Host {
    /// Prepares this machine, or says why boxes cannot run here.
    ///
    /// Installs systemd-nspawn and mmdebstrap by apt-get when they are missing,
    /// unless `APPC_BOX_NO_INSTALL` is set. Ends boxes that earlier runs left.
    pub fn prepare() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "not root");
        prerequisites()?;
        let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo")?)?;
        let deb = deb()?;
        let cache = cache_dir()?;
        for dir in ["run", "roots", "log"] {
            fs::create_dir_all(cache.join(dir)).with_context(|| cache.display().to_string())?;
        }
        let guard = File::create(cache.join("run/guard"))?;
        guard.lock()?;
        end_abandoned(&cache, &hierarchies)?;
        let id = format!("appc-{}-{}", std::process::id(), start_time()?);
        let alive = File::create(cache.join("run").join(format!("{id}.lock")))?;
        alive.lock()?;
        Ok(Self {
            cache,
            deb,
            hierarchies,
            id,
            _alive: alive,
            boxes: AtomicUsize::new(0),
        })
    }

    /// Where roots, locks and logs are kept.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The package under test: `APPC_DEB`, else the newest in `target/debian`.
    pub fn deb(&self) -> &Path {
        &self.deb
    }

    /// A name for a new box, of this machine only.
    pub fn new_name(&self) -> String {
        format!("{}-{}", self.id, self.boxes.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a cgroup for box `name` in each hierarchy; nspawn puts its own
    /// below, so two boxes must not share one.
    pub fn make_cgroups(&self, name: &str) -> Result<Vec<PathBuf>> {
        let dirs: Vec<_> = self.hierarchies.iter().map(|h| h.join(name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).with_context(|| format!("cgroup {}", dir.display()))?;
        }
        Ok(dirs)
    }

    /// This run has ended: nothing of it is left but what is cached.
    pub fn finish(&self) {
        let _ = fs::remove_file(self.cache.join("run").join(format!("{}.lock", self.id)));
    }
}

/// Kills what runs in the cgroups and removes them. Gives up after 10 s.
pub fn remove_cgroups(dirs: &[PathBuf]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let left: Vec<_> = dirs
            .iter()
            .filter(|dir| dir.exists() && !remove_cgroup(dir))
            .collect();
        if left.is_empty() {
            return;
        }
        // The kernel takes a moment to let go of what was killed.
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("box: cannot remove {dirs:?}");
}

/// One try at it, deepest first; whether the directory is gone.
fn remove_cgroup(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs
        .lines()
        .filter_map(|l| l.parse().ok())
        .filter(|pid| *pid > 1)
    {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    fs::remove_dir(dir).is_ok()
}

/// Ends the boxes of runs that died without doing so, and what they left. Call
/// it with the guard locked: a lock file that is not locked then has no owner.
fn end_abandoned(cache: &Path, hierarchies: &[PathBuf]) -> Result<()> {
    for lock in entries(&cache.join("run"), "appc-") {
        let name = lock
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(id) = name.strip_suffix(".lock") else {
            continue;
        };
        if File::open(&lock)?.try_lock().is_err() {
            continue;
        }
        let prefix = format!("{id}-");
        let cgroups: Vec<_> = hierarchies
            .iter()
            .flat_map(|h| entries(h, &prefix))
            .collect();
        remove_cgroups(&cgroups);
        for console in entries(&cache.join("log"), &prefix) {
            let _ = fs::remove_file(console);
        }
        // nspawn removes it itself unless it is killed.
        for empty in entries(Path::new("/run/systemd/nspawn/propagate"), &prefix) {
            let _ = fs::remove_dir(empty);
        }
        fs::remove_file(lock)?;
    }
    Ok(())
}

/// What in `dir` has a name that begins with `prefix`.
fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    let named = all.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    named.map(|e| e.path()).collect()
}

/// The cgroup directories to make boxes in: cgroup2, and v1's `name=systemd`
/// where it exists; each once (proc_pid_mountinfo(5): field 3 is the device,
/// field 5 the mount point, after " - " come type, source, options).
fn hierarchies(mountinfo: &str) -> Result<Vec<PathBuf>> {
    let (mut found, mut devices) = (Vec::new(), Vec::new());
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else {
            continue;
        };
        let named = fs.starts_with("cgroup ") && fs.split(',').any(|o| o == "name=systemd");
        let wanted = fs.starts_with("cgroup2 ") || named;
        let fields: Vec<_> = mount.split(' ').collect();
        if wanted && fields.len() > 4 && !devices.contains(&fields[2]) {
            devices.push(fields[2]);
            found.push(PathBuf::from(fields[4]));
        }
    }
    ensure!(!found.is_empty(), "no cgroup file system is mounted");
    for dir in &found {
        let probe = dir.join(format!("appc-probe-{}", std::process::id()));
        fs::create_dir(&probe).with_context(|| format!("cannot make a cgroup in {dir:?}"))?;
        fs::remove_dir(&probe)?;
    }
    Ok(found)
}

fn prerequisites() -> Result<()> {
    let missing = || {
        let wanted = [
            ("systemd-nspawn", "systemd-container"),
            ("mmdebstrap", "mmdebstrap"),
        ];
        wanted
            .into_iter()
            .filter(|(program, _)| !is_installed(program))
            .map(|(_, p)| p)
    };
    let packages: Vec<_> = missing().collect();
    if packages.is_empty() {
        return Ok(());
    }
    let what = packages.join(" ");
    if std::env::var_os("APPC_BOX_NO_INSTALL").is_some() || !is_installed("apt-get") {
        bail!("not installed: {what}");
    }
    eprintln!("box: installing {what}");
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let base = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy"];
    let install = [
        &base[..],
        &["install", "--no-install-recommends"],
        &packages,
    ]
    .concat();
    if helper(&install, minutes(5)).is_err() {
        // The lists of a fresh image are empty or old.
        helper(&[&base[..], &["update"]].concat(), minutes(3))?;
        helper(&install, minutes(5)).with_context(|| format!("not installed: {what}"))?;
    }
    Ok(())
}

fn deb() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("APPC_DEB") {
        return fs::canonicalize(&path).with_context(|| format!("APPC_DEB={path:?}"));
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
    let debs = fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    let debs = debs.filter(|p| p.extension().is_some_and(|e| e == "deb"));
    let newest = debs.max_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok());
    newest.context("no package in target/debian: run `make deb`, or set APPC_DEB")
}

fn cache_dir() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("app-cluster/box"))
}

/// When this process started, in ticks since boot (proc_pid_stat(5) field 22):
/// with the process id it is a name that no other run has.
fn start_time() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").context("/proc/self/stat")?.1;
    let field = after_name.split(' ').nth(19).context("/proc/self/stat")?;
    Ok(field.parse()?)
}
