//! Commands that hand secrets to other programs and take them back: `run`, `edit`, `import`, `export`, `set --generate`.

mod edit;
mod import;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod watch;
