// SPDX-License-Identifier: MIT OR Apache-2.0
//! One booted box.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{Output, Task, first_child, tail, within};
use super::host::{Host, remove_cgroups};
use super::root::Root;

/// How long a command in a box may take unless the test says otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long [`TestBox::wait_until`] waits.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
/// How long a box may take to boot: 0.4 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(25);
/// Where a box sees the package under test.
const DEB: &str = "/run/app-cluster-test.deb";

/// A container with a real systemd in it; killed when dropped.
///
/// Its network is its own loopback (IPv4 and IPv6), its file system an overlay
/// that goes with it. All methods take `&self`, so that conditions and threads
/// can share it.
#[derive(Debug)]
pub struct TestBox {
    name: String,
    suite: &'static str,
    cgroups: Vec<PathBuf>,
    console: PathBuf,
    nspawn: Child,
    leader: u32,
}

impl TestBox {
    /// Boots a box from `root`, until systemd says that it runs.
    pub fn boot(host: &Host, root: &Root) -> Result<Self> {
        let name = host.new_name();
        let console = host.cache().join("log").join(format!("{name}.console"));
        let output = File::create(&console)?;
        let cgroups = host.make_cgroups(&name)?;
        let spawned = nspawn(&name, root.dir(), host.deb(), &cgroups)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn();
        let nspawn = match spawned {
            Ok(child) => child,
            Err(error) => {
                remove_cgroups(&cgroups);
                return Err(error).context("systemd-nspawn does not start");
            }
        };
        let suite = root.suite();
        let mut new = Self {
            name,
            suite,
            cgroups,
            console,
            nspawn,
            leader: 0,
        };
        match new.wait_for_boot() {
            Ok(()) => Ok(new),
            Err(error) => Err(error.context(new.console_tail())),
        }
    }

    /// The Debian release in it.
    pub fn suite(&self) -> &'static str {
        self.suite
    }

    /// The process id, on this machine, of its PID 1: `/proc/ID/ns/net` is the
    /// box's network and so on.
    pub fn leader_pid(&self) -> u32 {
        self.leader
    }

    /// Runs a command in the box, as root and outside of every unit, for at
    /// most a minute.
    pub fn run(&self, argv: &[&str]) -> Output {
        self.start(argv, b"", COMMAND_LIMIT).wait()
    }

    /// Runs a shell script likewise; `-e`: the first command to fail ends it.
    pub fn sh(&self, script: &str) -> Output {
        self.start(&["sh", "-ec", script], b"", COMMAND_LIMIT)
            .wait()
    }

    /// Runs a shell script as a transient service, as a program of the system
    /// would be run.
    pub fn sh_as_unit(&self, script: &str) -> Output {
        self.run(&[
            "systemd-run",
            "-q",
            "--pipe",
            "--wait",
            "--collect",
            "sh",
            "-ec",
            script,
        ])
    }

    /// Starts a shell script that runs beside the test, for at most `limit`.
    pub fn spawn(&self, script: &str, limit: Duration) -> Task {
        self.start(&["sh", "-ec", script], b"", limit)
    }

    /// Writes a file, with the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let script = r#"mkdir -p "$(dirname "$0")" && cat >"$0""#;
        self.start(&["sh", "-ec", script, path], text.as_bytes(), COMMAND_LIMIT)
            .wait()
            .ok();
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let out = self.run(&["cat", "--", path]);
        out.clone().ok();
        out.stdout
    }

    /// Whether a file, or anything else, is at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.run(&["test", "-e", path]).code == 0
    }

    /// A property of a unit, as `systemctl show --value` prints it.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--value", "-p", property, "--", unit])
            .ok()
    }

    /// The messages in the journal that match `args` (of journalctl), one a
    /// line and without dates. Syncs first: the last line of a process may
    /// otherwise be missing.
    #[track_caller]
    pub fn journal(&self, args: &[&str]) -> String {
        self.run(&["journalctl", "--sync"]).ok();
        self.run(&[&["journalctl", "--no-pager", "-q", "-o", "cat"], args].concat())
            .ok()
    }

    /// Installs the package under test.
    #[track_caller]
    pub fn install(&self) {
        self.install_file(DEB);
    }

    /// Installs a package that lies in the box (see [`TestBox::repack`]).
    #[track_caller]
    pub fn install_file(&self, path: &str) {
        self.run(&["dpkg", "--force-unsafe-io", "-i", path]).ok();
    }

    /// Makes a package of the same content with another version; gives its path
    /// in the box.
    #[track_caller]
    pub fn repack(&self, version: &str) -> String {
        let path = format!("/root/app-cluster_{version}.deb");
        self.sh(&format!(
            "cd \"$(mktemp -d)\"; dpkg-deb -R {DEB} .
             sed -i 's/^Version:.*/Version: {version}/' DEBIAN/control
             dpkg-deb -Znone -b . {path}"
        ))
        .ok();
        path
    }

    /// Waits until `condition` holds, at most 20 s. `what` completes "waited
    /// for ...".
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl FnMut() -> bool) {
        self.wait_for(what, WAIT_LIMIT, condition);
    }

    /// [`TestBox::wait_until`] with another limit.
    #[track_caller]
    pub fn wait_for(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} for {what}, in vain"
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// What the box knows about a failure.
    pub fn diagnosis(&self) -> String {
        let title = format!("--- box {} ({})\n", self.name, self.suite);
        if !is_init(self.leader) {
            return format!("{title}it is gone\n{}", self.console_tail());
        }
        let script = "exec 2>&1; set +e; journalctl --sync
            echo '--- units'; systemctl --no-pager --full -n 0 status 'app-cluster*'
            echo '--- failed'; systemctl --no-pager --failed --plain --no-legend
            echo '--- journal since boot, the end of it'
            journalctl --no-pager -o short-precise | sed '1,/Startup finished in/d' | tail -n 100";
        let told = self
            .start(&["sh", "-c", script], b"", Duration::from_secs(20))
            .wait();
        let console = if told.code == 0 {
            String::new()
        } else {
            self.console_tail()
        };
        format!(
            "--- box {} ({})\n{}{console}",
            self.name, self.suite, told.stdout
        )
    }

    fn start(&self, argv: &[&str], stdin: &[u8], limit: Duration) -> Task {
        assert!(
            is_init(self.leader),
            "the box is gone\n{}",
            self.console_tail()
        );
        let leader = self.leader.to_string();
        let mut line = vec!["nsenter", "-t", &leader];
        line.extend([
            "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--", "env", "-i",
        ]);
        line.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        line.extend([
            "HOME=/root",
            "LANG=C.UTF-8",
            "TERM=dumb",
            "SYSTEMD_COLORS=0",
        ]);
        line.extend(["DEBIAN_FRONTEND=noninteractive"]);
        // Inside, where it outlives the nsenter that started it.
        let seconds = limit.as_secs().max(1).to_string();
        line.extend(within(&seconds));
        line.extend(argv);
        Task::start(&argv.join(" "), &line, stdin).expect("a command can be started")
    }

    fn wait_for_boot(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let mut state = String::from("no systemd yet");
        while Instant::now() < deadline {
            if let Some(status) = self.nspawn.try_wait()? {
                bail!("systemd-nspawn ended: {status}");
            }
            self.leader = first_child(self.nspawn.id()).unwrap_or(0);
            let up = format!("/proc/{}/root/run/systemd/private", self.leader);
            if is_init(self.leader) && Path::new(&up).exists() {
                let asked = self.run(&["systemctl", "is-system-running", "--wait"]);
                state = asked.stdout.trim().to_string();
                if state == "running" || state == "degraded" {
                    return Ok(());
                }
            }
            std::thread::sleep(PAUSE);
        }
        bail!("box {} does not boot: {state}", self.name)
    }

    fn console_tail(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        format!("--- console\n{}", tail(&String::from_utf8_lossy(&text), 30))
    }
}

