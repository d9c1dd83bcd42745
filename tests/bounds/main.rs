//! What nobody may exceed, and what nothing may upset: other users on a mount that root may use, the limit of descriptors, the size of
//! documents, the clock. Each as root and as an ordinary user where that differs; the tests with other users need root.

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
