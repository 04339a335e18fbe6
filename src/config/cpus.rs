// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many CPUs the workers can really use.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Number of usable CPUs, and what limits it. Displayed as `4 CPUs (affinity)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus {
    /// At least 1.
    pub count: u32,
    /// What decided: `online`, `affinity`, or the cgroup with the quota.
    pub source: String,
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} CPU{plural} ({})", self.count, self.source)
    }
}

impl Cpus {
    /// How many CPUs are online, at least 1: the same number for whoever asks, unlike
    /// [`Cpus::detect`].
    pub fn online() -> u32 {
        let text = fs::read_to_string("/sys/devices/system/cpu/online");
        let count = text.ok().and_then(|text| Some(cpu_list(&text)?.len()));
        // Without /sys what we may use ourselves is the best guess.
        let count = count.or_else(|| Some(Cpus::of(0)?.len()));
        count.map_or(1, |count| count.max(1) as u32)
    }

    /// The numbers of the CPUs that a process may run on (sched_getaffinity(2)), our own for
    /// 0; none if that cannot be read.
    pub fn of(pid: i32) -> Option<Vec<usize>> {
        let set = sched_getaffinity(Pid::from_raw(pid)).ok()?;
        let is_set = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
        Some((0..CpuSet::count()).filter(is_set).collect())
    }

    /// The CPUs that are online, in the affinity of this process
    /// (sched_getaffinity(2)), and within the CPU quota of its cgroup and those above
    /// it (`cpu.max`, or `cpu.cfs_quota_us` of version 1), rounded up.
    pub fn detect() -> Cpus {
        let affinity = Cpus::of(0);
        Machine {
            online: PathBuf::from("/sys/devices/system/cpu/online"),
            own_cgroup: PathBuf::from("/proc/self/cgroup"),
            cgroups: PathBuf::from("/sys/fs/cgroup"),
            affinity,
        }
        .cpus()
    }
}

/// Where to look; another one in tests.
struct Machine {
    online: PathBuf,
    own_cgroup: PathBuf,
    cgroups: PathBuf,
    /// CPU numbers; `None` if it could not be read.
    affinity: Option<Vec<usize>>,
}

impl Machine {
    fn cpus(&self) -> Cpus {
        let online = fs::read_to_string(&self.online)
            .ok()
            .and_then(|text| cpu_list(&text));
        let mut cpus = match (online, &self.affinity) {
            (Some(online), Some(own)) => {
                let usable = own.iter().filter(|cpu| online.contains(cpu)).count();
                let source = if usable < online.len() {
                    "affinity"
                } else {
                    "online"
                };
                limit(usable, source)
            }
            (Some(online), None) => limit(online.len(), "online"),
            (None, Some(own)) => limit(own.len(), "affinity"),
            (None, None) => limit(
                std::thread::available_parallelism().map_or(1, usize::from),
                "available",
            ),
        };
        if let Some((quota, group)) = self.quota()
            && quota < cpus.count
        {
            cpus = Cpus {
                count: quota.max(1),
                source: format!("CPU quota of cgroup {group}"),
            };
        }
        cpus
    }

    /// The smallest CPU quota on the way up from the own cgroup, in whole CPUs, and
    /// the cgroup it is of.
    fn quota(&self) -> Option<(u32, String)> {
        let own = fs::read_to_string(&self.own_cgroup).ok()?;
        own.lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                let (root, read): (_, fn(&Path) -> Option<u32>) = match controllers {
                    "" => (self.cgroups.clone(), quota_v2),
                    _ if controllers.split(',').any(|name| name == "cpu") => {
                        (self.cgroups.join("cpu"), quota_v1)
                    }
                    _ => return None,
                };
                // A path with `..` is outside of our cgroup namespace (cgroup_namespaces(7)).
                let path = Path::new(path.trim_start_matches('/'));
                let outside = path.components().any(|part| part == Component::ParentDir);
                let path = if outside { Path::new("") } else { path };
                path.ancestors()
                    .filter_map(|group| {
                        let quota = read(&root.join(group))?;
                        Some((quota, format!("/{}", group.display())))
                    })
                    .min_by_key(|(quota, _)| *quota)
            })
            .min_by_key(|(quota, _)| *quota)
    }
}

