// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workers that are replaced for what they have become, and where workers run.

use crate::dev::{BINARY, Dev, Setup, scale, wait};
use crate::load::{Kind, Load, LoadSpec};
use crate::readiness::python;
use crate::recycling::{serves_meanwhile, sizes};
use app_cluster::config::Cpus;

/// A worker in Python that forgets nothing, see its head.
const SERVER: &str = include_str!("../support/leak.py");

fn server(python: &str, arguments: &str, keys: &str) -> Dev {
    let words = arguments.replace(' ', "\", \"");
    let setup = Setup::with_config(&format!(
        "command = [{python:?}, \"server.py\", \"{words}\"]\nworkers = 2\n\
         start_timeout = \"60s\"\n{keys}\n"
    ));
    setup.write("server.py", SERVER);
    setup.start()
}

fn clients(dev: &Dev) -> Load {
    let spec = LoadSpec::tcp(dev.address()).with_pace(Kind::NewConnection, 8, 25);
    Load::start(spec).expect("clients")
}

#[test]
fn leaking_app_is_recycled_under_load() {
    let Some(python) = python() else { return };
    let dev = server(&python, "0 1 128", "max_memory = \"60M\"");
    let report = serves_meanwhile(&dev, clients(&dev), scale(8, 2));
    let sizes = sizes(&dev.output());
    println!("{sizes:?} MiB\n{report}");
    assert!(
        sizes.iter().all(|used| (60..200).contains(used)),
        "{sizes:?}"
    );
    dev.stop();
}

/// Pages that several processes share count once, or this app could not run at all; what each
/// of them adds counts.
#[test]
fn a_tree_of_processes_is_measured_as_a_whole() {
    let Some(python) = python() else { return };
    let dev = server(&python, "3 80 0", "max_memory = \"160M\"");
    let used = |dev: &Dev| {
        let status = dev.status();
        let memory: Vec<u64> = status.slots.iter().filter_map(|s| s.memory).collect();
        memory
            .into_iter()
            .map(|bytes| bytes >> 20)
            .collect::<Vec<_>>()
    };
    // A look that counted them all would have found 320 MiB.
    let memory = wait("both have been looked at closely", || {
        let memory = used(&dev);
        memory.iter().all(|mib| *mib < 160).then_some(memory)
    });
    assert!(memory.iter().all(|mib| *mib >= 80), "{memory:?}");
    let report = {
        let load = clients(&dev);
        load.wait_for(100, crate::dev::WITHIN).expect("answers");
        load.stop()
    };
    report.assert_lossless(100);
    let output = dev.output();
    assert!(!output.contains("max_memory"), "{output}");
    dev.stop();

    let dev = server(&python, "3 40 256", "max_memory = \"110M\"");
    serves_meanwhile(&dev, clients(&dev), 1);
    let sizes = sizes(&dev.output());
    assert!(
        sizes.iter().all(|used| (110..300).contains(used)),
        "{sizes:?}"
    );
    dev.stop();
}

#[test]
fn a_limit_below_what_the_app_needs_is_told_and_costs_nothing() {
    let Some(python) = python() else { return };
    let dev = server(&python, "0 50 0", "max_memory = \"20M\"");
    let line = dev.wait_for_line("from the start (max_memory is 20 MiB)");
    assert!(line.contains("raise max_memory"), "{line}");
    let status = dev.status();
    assert_eq!(status.limits.max_memory, Some(20 << 20));
    assert!(status.slots.iter().all(|slot| slot.recycled == 0));
    dev.stop();
}

/// Slot by slot another CPU, the same one for a replacement; without the key all of them.
#[test]
fn spread_over_the_cpus() {
    let usable = Cpus::of(0).expect("CPUs");
    let order = app_cluster::config::cpu_order(&usable);
    let keys = |more: &str| {
        format!("command = [{BINARY:?}, \"hello\"]\nworkers = 3\ncanary_time = \"50ms\"\n{more}")
    };
    let dev = Setup::with_config(&keys("cpu_affinity = \"spread\"\n")).start();
    let spread = |dev: &Dev| {
        for (slot, pid) in dev.pids().into_iter().enumerate() {
            let expected = order[slot % order.len()];
            assert_eq!(Cpus::of(pid), Some(vec![expected]), "slot {slot}");
            let told = dev.slot(slot).cpus;
            assert_eq!(told, Some(expected.to_string()), "slot {slot}");
        }
    };
    spread(&dev);
    dev.cli(&["reload", "web"]).succeeded();
    spread(&dev);
    let text = dev.cli(&["status", "web"]).succeeded().stdout;
    assert!(text.contains(" CPUS "), "{text}");
    dev.configure(&keys(""));
    dev.cli(&["reload", "web"]).succeeded();
    for (slot, pid) in dev.pids().into_iter().enumerate() {
        assert_eq!(Cpus::of(pid).as_ref(), Some(&usable), "slot {slot}");
        assert_eq!(dev.slot(slot).cpus, None);
    }
    dev.stop();
}
