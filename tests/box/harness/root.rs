// SPDX-License-Identifier: MIT OR Apache-2.0
//! Roots: a Debian release with what the tests need in it, built once and
//! cached, never written to again (boxes put an overlay on it).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::helper;
use super::host::Host;

/// What a minimal Debian lacks to be booted and looked into, and then the
/// third-party programs that tests run as workers or in front of them. Changing
/// this list (or [`HOOK`]) builds new roots beside the old.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,curl,python3,strace,\
                        nodejs,gunicorn,python3-uvicorn,ruby,puma,nginx,haproxy";

/// Takes away what is this machine's (its name, which mmdebstrap copies), what
/// systemd would do at some time of the day, and the proxies' own services.
const HOOK: &str = r#"rm -f "$1"/etc/hostname "$1"/etc/systemd/system/timers.target.wants/*
    rm -f "$1"/etc/systemd/system/multi-user.target.wants/*proxy.service
    rm -f "$1"/etc/systemd/system/multi-user.target.wants/nginx.service"#;

/// A Debian release to boot.
#[derive(Debug, Clone)]
pub struct Root {
    suite: &'static str,
    dir: PathBuf,
}

impl Root {
    /// The cached root of `suite`; built first when there is none. Other runs
    /// that want the same one wait for it.
    pub fn get(host: &Host, suite: &'static str) -> Result<Self> {
        let key = format!("{suite}-{:016x}", fnv1a(&[PACKAGES, HOOK].concat()));
        let dir = host.cache().join("roots").join(&key);
        if !dir.exists() {
            let lock = File::create(host.cache().join("roots").join(format!("{key}.lock")))?;
            lock.lock()?;
            if !dir.exists() {
                build(suite, &dir).with_context(|| format!("building a {suite} root"))?;
            }
        }
        Ok(Self { suite, dir })
    }

    /// Its release.
    pub fn suite(&self) -> &'static str {
        self.suite
    }

    /// Where it lies. Read only!
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Builds in a directory beside and renames it, so that `dir` is whole or not
/// there. The caller holds the lock.
fn build(suite: &str, dir: &Path) -> Result<()> {
    eprintln!("box: building a {suite} root (once, about a minute)");
    let part = dir.with_extension("part");
    let name = part
        .to_str()
        .context("the cache directory's name is not UTF-8")?;
    remove(name)?;
    let include = format!("--include={PACKAGES}");
    let hook = format!("--customize-hook={HOOK}");
    let argv = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        &include,
        // Mirrors may hold a snapshot.
        "--aptopt=Acquire::Check-Valid-Until \"false\"",
        &hook,
        suite,
        name,
    ];
    if let Err(error) = helper(&argv, Duration::from_secs(600)) {
        let _ = remove(name);
        return Err(error);
    }
    fs::rename(&part, dir)?;
    Ok(())
}

/// Deletes a root that is not whole, but nothing that may be mounted in it.
fn remove(part: &str) -> Result<()> {
    helper(
        &["rm", "-rf", "--one-file-system", part],
        Duration::from_secs(60),
    )
    .map(drop)
}

/// 64-bit FNV-1a: the same in each version of the compiler, as a name in a
/// cache has to be.
fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
