// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the generator has to say: to the journal, or at boot, before there is one, to the
//! kernel's log, which the journal reads later; and to stderr for whoever runs it by hand.

use std::io::Write;
use std::os::unix::net::UnixDatagram;

/// journald's own protocol; sd_journal_send(3).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// A line of /dev/kmsg is lost if it is longer (LOG_LINE_MAX is 1 KiB).
const KERNEL_LINE: usize = 900;

/// Logs `text`, made one line, as an error about `app`. What cannot be logged is lost.
pub(super) fn error(app: &str, text: &str) {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(std::io::stderr(), "app-cluster-generator: {line}");
    if journal(app, &line).is_none() {
        let short: String = line.chars().take(KERNEL_LINE / 4).collect();
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut log| {
                log.write_all(format!("<3>app-cluster-generator: {short}\n").as_bytes())
            });
    }
}

fn journal(app: &str, line: &str) -> Option<()> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    let text = format!(
        "PRIORITY=3\nSYSLOG_IDENTIFIER=app-cluster-generator\nAPPC_APP={app}\nMESSAGE={line}\n"
    );
    socket.send_to(text.as_bytes(), JOURNAL).ok().map(|_| ())
}
