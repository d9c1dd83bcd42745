//! An AWS and a Vault to try the mount with: moto and OpenBao on loopback, each with a document, and each behind a
//! proxy that can fail. Prints the variables that lead to them, or writes them to the file that it is given, and then
//! obeys the commands on standard input.
//!
//! `scripts/test-tools` makes the servers; they end with this program.

#[path = "../tests/support/servers/mod.rs"]
mod servers;

use std::io::{BufRead, IsTerminal, Result, Write};
use std::os::unix::fs::OpenOptionsExt;

use servers::backends::Backends;

fn main() -> Result<()> {
    let mut backends = Backends::start();
    let mut out = std::io::stdout();
    match std::env::args_os().nth(1) {
        // There is a token in it.
        Some(path) => std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?
            .write_all(backends.exports().as_bytes())?,
        None => write!(out, "{}", backends.exports())?,
    }
    writeln!(out, "# ready")?;
    let prompts = std::io::stdin().is_terminal();
    let prompt = |out: &mut std::io::Stdout| match prompts {
        true => write!(out, "backends> ").and_then(|()| out.flush()),
        false => Ok(()),
    };
    prompt(&mut out)?;
    for line in std::io::stdin().lock().lines() {
        match backends.obey(&line?) {
            Ok(reply) => writeln!(out, "{reply}")?,
            Err(usage) => eprintln!("{usage}"),
        }
        prompt(&mut out)?;
    }
    Ok(())
}
