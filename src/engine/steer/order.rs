// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which line has which number.
//!
//! The kernel numbers the lines of a listener by the order in which they began to listen;
//! one that stops gives its number to the last, and one that begins again is the last. The
//! sockets outlive us, and so does their order: where it is not that of the lines, a file in
//! the runtime directory tells the next supervisor.

use super::super::listeners::Line;
use super::super::{Engine, fault, now};
use std::fs;
use std::io;
use std::time::Duration;

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 16;
/// How often it is tried to put lines in order.
const SETTLE: Duration = Duration::from_millis(20);

impl Engine {
    /// At the start: the order that the file tells. Without one it is that of the lines, as
    /// systemd opened them or a supervisor has left them.
    pub(super) fn find_order(&mut self) {
        let path = self.runtime.order();
        let short = fs::metadata(&path).is_ok_and(|found| found.len() <= LONGEST);
        let told = short.then(|| fs::read_to_string(&path).ok()).flatten();
        for (listener, order) in self.listeners.iter().zip(&mut self.steering.order) {
            let inodes: Vec<u64> = listener.lines.iter().map(|line| line.inode).collect();
            let known = told.iter().flat_map(|text| text.lines());
            if let Some(found) = known.filter_map(|line| parse(line, &inodes)).next() {
                *order = found;
            }
        }
        self.steering.noted = told;
    }

    /// Writes the order down, if it is another than was written down.
    pub(super) fn note_order(&mut self) {
        let orders = self.listeners.iter().zip(&self.steering.order);
        let text: String = orders
            .filter(|(_, order)| !order.is_sorted())
            .map(|(listener, order)| {
                let inodes = order.iter().map(|line| listener.lines[*line].inode);
                let inodes: Vec<String> = inodes.map(|inode| inode.to_string()).collect();
                format!("{}\n", inodes.join(" "))
            })
            .collect();
        let text = Some(text).filter(|text| !text.is_empty());
        if self.steering.noted == text {
            return;
        }
        let path = self.runtime.order();
        let new = path.with_extension("new");
        let noted = match &text {
            Some(text) => fs::write(&new, text).and_then(|()| fs::rename(&new, &path)),
            None => fs::remove_file(&path),
        };
        if let Err(error) = noted {
            self.warn(format!("cannot write {}: {error}", path.display()));
        }
        self.steering.noted = text;
    }

    /// `false`: to be tried again.
    pub(super) fn try_to_put_in_order(&mut self, listener: usize) -> bool {
        self.put_in_order(listener).unwrap_or_else(|error| {
            let name = self.listeners[listener].name.clone();
            self.warn(format!(
                "cannot put the sockets of {name} in order: {error}"
            ));
            true
        })
    }

    /// All but one stop listening, and begin again in their order. `false`: a worker
    /// has shut one down meanwhile.
    fn put_in_order(&mut self, listener: usize) -> io::Result<bool> {
        let kept = self.unheld(listener).unwrap_or(0);
        let lines = &self.listeners[listener].lines;
        if lines[kept].is_shut_down() {
            // None would be left.
            return Ok(false);
        }
        let others: Vec<usize> = (0..lines.len()).filter(|line| *line != kept).collect();
        let mut alone = true;
        self.runtime.say_shut(true);
        for line in others.iter().rev() {
            alone &= lines[*line].stop_listening()?;
        }
        fault::point("between-listens");
        for line in &others {
            lines[*line].listen_again()?;
        }
        self.runtime.say_shut(false);
        alone &= !lines.iter().any(|line| line.is_shut_down());
        self.steering.order[listener] = [&[kept], &others[..]].concat();
        self.steering.attached[listener] = None;
        Ok(alone)
    }

    /// The first line that no worker has, so that none can shut it down.
    fn unheld(&self, listener: usize) -> Option<usize> {
        let mut lines = 0..self.listeners[listener].lines.len();
        lines.find(|line| !self.is_held(listener, *line))
    }

    /// Lines were shut down by workers, and listen again.
    pub(super) fn renumber_mended(&mut self, listener: usize, down: &[usize]) {
        for line in down {
            self.renumber(listener, *line, false);
        }
        for line in down {
            self.renumber(listener, *line, true);
        }
        // Of several it is not known which was the first. (Not always: each time costs a
        // handshake under way now and then.)
        if down.iter().any(|line| *line != down[0]) {
            self.steering.uncertain.insert(listener);
        }
    }

    /// Puts lines in order whose order is not known, as soon as that loses nothing.
    pub(super) fn settle_order(&mut self) {
        let uncertain: Vec<usize> = self.steering.uncertain.iter().copied().collect();
        for listener in uncertain {
            if self.may_put_in_order(listener) && self.try_to_put_in_order(listener) {
                self.steering.uncertain.remove(&listener);
            }
        }
        let later = !self.steering.uncertain.is_empty() && !self.steering.watched;
        self.steering.settle = later.then(|| now() + SETTLE);
    }

    /// Whether lines may stop listening now: what waits in them moves, or nothing waits.
    pub(super) fn may_put_in_order(&self, listener: usize) -> bool {
        let mut lines = self.listeners[listener].lines.iter();
        let idle = lines.all(|line| line.waiting() == Some(0));
        !self.steering.watched && (idle || super::spare::migrates())
    }

    /// Takes down what a line's beginning or end does to the kernel's numbers.
    pub(super) fn renumber(&mut self, listener: usize, line: usize, listens: bool) {
        // A program is lost with the last line that listens.
        self.steering.attached[listener] = None;
        let order = &mut self.steering.order[listener];
        match order.iter().position(|l| *l == line) {
            None if listens => order.push(line),
            Some(number) if !listens => drop(order.swap_remove(number)),
            _ => {}
        }
    }

    /// Empties the queues of lines into the others.
    pub(super) fn stop_and_listen(&mut self, listener: usize, lines: &[usize]) -> io::Result<()> {
        self.runtime.say_shut(true);
        for line in lines {
            self.listeners[listener].lines[*line].stop_listening()?;
            self.renumber(listener, *line, false);
        }
        fault::point("between-listens");
        for line in lines {
            self.listeners[listener].lines[*line].listen_again()?;
            self.renumber(listener, *line, true);
        }
        self.runtime.say_shut(false);
        // A worker's own shutdown in between: before or after ours?
        if self.listeners[listener]
            .lines
            .iter()
            .any(Line::is_shut_down)
        {
            self.steering.uncertain.insert(listener);
        }
        Ok(())
    }
}

/// The order of lines with these `inodes`, if `text` is about just them.
fn parse(text: &str, inodes: &[u64]) -> Option<Vec<usize>> {
    let numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
    let place = |inode: u64| inodes.iter().position(|own| *own == inode);
    let order: Option<Vec<usize>> = numbers.map(|number| place(number?)).collect();
    let order = order?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    (sorted == (0..inodes.len()).collect::<Vec<_>>()).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_sockets_are_told_of() {
        let inodes = [70, 81, 92];
        assert_eq!(parse("92 70 81", &inodes), Some(vec![2, 0, 1]));
        for other in [
            "",
            "92 70",
            "92 70 82",
            "92 70 70",
            "92 70 81 81",
            "x 70 81",
            "92  70 81",
        ] {
            assert_eq!(parse(other, &inodes), None, "{other}");
        }
    }
}
