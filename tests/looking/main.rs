//! What an operator looks at: the file and the command `metrics`, the screen of `top`, and `status` in words.

mod counters;
mod metrics;
mod prometheus;
mod screen;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod top;

use support::home::signal;
use support::{Live, Setup, alone, wait_until};
