// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses to listen on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a unix socket: `sun_path` of unix(7) without its NUL.
const UNIX_PATH: usize = 107;
/// Most listeners of an app.
const MOST: usize = 64;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenAddress {
    /// Exactly this address. `[::]` takes IPv4 too (IPV6_V6ONLY off, ipv6(7)).
    Tcp(SocketAddr),
    /// This port on every address: `[::]`, or `0.0.0.0` where there is no IPv6.
    Port(u16),
    /// A stream socket at this absolute path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The TCP port; `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Port(port) => Some(*port),
            ListenAddress::Unix(_) => None,
        }
    }

    /// What two listeners cannot both have, for people: a port on all addresses, however
    /// that is written (`[::]` takes IPv4 too), or with one address, or a path.
    pub fn claim(&self) -> String {
        match self {
            ListenAddress::Port(port) => format!("port {port}"),
            // `[::ffff:127.0.0.1]` is 127.0.0.1.
            ListenAddress::Tcp(at) => match at.ip().to_canonical() {
                ip if ip.is_unspecified() => format!("port {}", at.port()),
                ip @ IpAddr::V4(_) => SocketAddr::new(ip, at.port()).to_string(),
                IpAddr::V6(_) => at.to_string(),
            },
            // Without doubled slashes and the like.
            ListenAddress::Unix(path) => {
                let path: PathBuf = path.components().collect();
                format!("unix:{}", path.display())
            }
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Port(port) => port.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if text.starts_with('/') {
            return Err(format!("write a unix socket as \"unix:{text}\""));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(ListenAddress::Tcp(address));
        }
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            return match text.parse::<u16>() {
                Ok(port) => Ok(ListenAddress::Port(port)),
                Err(_) => Err(format!("`{text}` is no port: they end at 65535")),
            };
        }
        Err(explain(text))
    }
}

fn unix(path: &str) -> Result<ListenAddress, String> {
    if path.starts_with('@') {
        Err("abstract unix sockets are not yet supported: use a path".into())
    } else if !path.starts_with('/') || path.ends_with('/') {
        Err(format!(
            "`unix:{path}` has no absolute path: write that of the socket, such as \
             \"unix:/run/web.sock\""
        ))
    } else if path.len() > UNIX_PATH {
        Err(format!(
            "the path of a unix socket has at most {UNIX_PATH} bytes, this one has {}",
            path.len()
        ))
    } else if path.contains('\0') {
        Err("a path cannot contain a NUL".into())
    } else {
        Ok(ListenAddress::Unix(PathBuf::from(path)))
    }
}

/// Says how to write what `text` seems to mean.
fn explain(text: &str) -> String {
    let port = |port: &str| port.parse::<u16>().is_ok();
    match text.rsplit_once(':') {
        _ if text.contains("://") => {
            format!("`{text}` is a URL: write address and port only, such as \"0.0.0.0:80\"")
        }
        Some(("" | "*", number)) if port(number) => {
            format!("`{text}` is no address: write \"{number}\" for port {number} on every address")
        }
        Some(("localhost", number)) if port(number) => format!(
            "`{text}`: names are not looked up, write \"127.0.0.1:{number}\" or \"[::1]:{number}\""
        ),
        Some((host, number)) if port(number) && host.contains(':') => {
            format!(
                "`{text}` is no address: write an IPv6 address in brackets, such as \
                 \"[::1]:{number}\""
            )
        }
        Some((_, number)) if port(number) => format!(
            "`{text}`: names are not looked up, write an IP address, such as \"127.0.0.1:{number}\""
        ),
        None if text.parse::<Ipv4Addr>().is_ok() => {
            format!("`{text}` has no port: write \"{text}:80\" for port 80")
        }
        _ => format!(
            "`{text}` is no address to listen on, such as \"127.0.0.1:3000\", \"[::]:80\", \
             \"3000\" or \"unix:/run/web.sock\""
        ),
    }
}

/// One address to listen on and its name in `LISTEN_FDNAMES` (sd_listen_fds(3)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Unique among the listeners of an app, see [`Listen::valid_name`].
    pub name: String,
    /// See [`ListenAddress`].
    pub address: ListenAddress,
}

