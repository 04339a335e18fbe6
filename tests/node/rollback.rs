// SPDX-License-Identifier: MIT OR Apache-2.0
//! Releases that are deployed, fail, and are taken back.

use crate::Row;
use crate::node_tools::{self, Node, VERSIONS};
use crate::releases::{self, Language};

pub const ROWS: &[Row] = &[
    ("rollback_deployed_and_taken_back", deployed),
    ("rollback_third_of_six_fails", third_of_six),
    ("rollback_a_storm_is_ended", storm),
    ("rollback_whatever_happens_during_a_reload", whatever),
];

const PROGRAM: &str = r#"
if (process.env.FAIL_SLOT === process.env.APP_CLUSTER_SLOT) {
  console.error('cannot find flux');
  process.exit(1);
}
const server = require('node:http').createServer((request, response) => {
  response.end(JSON.stringify({ pid: process.pid }));
});
if (process.env.CRASH_MS) setTimeout(() => process.abort(), Number(process.env.CRASH_MS));
setTimeout(() => server.listen(process.env.PORT), Number(process.env.START_MS ?? 0));
"#;

/// This version, and another one.
fn language(node: &Node) -> Result<Language, String> {
    let other = VERSIONS.into_iter().find(|v| *v > node.version.as_str());
    let other = node_tools::node(other.unwrap_or(VERSIONS[0]))?;
    Ok(Language {
        programs: [node.program.clone(), other.program],
        name: "node",
        file: "server.cjs",
        text: PROGRAM,
    })
}

fn deployed(node: &Node) -> Result<(), String> {
    releases::deployed_and_taken_back(&language(node)?);
    Ok(())
}

fn third_of_six(node: &Node) -> Result<(), String> {
    let language = language(node)?;
    releases::third_of_six_fails(&language, false);
    releases::third_of_six_fails(&language, true);
    Ok(())
}

fn whatever(node: &Node) -> Result<(), String> {
    releases::whatever_happens_during_a_reload(&language(node)?);
    Ok(())
}

fn storm(node: &Node) -> Result<(), String> {
    releases::a_storm_is_ended(&language(node)?);
    Ok(())
}
