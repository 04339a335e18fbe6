// SPDX-License-Identifier: MIT OR Apache-2.0
//! One booted box.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{Output, Task, first_child, tail, within};
use super::host::{Host, remove_cgroups};
use super::nspawn::{DEB, Line, is_init};
use super::root::Root;

/// How long a command in a box may take unless the test says otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long [`TestBox::wait_until`] waits.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
/// How long a box may take to boot: 0.4 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(25);

/// A container with a real systemd in it; killed when dropped.
///
/// Its network is its own loopback (IPv4 and IPv6), its file system an overlay
/// that goes with it and outlasts a [`TestBox::reboot`]. All methods take
/// `&self`, so that conditions and threads can share it.
#[derive(Debug)]
pub struct TestBox {
    name: String,
    suite: &'static str,
    cgroups: Vec<PathBuf>,
    console: PathBuf,
    line: Line,
    nspawn: Mutex<Child>,
    /// nspawn's mount namespace, which has the file system in it.
    mounts: Option<File>,
    leader: AtomicU32,
}

impl TestBox {
    /// Boots a box from `root`, until systemd says that it runs.
    pub fn boot(host: &Host, root: &Root) -> Result<Self> {
        let name = host.new_name();
        let console = host.cache().join("log").join(format!("{name}.console"));
        let disk = host.cache().join("run/disk");
        fs::create_dir_all(&disk)?;
        File::create(&console)?;
        let cgroups = host.make_cgroups(&name)?;
        let line = Line::new(&name, root.dir(), &disk, host.deb(), &cgroups);
        let nspawn = match line.spawn(None, &console) {
            Ok(child) => child,
            Err(error) => {
                remove_cgroups(&cgroups);
                return Err(error);
            }
        };
        let suite = root.suite();
        let mut new = Self {
            name,
            suite,
            cgroups,
            console,
            line,
            nspawn: Mutex::new(nspawn),
            mounts: None,
            leader: AtomicU32::new(0),
        };
        let booted = new.wait_for_boot().and_then(|()| {
            let mounts = format!("/proc/{}/ns/mnt", new.nspawn().id());
            new.mounts = Some(File::open(mounts)?);
            Ok(())
        });
        booted.map_err(|error| error.context(new.console_tail()))?;
        Ok(new)
    }

    /// The Debian release in it.
    pub fn suite(&self) -> &'static str {
        self.suite
    }

    /// The process id, on this machine, of its PID 1: `/proc/ID/ns/net` is the
    /// box's network and so on.
    pub fn leader_pid(&self) -> u32 {
        self.leader.load(Ordering::Relaxed)
    }

    /// Shuts the system down and boots it again: what is in its file system
    /// stays, processes, mounts and the network do not. [`TestBox::leader_pid`]
    /// is another one afterwards.
    #[track_caller]
    pub fn reboot(&self) {
        self.boot_again(&["systemctl", "reboot"]);
    }

    /// A power failure: nothing is shut down before it boots again.
    #[track_caller]
    pub fn power_cycle(&self) {
        self.boot_again(&["systemctl", "reboot", "--force", "--force"]);
    }

    #[track_caller]
    fn boot_again(&self, how: &[&str]) {
        // What it answers is lost with it now and then.
        drop(self.run(how));
        self.wait_for("the box to be down", BOOT_LIMIT, || {
            !matches!(self.nspawn().try_wait(), Ok(None))
        });
        let again = self.line.spawn(self.mounts.as_ref(), &self.console);
        *self.nspawn() = again.expect("nspawn starts again");
        let booted = self.wait_for_boot();
        booted.unwrap_or_else(|error| panic!("{error:#}\n{}", self.console_tail()));
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
        if !is_init(self.leader_pid()) {
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
        let leader = self.leader_pid();
        assert!(is_init(leader), "the box is gone\n{}", self.console_tail());
        let leader = leader.to_string();
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

    fn wait_for_boot(&self) -> Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let mut state = String::from("no systemd yet");
        while Instant::now() < deadline {
            if let Some(status) = self.nspawn().try_wait()? {
                bail!("systemd-nspawn ended: {status}");
            }
            let leader = first_child(self.nspawn().id()).unwrap_or(0);
            let up = format!("/proc/{leader}/root/run/systemd/private");
            if is_init(leader) && Path::new(&up).exists() {
                self.leader.store(leader, Ordering::Relaxed);
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

    fn nspawn(&self) -> std::sync::MutexGuard<'_, Child> {
        self.nspawn.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn console_tail(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        format!("--- console\n{}", tail(&String::from_utf8_lossy(&text), 30))
    }
}

impl Drop for TestBox {
    fn drop(&mut self) {
        let mut nspawn = self.nspawn();
        // The end of its PID 1 ends all of it, and nspawn then tidies up.
        let leader = first_child(nspawn.id()).unwrap_or(0);
        if leader != 0 {
            let _ = kill(Pid::from_raw(leader as i32), Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(nspawn.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = nspawn.kill();
        let _ = nspawn.wait();
        remove_cgroups(&self.cgroups);
        let _ = fs::remove_file(&self.console);
    }
}
