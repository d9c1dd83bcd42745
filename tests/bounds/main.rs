//! Bounds that hold whatever happens: other users get nothing of a mount that root may use, descriptors and documents have
//! limits, and a wall clock that jumps does not matter. The tests run as root and as an ordinary user, so they need root.

#[path = "../support/servers/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

mod clock;
mod descriptors;
mod documents;
mod strangers;

use support::home::is_root;
use support::user::User;

/// Root and an ordinary user, each with a home.
fn users() -> Vec<User> {
    match is_root() {
        true => ["root", "nobody"].map(User::new).into(),
        false => Vec::new(),
    }
}
