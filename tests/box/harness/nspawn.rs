// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command that boots a box.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Where a box sees the package under test.
pub const DEB: &str = "/run/app-cluster-test.deb";

/// Enters the cgroups (all words up to `--`), mounts an overlay over the root
/// (the next word) at the directory after it, unless a box has done so before
/// its reboot, and becomes nspawn, which so starts where it shall stay.
///
/// The overlay is in memory and in a mount namespace of the box's own: any
/// number of boxes share a root and the directory, and the overlay ends with
/// nspawn and the test, however they end. (nspawn's own `--volatile=overlay`
/// would not outlast a reboot.)
const ENTER: &str = r#"set -e
    while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
    shift; root=$1 disk=$2; shift 2
    if ! [ -e "$disk/root" ]; then
        mount -t tmpfs -o mode=0755 box "$disk"
        mkdir "$disk/upper" "$disk/work" "$disk/root"
        mount -t overlay -o "lowerdir=$root,upperdir=$disk/upper,workdir=$disk/work" box "$disk/root"
    fi
    exec systemd-nspawn -D "$disk/root" "$@""#;

/// The command line that boots a box.
#[derive(Debug)]
pub struct Line(Vec<OsString>);

impl Line {
    /// Boots `root` as `name`, with an overlay at the directory `disk`.
    pub fn new(name: &str, root: &Path, disk: &Path, deb: &Path, cgroups: &[PathBuf]) -> Self {
        let mut words: Vec<OsString> = ["sh", "-c", ENTER, "sh"].map(Into::into).into();
        words.extend(cgroups.iter().map(Into::into));
        words.extend(["--".into(), root.into(), disk.into()]);
        words.extend(["-q", "-M", name, "--hostname=box"].map(Into::into));
        words.push(format!("--bind-ro={}:{DEB}", deb.display()).into());
        // No machined, no terminal, a loopback of its own.
        words.extend(["--register=no", "--keep-unit", "--private-network"].map(Into::into));
        words.extend(["--console=pipe", "--resolv-conf=off", "--timezone=off"].map(Into::into));
        words.extend(["--link-journal=no", "--kill-signal=SIGRTMIN+3"].map(Into::into));
        words.extend(["--suppress-sync=yes", "-b", "systemd.show_status=no"].map(Into::into));
        Self(words)
    }

    /// Starts nspawn, in `mounts` if there has been one already.
    pub fn spawn(&self, mounts: Option<&File>, console: &Path) -> Result<Child> {
        let output = File::options().append(true).open(console)?;
        // Should this process be killed, nspawn is told to shut the box down.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match mounts {
            None => command.args(["unshare", "--mount", "--propagation", "private"]),
            Some(file) => {
                let file = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
                command.arg("nsenter").arg(format!("--mount={file}"))
            }
        };
        command.args(&self.0);
        // Pure cgroup v2 inside, whatever is outside; 258 and later insist on it.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        command.spawn().context("systemd-nspawn does not start")
    }
}

/// Whether a process is the PID 1 of a container (proc_pid_status(5), NSpid:
/// its id here, then in each namespace inward).
///
/// Asked before each command: nspawn's first child is not in the container yet
/// and has this machine's files, and an id may be used again after the end of
/// the box. A command meant for the box would be run on this machine.
pub fn is_init(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap_or_default();
    let ids: Vec<_> = ids.split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}