impl Drop for TestBox {
    fn drop(&mut self) {
        // The end of its PID 1 ends all of it, and nspawn then tidies up.
        let leader = first_child(self.nspawn.id()).unwrap_or(0);
        if leader != 0 {
            let _ = kill(Pid::from_raw(leader as i32), Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
        remove_cgroups(&self.cgroups);
        let _ = fs::remove_file(&self.console);
    }
}

/// The command that boots box `name`: a shell that enters the cgroups, then
/// becomes nspawn, so that nspawn starts where it shall stay.
fn nspawn(name: &str, root: &Path, deb: &Path, cgroups: &[PathBuf]) -> Command {
    // Should this process be killed, nspawn is told to shut the box down.
    let mut command = Command::new("setpriv");
    let enter = "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\" || exit 1; shift; done
                 shift; exec systemd-nspawn \"$@\"";
    command
        .args(["--pdeathsig", "TERM", "sh", "-c", enter, "sh"])
        .args(cgroups)
        .arg("--");
    command
        .arg("-q")
        .arg("-D")
        .arg(root)
        .arg("-M")
        .arg(name)
        .arg("--hostname=box");
    // Any number of boxes share a root; what they write is in memory.
    command.arg("--volatile=overlay");
    command.arg(format!("--bind-ro={}:{DEB}", deb.display()));
    // No machined, no terminal, a loopback of its own.
    command.args([
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--console=pipe",
    ]);
    command.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
    command.args(["--kill-signal=SIGRTMIN+3", "--suppress-sync=yes", "-b"]);
    command.arg("systemd.show_status=no");
    // Pure cgroup v2 inside, whatever is outside; 258 and later insist on it.
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    command.stdin(Stdio::null());
    command
}

/// Whether a process is the PID 1 of a container (proc_pid_status(5), NSpid:
/// its id here, then in each namespace inward).
///
/// Asked before each command: nspawn's first child is not in the container yet
/// and has this machine's files, and an id may be used again after the end of
/// the box. A command meant for the box would be run on this machine.
fn is_init(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap_or_default();
    let ids: Vec<_> = ids.split_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}
