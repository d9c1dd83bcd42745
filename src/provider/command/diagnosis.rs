//! What `doctor` asks of the programs: whether they are there, and whether they print what they should.

use std::path::Path;

use super::{CommandBackend, CommandOptions};
use crate::child;
use crate::provider::Finding;
use crate::provider::backend::Fetched;
use crate::sync;
use crate::text::{counted, printable};

/// `may_run`: a program may ask its user something, and use something up.
pub(super) async fn diagnose(commands: Vec<CommandOptions>, may_run: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for command in commands {
        findings.push(of(command, may_run).await);
    }
    findings
}

async fn of(command: CommandOptions, may_run: bool) -> Finding {
    let name = command.name.clone();
    let program = printable(&command.run[0]);
    if let Some(why) = not_found(&command).await {
        return Finding::failed(format!(
            "{name}: {why}; install it, or correct run in live.yaml"
        ));
    }
    if command.per_key || !may_run {
        return Finding::ok(format!("{name}: the program {program} is there"));
    }
    match CommandBackend::new(command).fetch_document().await {
        Ok(Fetched::Document { document, .. }) => Finding::ok(format!(
            "{name}: {program} prints {}",
            counted(document.names().count() as u64, "secret")
        )),
        Ok(Fetched::Missing(why) | Fetched::NotConfigured(why)) => {
            Finding::warning(format!("{name}: {why}"))
        }
        Err(error) => Finding::failed(format!("{name}: {}", error.reason)),
    }
}

/// Looked for on another thread, because a disk may hang.
async fn not_found(command: &CommandOptions) -> Option<String> {
    let word = command.run[0].clone();
    let (sender, found) = tokio::sync::oneshot::channel();
    let look = move || {
        let search = std::env::var_os("PATH");
        drop(sender.send(child::find(Path::new(&word), search.as_deref())));
    };
    sync::spawn("command", sync::LARGE_STACK, look).ok()?;
    found.await.ok()?.err()
}
