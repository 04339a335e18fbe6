// SPDX-License-Identifier: MIT OR Apache-2.0
//! An app that is deployed as most are: `current` is a link to a release. What reloads and
//! rollbacks have to do with it, for a program in any language.

use crate::dev::{Dev, Setup, WITHIN, wait};
use crate::load::{Kind, Load, LoadSpec};
use app_cluster::api::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

/// A language, and an HTTP server in it that
/// - ends with status 1 and "cannot find flux" where FAIL_SLOT names its slot,
/// - dies CRASH_MS milliseconds after its start, if that is set,
/// - starts to listen after START_MS milliseconds, if that is set,
/// - answers with any JSON, and loses no request when it is asked to end.
pub struct Language {
    /// Two programs that run it, and what they are called.
    pub programs: [PathBuf; 2],
    pub name: &'static str,
    pub file: &'static str,
    pub text: &'static str,
}

/// What the configuration says besides what all have.
fn config(workers: u32, keys: &str, environment: &[(&str, &str)]) -> String {
    let mut text = format!(
        "command = [\"@HOME@/tools/@NAME@\", \"@FILE@\"]\ndirectory = \"[HOME]/current\"\n\
         workers = {workers}\ncanary_time = \"50ms\"\nstart_timeout = \"60s\"\n{keys}\n[environment]\n"
    );
    for (name, value) in environment {
        text += &format!("{name} = {value:?}\n");
    }
    text.replace("@HOME@", "[HOME]")
}

impl Language {
    fn config(&self, workers: u32, keys: &str, environment: &[(&str, &str)]) -> String {
        config(workers, keys, environment)
            .replace("@FILE@", self.file)
            .replace("@NAME@", self.name)
    }

    /// Two releases, of which the first is current.
    fn setup(&self, config: &str) -> Setup {
        let setup = Setup::with_config(config);
        for release in ["releases/1", "releases/2"] {
            std::fs::create_dir_all(setup.path(release)).expect("a directory");
            setup.write(&format!("{release}/{}", self.file), self.text);
        }
        std::fs::create_dir(setup.path("tools")).expect("a directory");
        point(&setup.path("tools").join(self.name), &self.programs[0]);
        point(&setup.path("current"), Path::new("releases/1"));
        setup
    }
}

/// Makes `link` one to `target`, at once.
fn point(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(target, &new).expect("a link");
    std::fs::rename(new, link).expect("a link in place");
}

fn load(dev: &Dev) -> Load {
    let spec = LoadSpec::tcp(dev.address())
        .with_pace(Kind::NewConnection, 2, 50)
        .with_pace(Kind::KeepAlive, 2, 50);
    let load = Load::start(spec).expect("clients");
    load.wait_for(3, WITHIN).expect("clients at work");
    load
}

fn finish(load: Load) {
    load.wait_for_more(3, WITHIN).expect("clients at work");
    load.stop().assert_lossless(3);
}

/// What a worker is: release of its working directory, program, environment.
struct Found {
    release: String,
    program: PathBuf,
    environment: BTreeMap<String, String>,
}

