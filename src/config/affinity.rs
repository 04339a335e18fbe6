// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cpu_affinity`: which CPUs a worker runs on.

use super::Config;
use super::cpus::cpu_list;
use super::toml_reader::Reader;
use super::values::choice;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Which CPUs a worker may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuAffinity {
    /// All of the app's.
    None,
    /// One of these, by its slot (sched_setaffinity(2)).
    Spread,
}

/// Reads the key.
pub(super) fn take(file: &mut Reader<'_>, config: &mut Config) {
    file.take("cpu_affinity", &mut config.cpu_affinity, |value| {
        let known = [("none", CpuAffinity::None), ("spread", CpuAffinity::Spread)];
        choice(value, &known, &[])
    });
}

/// The CPUs `usable` in the order in which slots get them: one of each physical core, then
/// the second ones of these, and so on; of equal ones by number.
pub fn order(usable: &[usize]) -> Vec<usize> {
    in_order(usable, Path::new("/sys/devices/system/cpu"))
}

fn in_order(usable: &[usize], sys: &Path) -> Vec<usize> {
    let mut ranked: Vec<(usize, usize)> = usable
        .iter()
        .map(|cpu| {
            let place = sys.join(format!("cpu{cpu}/topology/thread_siblings_list"));
            let text = fs::read_to_string(place).unwrap_or_default();
            let siblings = cpu_list(&text).unwrap_or_default();
            let before = siblings.iter().filter(|s| *s < cpu && usable.contains(s));
            (before.count(), *cpu)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, cpu)| cpu).collect()
}

/// CPU numbers as `0-3,8` (cpuset(7), list format).
pub fn list(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let runs = runs.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order on a machine whose cores have these CPUs.
    fn ordered(cores: &[&[usize]], usable: &[usize]) -> Vec<usize> {
        let sys = tempfile::tempdir().unwrap();
        for core in cores {
            for cpu in *core {
                let place = sys.path().join(format!("cpu{cpu}/topology"));
                fs::create_dir_all(&place).unwrap();
                fs::write(place.join("thread_siblings_list"), list(core) + "\n").unwrap();
            }
        }
        in_order(usable, sys.path())
    }

    #[test]
    fn cores_before_their_siblings() {
        let all: Vec<usize> = (0..8).collect();
        let apart: &[&[usize]] = &[&[0, 4], &[1, 5], &[2, 6], &[3, 7]];
        assert_eq!(ordered(apart, &all), [0, 1, 2, 3, 4, 5, 6, 7]);
        let side_by_side: &[&[usize]] = &[&[0, 1], &[2, 3], &[4, 5], &[6, 7]];
        assert_eq!(ordered(side_by_side, &all), [0, 2, 4, 6, 1, 3, 5, 7]);
        // A sibling that the app may not use leaves its core to the other.
        assert_eq!(ordered(side_by_side, &[1, 2, 3, 7]), [1, 2, 7, 3]);
        // Fast cores with siblings, slow ones without.
        let mixed: &[&[usize]] = &[&[0, 1], &[2, 3], &[4], &[5]];
        assert_eq!(ordered(mixed, &[0, 1, 2, 3, 4, 5]), [0, 2, 4, 5, 1, 3]);
        // Nothing is known of the machine.
        assert_eq!(ordered(&[], &[3, 1]), [1, 3]);
        assert!(ordered(&[], &[]).is_empty());
    }

    #[test]
    fn lists() {
        for (cpus, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[0, 1, 2, 3, 8], "0-3,8"),
            (&[0, 2, 4], "0,2,4"),
        ] {
            assert_eq!(list(cpus), text);
        }
    }

    #[test]
    fn words() {
        let read = |line: &str| Config::parse(&format!("command = \"x\"\n{line}"), "web.toml");
        assert_eq!(read("").unwrap().cpu_affinity, CpuAffinity::None);
        let spread = read("cpu_affinity = \"spread\"").unwrap();
        assert_eq!(spread.cpu_affinity, CpuAffinity::Spread);
        let why = read("cpu_affinity = \"spred\"").unwrap_err().to_string();
        assert!(why.contains("did you mean \"spread\"?"), "{why}");
    }
}