fn limit(count: usize, source: &str) -> Cpus {
    Cpus {
        count: u32::try_from(count).unwrap_or(u32::MAX).max(1),
        source: source.to_owned(),
    }
}

/// `cpu.max`: `QUOTA PERIOD`, or `max PERIOD` for none.
fn quota_v2(group: &Path) -> Option<u32> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole(quota.parse().ok()?, period.parse().ok()?)
}

/// `cpu.cfs_quota_us` is -1 for none.
fn quota_v1(group: &Path) -> Option<u32> {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse().ok()
    };
    whole(read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)
}

/// `quota` / `period`, rounded up.
fn whole(quota: u64, period: u64) -> Option<u32> {
    (period > 0).then(|| u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX))
}

/// A list such as `0-3,8` (cpuset(7), list format).
pub(super) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse::<usize>().ok()?);
        if last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPUs of a made-up machine: online list, affinity, own cgroup, files below the
    /// cgroup root.
    fn cpus(online: &str, affinity: &[usize], own: &str, files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("online"), online).unwrap();
        fs::write(at("self"), own).unwrap();
        for (name, text) in files {
            let path = at("cg").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine {
            online: at("online"),
            own_cgroup: at("self"),
            cgroups: at("cg"),
            affinity: Some(affinity.to_vec()),
        };
        machine.cpus().to_string()
    }

    #[test]
    fn the_smallest_limit_decides() {
        let all: Vec<usize> = (0..8).collect();
        let own = "0::/system.slice/web.service\n";
        assert_eq!(cpus("0-7\n", &all, own, &[]), "8 CPUs (online)");
        assert_eq!(cpus("0-7\n", &[1, 3, 5, 7], own, &[]), "4 CPUs (affinity)");
        assert_eq!(cpus("0-3,6\n", &[3, 4, 6], own, &[]), "2 CPUs (affinity)");
        assert_eq!(cpus("0\n", &[0], own, &[]), "1 CPU (online)");
        let files = [
            ("system.slice/web.service/cpu.max", "max 100000\n"),
            ("system.slice/cpu.max", "250000 100000\n"),
        ];
        let group = "CPU quota of cgroup /system.slice";
        assert_eq!(
            cpus("0-7\n", &all, own, &files),
            format!("3 CPUs ({group})")
        );
        assert_eq!(cpus("0-7\n", &[1, 2], own, &files), "2 CPUs (affinity)");
        let files = [("cpu.max", "1000 100000")];
        let root = "CPU quota of cgroup /";
        assert_eq!(
            cpus("0-7\n", &all, "0::/\n", &files),
            format!("1 CPU ({root})")
        );
        assert_eq!(
            cpus("0-7\n", &all, "0::/../x\n", &files),
            format!("1 CPU ({root})")
        );
    }

    #[test]
    fn version_1_quota() {
        let own = "4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n";
        let files = |quota| {
            [
                ("cpu/a/cpu.cfs_quota_us", quota),
                ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ]
        };
        assert_eq!(
            cpus("0-3", &[0, 1, 2, 3], own, &files("-1\n")),
            "4 CPUs (online)"
        );
        let limited = cpus("0-3", &[0, 1, 2, 3], own, &files("150000\n"));
        assert_eq!(limited, "2 CPUs (CPU quota of cgroup /a)");
    }

    #[test]
    fn nonsense_is_no_limit() {
        for text in ["", "max", "5 0", "x 100000", "-1 100000"] {
            assert_eq!(
                cpus("0-1", &[0, 1], "0::/\n", &[("cpu.max", text)]),
                "2 CPUs (online)"
            );
        }
        assert_eq!(cpus("x", &[0], "junk", &[]), "1 CPU (affinity)");
    }

    #[test]
    fn this_machine_has_cpus() {
        let found = Cpus::detect();
        assert!(found.count >= 1 && !found.source.is_empty(), "{found}");
    }
}