fn look(pid: i32) -> Found {
    let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    let release = link("cwd")
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    Found {
        release,
        program: link("exe"),
        environment: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}

/// All workers are of this release and program, and have ONLY_FIRST or not.
#[track_caller]
fn check(dev: &Dev, release: &str, program: &Path, only_first: bool) {
    let pids = dev.pids();
    assert_eq!(pids.len(), 2);
    for pid in pids {
        let found = look(pid);
        assert_eq!(found.release, release);
        assert_eq!(found.program, program.canonicalize().expect("a program"));
        assert_eq!(found.environment.contains_key("ONLY_FIRST"), only_first);
    }
    dev.get("/");
}

/// `current → releases/2`, then a reload; then back.
pub fn deployed_and_taken_back(language: &Language) {
    let [first, second] = &language.programs;
    let with = language.config(2, "", &[("ONLY_FIRST", "1")]);
    let without = language.config(2, "", &[]);
    let dev = language.setup(&with).start();
    check(&dev, "1", first, true);
    let load = load(&dev);
    point(&dev.path("current"), Path::new("releases/2"));
    point(&dev.path("tools").join(language.name), second);
    dev.configure(&without);
    // What is not rolled out yet is nobody's, not even that of a worker that is replaced.
    let (slot, old) = (dev.slot(1), dev.slot(1).pid);
    dev.cli(&["restart", &format!("web[{}]", slot.slot)])
        .succeeded();
    assert_ne!(dev.slot(1).pid, old);
    check(&dev, "1", first, true);
    dev.cli(&["reload", "web"]).succeeded();
    check(&dev, "2", second, false);

    let said = dev.cli(&["rollback", "web"]).succeeded();
    assert!(
        said.stdout
            .contains("generation 3, a rollback to 1: 2 workers, in "),
        "{said:?}"
    );
    assert!(said.stderr.contains("generation 3: 1/2 slots"), "{said:?}");
    check(&dev, "1", first, true);
    let back = dev.status().rolled_back.expect("a rollback");
    assert_eq!((back.from, back.to, back.why), (2, 1, None));
    let said = dev.cli(&["status", "web"]).succeeded();
    assert!(
        said.stdout
            .contains("running, generation 3, a rollback to 1 (from 2)"),
        "{said:?}"
    );
    let pids = dev.pids();
    dev.cli(&["rollback", "web"]).failed(
        1,
        &[
            "error: generation 3 is a rollback to generation 1 already",
            "nothing was changed",
        ],
    );
    assert_eq!(dev.pids(), pids);

    // The files are as they were.
    dev.cli(&["reload", "web"]).succeeded();
    check(&dev, "2", second, false);
    assert_eq!(dev.status().rolled_back, None);
    let pids = dev.pids();
    let (here, away) = (dev.path("releases/1"), dev.path("releases/away"));
    std::fs::rename(&here, &away).expect("moved");
    dev.cli(&["rollback", "web"]).failed(
        1,
        &[
            "error: cannot go back to generation 3: ",
            "/releases/1 is gone, which ",
            "/current was; nothing was changed",
        ],
    );
    assert_eq!((dev.pids(), dev.status().state.as_str()), (pids, "running"));
    std::fs::rename(&away, &here).expect("moved");
    let said = dev.cli(&["rollback", "web", "--json"]).succeeded();
    let outcome: serde_json::Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(
        (&outcome["generation"], &outcome["back_to"]),
        (&6.into(), &3.into())
    );
    check(&dev, "1", first, true);

    // Code that was overwritten does not come back, which is said.
    dev.cli(&["reload", "web"]).succeeded();
    dev.write(&format!("releases/1/{}", language.file), language.text);
    let said = dev.cli(&["rollback", "web"]).succeeded();
    let note = format!(
        "/releases/1/{} was changed since generation 6",
        language.file
    );
    assert!(said.stderr.contains(&note), "{said:?}");
    finish(load);
    dev.stop();
}

fn generations(status: &Status) -> Vec<u64> {
    let all = status.slots.iter();
    all.filter_map(|slot| slot.generation).collect()
}

/// The third of six new workers fails.
pub fn third_of_six_fails(language: &Language, hold: bool) {
    let keys = if hold { "on_failure = \"hold\"\n" } else { "" };
    let dev = language.setup(&language.config(6, keys, &[])).start();
    let load = load(&dev);
    let before = dev.pids();
    point(&dev.path("current"), Path::new("releases/2"));
    dev.configure(&language.config(6, keys, &[("FAIL_SLOT", "2")]));
    let reload = begin(&dev, &["reload", "web"]);
    let mut least = 6;
    let said = reload.wait_with(|| least = least.min(dev.status().workers.ready));
    assert_eq!(least, 6, "ready workers at any time");
    let untouched = "exited with status 1 before it was ready";
    let then = match hold {
        false => "2 slot(s) already replaced went back to generation 1",
        true => "slot 0 stays on generation 2; slot 1 stays on generation 2",
    };
    said.failed(
        1,
        &[
            "generation 2 failed: the worker of slot 2",
            untouched,
            then,
            "  | cannot find flux",
        ],
    );
    let status = dev.status();
    let [first, second] = if hold { [2, 2] } else { [1, 1] };
    assert_eq!(generations(&status), [first, second, 1, 1, 1, 1]);
    assert_eq!(
        (status.workers.ready, status.state.as_str()),
        (6, "running")
    );
    assert_eq!(dev.pids()[2..], before[2..], "these were never touched");
    let release = if hold { "2" } else { "1" };
    // Those that went back did so to their code, wherever `current` leads now.
    assert_eq!(look(dev.pids()[0]).release, release);
    if hold {
        let said = dev.cli(&["rollback", "web"]).succeeded();
        let taken = "generation 2 was taken back, generation 1 serves";
        assert!(said.stdout.contains(taken), "{said:?}");
        assert_eq!(generations(&dev.status()), [1; 6]);
        assert_eq!(look(dev.pids()[0]).release, "1");
        assert_eq!(dev.pids()[2..], before[2..]);
    }
    finish(load);
    dev.stop();
}

/// A command that runs.
struct Begun(Child);

fn begin(dev: &Dev, arguments: &[&str]) -> Begun {
    let mut command = dev.command(arguments);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Begun(command.spawn().expect("app-cluster starts"))
}

impl Begun {
    fn wait_with(mut self, mut meanwhile: impl FnMut()) -> crate::dev::Said {
        let deadline = Instant::now() + WITHIN;
        while self.0.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            meanwhile();
        }
        self.0.wait_with_output().expect("an output").into()
    }

    fn wait(self) -> crate::dev::Said {
        self.wait_with(|| std::thread::sleep(std::time::Duration::from_millis(5)))
    }
}

