// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration that `start` writes: what was asked for, and the keys one looks for next.

use crate::config::{Listen, SCHEMA_FILE, Workers};
use std::fmt::Write;

/// What a new configuration says.
#[derive(Debug)]
pub struct NewApp {
    pub name: String,
    pub command: Vec<String>,
    pub directory: String,
    /// `None`: the user of the units.
    pub user: Option<String>,
    pub listen: Vec<Listen>,
    pub workers: Option<Workers>,
    pub environment: Vec<(String, String)>,
    pub balance: Option<String>,
    pub autostart: bool,
}

impl NewApp {
    /// The text of the file.
    pub fn render(&self) -> String {
        let name = &self.name;
        let unit = match name.as_str() {
            crate::cli::DEFAULT_NAME => name.clone(),
            _ => format!("app-cluster@{name}"),
        };
        let mut text = format!(
            "#:schema file://{SCHEMA_FILE}\n\
             # The app \"{name}\", made by \"app-cluster start\"; app-cluster.toml(5) has every key.\n\
             # After a change:  app-cluster check {name}  &&  sudo systemctl reload {unit}\n\n"
        );
        let mut line = |line: String| {
            let _ = writeln!(text, "{line}");
        };
        let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        line("# What each worker runs, where, and as whom.".to_owned());
        line(format!("command = [{}]", words.join(", ")));
        line(format!("directory = {}", quoted(&self.directory)));
        match &self.user {
            Some(user) => line(format!("user = {}", quoted(user))),
            None => line("#user = \"app-cluster\"".to_owned()),
        }
        line(
            "\n# Where it listens; systemd does, so a change needs more than a reload.".to_owned(),
        );
        line(format!("listen = {}", self.listeners()));
        line("\n# A number, \"max\" (one for each processor) or \"-1\" (all but one).".to_owned());
        match self.workers {
            Some(workers) => line(format!("workers = {workers}")),
            None => line("#workers = \"max\"".to_owned()),
        }
        if let Some(balance) = &self.balance {
            line(format!("balance = {}", quoted(balance)));
        }
        if !self.autostart {
            line("\n# Started by \"app-cluster start\" only, not at boot.".to_owned());
            line("autostart = \"never\"".to_owned());
        }
        line("\n# How long requests may take to finish when a worker is replaced.".to_owned());
        line("#drain_timeout = \"30s\"".to_owned());
        if self.environment.is_empty() {
            line("\n#environment = { NODE_ENV = \"production\" }".to_owned());
        } else {
            line("\n[environment]".to_owned());
            for (key, value) in &self.environment {
                line(format!("{} = {}", key_of(key), quoted(value)));
            }
        }
        text
    }

    /// An array of addresses; a table, if one of them has a name of its own.
    fn listeners(&self) -> String {
        let address = |listen: &Listen| quoted(&listen.address.to_string());
        let plain = |listen: &&Listen| {
            Listen::unnamed(listen.address.clone()).is_ok_and(|plain| plain.name == listen.name)
        };
        if self.listen.iter().all(|listen| plain(&listen)) {
            let all: Vec<String> = self.listen.iter().map(address).collect();
            return format!("[{}]", all.join(", "));
        }
        let entry = |listen: &Listen| format!("{} = {}", key_of(&listen.name), address(listen));
        let all: Vec<String> = self.listen.iter().map(entry).collect();
        format!("{{ {} }}", all.join(", "))
    }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A key of TOML, in quotes if it has to be.
fn key_of(text: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !text.is_empty() && text.chars().all(bare) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Autostart, Config};

    fn app() -> NewApp {
        NewApp {
            name: "api".to_owned(),
            command: ["/usr/bin/node", "./server.js", "it's \"x\"\n"]
                .map(str::to_owned)
                .to_vec(),
            directory: "/srv/a b".to_owned(),
            user: Some("alice".to_owned()),
            listen: vec!["3000".parse().expect("an address")],
            workers: Some(Workers::Max),
            environment: vec![("A".to_owned(), "1 = \\ '".to_owned())],
            balance: Some("even".to_owned()),
            autostart: false,
        }
    }

    #[test]
    fn reads_back_as_it_was_meant() {
        let app = app();
        let config = Config::parse(&app.render(), "api.toml").expect("a configuration");
        assert_eq!(config.command, app.command);
        assert_eq!(config.directory.display().to_string(), app.directory);
        assert_eq!(config.user, app.user);
        assert_eq!(config.listen, app.listen);
        assert_eq!(config.workers, Workers::Max);
        assert_eq!(config.environment["A"], app.environment[0].1);
        assert_eq!(config.autostart, Some(Autostart::Never));
    }

    #[test]
    fn listeners_with_and_without_names() {
        let mut app = app();
        let listen = ["[::1]:80", "unix:/run/a.sock"].map(|text| text.parse().expect("one"));
        app.listen = listen.to_vec();
        assert_eq!(app.listeners(), r#"["[::1]:80", "unix:/run/a.sock"]"#);
        app.listen[0].name = "http".to_owned();
        assert_eq!(
            app.listeners(),
            r#"{ http = "[::1]:80", "a.sock" = "unix:/run/a.sock" }"#
        );
        let config = Config::parse(&app.render(), "api.toml").expect("a configuration");
        assert_eq!(config.listen, app.listen);
    }

    #[test]
    fn looks_like_this() {
        let mut app = app();
        app.command.truncate(2);
        app.directory = "/srv/shop".to_owned();
        app.autostart = true;
        app.balance = None;
        app.environment.clear();
        insta::assert_snapshot!(app.render(), @r##"
        #:schema file:///usr/share/app-cluster/app-cluster.toml.schema.json
        # The app "api", made by "app-cluster start"; app-cluster.toml(5) has every key.
        # After a change:  app-cluster check api  &&  sudo systemctl reload app-cluster@api

        # What each worker runs, where, and as whom.
        command = ["/usr/bin/node", "./server.js"]
        directory = "/srv/shop"
        user = "alice"

        # Where it listens; systemd does, so a change needs more than a reload.
        listen = ["3000"]

        # A number, "max" (one for each processor) or "-1" (all but one).
        workers = "max"

        # How long requests may take to finish when a worker is replaced.
        #drain_timeout = "30s"

        #environment = { NODE_ENV = "production" }
        "##);
    }
}