impl Listen {
    /// A listener without a name of its own: it is called after its port (`3000`) or
    /// its socket file (`web.sock`).
    ///
    /// # Errors
    /// The file name cannot be a listener's name.
    pub fn unnamed(address: ListenAddress) -> Result<Listen, String> {
        let name = match &address {
            ListenAddress::Tcp(at) => at.port().to_string(),
            ListenAddress::Port(port) => port.to_string(),
            ListenAddress::Unix(path) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        Listen::valid_name(&name).map_err(|why| format!("{why}; give it one: NAME=unix:PATH"))?;
        Ok(Listen { name, address })
    }

    /// Checks the name of a listener: `[A-Za-z0-9_.-]`, 1 to 255 characters, which is
    /// stricter than `FileDescriptorName=` of systemd.socket(5).
    ///
    /// # Errors
    /// A sentence that says what is wrong with `name`.
    pub fn valid_name(name: &str) -> Result<(), String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || name.len() > 255 || !name.chars().all(fits) {
            return Err(format!(
                "{name:?} cannot name a listener: 1 to 255 letters, digits, `_`, `.` and `-`"
            ));
        }
        Ok(())
    }

    /// Checks the listeners of an app together: at most 64, no name and no address twice
    /// (port 0 is another port each time).
    ///
    /// # Errors
    /// A sentence that says which two are in each other's way.
    pub fn distinct(listeners: &[Listen]) -> Result<(), String> {
        if listeners.len() > MOST {
            return Err(format!("an app has at most {MOST} listeners"));
        }
        for (n, one) in listeners.iter().enumerate() {
            for other in &listeners[..n] {
                if one.address.port() != Some(0) && one.address.claim() == other.address.claim() {
                    return Err(match one.address == other.address {
                        true => format!("two listeners have the address {}", one.address),
                        false => format!(
                            "{} and {} are the same address for the kernel",
                            other.address, one.address
                        ),
                    });
                }
                if one.name == other.name {
                    return Err(format!(
                        "two listeners are called \"{}\": name them, such as {{ first = \"{}\", \
                         second = \"{}\" }}",
                        one.name, other.address, one.address
                    ));
                }
            }
        }
        Ok(())
    }
}

/// `ADDRESS` or `NAME=ADDRESS`, as the command line's `--listen` takes it.
impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text.split_once('=') {
            // A socket file may have a `=` in its name.
            Some((name, address)) if !name.contains([':', '/']) => {
                Listen::valid_name(name)?;
                Ok(Listen {
                    name: name.to_owned(),
                    address: address.parse()?,
                })
            }
            _ => Listen::unnamed(text.parse()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, name, port) in [
            ("127.0.0.1:3000", "3000", Some(3000)),
            ("[::]:80", "80", Some(80)),
            ("[fe80::1%2]:80", "80", Some(80)),
            ("3000", "3000", Some(3000)),
            ("unix:/run/web.sock", "web.sock", None),
            ("http=0.0.0.0:80", "http", Some(80)),
            ("api=unix:/run/a=b", "api", None),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!(
                (listen.name.as_str(), listen.address.port()),
                (name, port),
                "{text}"
            );
            let address = text.split_once('=').filter(|(n, _)| !n.contains(':'));
            let address = address.map_or(text, |(_, address)| address);
            assert_eq!(listen.address.to_string(), address);
        }
    }

    #[test]
    fn one_address_has_several_spellings() {
        let both = |one: &str, other: &str| {
            let named = [("a", one), ("b", other)].map(|(name, address)| Listen {
                name: name.to_owned(),
                address: address.parse().unwrap(),
            });
            Listen::distinct(&named)
        };
        for (one, other) in [
            ("3999", "[::]:3999"),
            ("3999", "0.0.0.0:3999"),
            ("0.0.0.0:3999", "[::]:3999"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("unix:/run/a", "unix:/run//a"),
        ] {
            let why = both(one, other).unwrap_err();
            assert!(
                why.contains("same address") || why.contains("two listeners"),
                "{why}"
            );
        }
        for (one, other) in [
            ("3999", "[::]:3998"),
            ("127.0.0.1:80", "[::1]:80"),
            ("[fe80::1%2]:80", "[fe80::1%3]:80"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("unix:/run/a", "unix:/run/b"),
        ] {
            assert_eq!(both(one, other), Ok(()));
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, part) in [
            ("", "no address"),
            ("70000", "65535"),
            (":3000", "write \"3000\""),
            ("*:3000", "write \"3000\""),
            ("localhost:80", "127.0.0.1:80"),
            ("example.org:80", "IP address"),
            ("::1:80", "[::1]:80"),
            ("http://x:80", "URL"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("127.0.0.1:99999", "no address"),
            ("/run/x", "unix:/run/x"),
            ("unix:x", "absolute path"),
            ("unix:@x", "not yet"),
            ("a b=3000", "cannot name"),
            ("=3000", "cannot name"),
        ] {
            let why = text.parse::<Listen>().unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(long.parse::<Listen>().unwrap_err().contains("108"));
    }
}
