//! A reader gets one whole value, and the present one, while it is changed in every way: where the
//! kernel keeps names until something changes, and where it keeps none, as kernels without the epoch do.

mod readers;
mod stale;
#[path = "../support/mod.rs"]
mod support;
mod torture;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use support::{Live, Setup, wait_until};

/// How long the kernel may keep a name.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Until something changes, if the kernel knows the epoch (Linux 6.16).
    NamesHold,
    /// Never, as before that.
    NoEpoch,
}

const MODES: [Mode; 2] = [Mode::NamesHold, Mode::NoEpoch];

fn mounted(mode: Mode) -> Live {
    let env = match mode {
        Mode::NamesHold => vec![],
        Mode::NoEpoch => vec![("SIMPLETUNER_LIVE_NO_EPOCH", "1")],
    };
    Live::start_with(Setup {
        env,
        ..Setup::default()
    })
}