/// A worker of this generation that is starting.
fn starting(dev: &Dev, generation: u64) -> i32 {
    wait("a worker starts", || {
        let status = dev.status();
        let mut others = status.slots.iter().flat_map(|slot| &slot.draining);
        others
            .find(|w| w.generation == generation && w.state == "starting")?
            .pid
    })
}

/// What may happen while a reload is under way: each ends in a state that is consistent.
pub fn whatever_happens_during_a_reload(language: &Language) {
    let value = |value: &str| language.config(2, "", &[("START_MS", "300"), ("V", value)]);
    let dev = language.setup(&value("1")).start();
    let load = load(&dev);
    let is = |wanted: &str| {
        let pids = dev.pids();
        assert_eq!(pids.len(), 2);
        for pid in pids {
            assert_eq!(look(pid).environment["V"], wanted);
        }
    };

    // Another reload, of a configuration that was changed again.
    dev.configure(&value("2"));
    let reload = begin(&dev, &["reload", "web"]);
    starting(&dev, 2);
    dev.configure(&value("3"));
    let again = begin(&dev, &["reload", "web"]);
    assert!(reload.wait().succeeded().stdout.contains("generation 2: "));
    assert!(again.wait().succeeded().stdout.contains("generation 3: "));
    is("3");

    // The configuration is broken meanwhile.
    dev.configure(&value("4"));
    let reload = begin(&dev, &["reload", "web"]);
    starting(&dev, 4);
    dev.configure("workers = \"many\"\n");
    let again = begin(&dev, &["reload", "web"]);
    reload.wait().succeeded();
    again.wait().failed(
        1,
        &["error: the configuration cannot be used, nothing was changed:"],
    );
    is("4");
    let pids = dev.pids();

    // A new worker is killed.
    dev.configure(&value("5"));
    let reload = begin(&dev, &["reload", "web"]);
    kill(Pid::from_raw(starting(&dev, 6)), Signal::SIGKILL).expect("a signal");
    let part = [
        "was killed by SIGKILL before it was ready",
        "generation 4 serves on, untouched",
    ];
    reload.wait().failed(1, &part);
    assert_eq!((dev.pids(), dev.status().generation), (pids.clone(), 4));

    // It is taken back.
    let reload = begin(&dev, &["reload", "web"]);
    starting(&dev, 7);
    let said = dev.cli(&["rollback", "web"]).succeeded();
    assert!(
        said.stdout
            .contains("generation 7 was taken back, generation 4 serves"),
        "{said:?}"
    );
    reload
        .wait()
        .failed(1, &["generation 7 was taken back by a rollback"]);
    assert_eq!((dev.pids(), dev.status().generation), (pids, 4));

    // It is stopped.
    finish(load);
    let reload = begin(&dev, &["reload", "web"]);
    starting(&dev, 8);
    dev.signal(Signal::SIGTERM);
    reload.wait().failed(1, &["the supervisor is stopping"]);
    let mut dev = dev;
    assert!(dev.ended().success());
    dev.assert_gone();
}

/// Generation 2 was rolled out, and crashes too often: generation 1 comes back by itself.
pub fn a_storm_is_ended(language: &Language) {
    let keys = "crash_budget = 3\nbackoff_max = \"500ms\"\n";
    let dev = language.setup(&language.config(2, keys, &[])).start();
    point(&dev.path("current"), Path::new("releases/2"));
    dev.configure(&language.config(2, keys, &[("CRASH_MS", "1500")]));
    dev.cli(&["reload", "web"]).succeeded();
    let line = dev.wait_for_line("crashes too often, going back to generation 1");
    assert!(
        line.contains("error: generation 2 crashes too often"),
        "{line}"
    );
    assert!(line.contains("4 crashes within 60s are too many"), "{line}");
    let status = dev.until("it is back", |s| s.rolled_back.is_some());
    assert_eq!((status.generation, status.workers.ready), (3, 2));
    let back = status.rolled_back.expect("a rollback");
    assert_eq!((back.from, back.to), (2, 1));
    let why = status.degraded.expect("degraded");
    assert!(
        why.starts_with("generation 2 was left, and generation 1 is back: the worker"),
        "{why}"
    );
    let pids = dev.pids();
    for pid in &pids {
        assert_eq!(look(*pid).release, "1");
    }
    // What failed is told to whoever tries once more.
    dev.cli(&["reload", "web"]).succeeded();
    assert_eq!(dev.status().degraded, None);
    dev.wait_for_line("generation 4 crashes too often, going back to generation 3");
    dev.until("it is back", |s| s.generation == 5);
    dev.stop();
}
