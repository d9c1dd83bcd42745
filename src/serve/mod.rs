//! What other programs ask for over sockets. Each service defines, resolves or binds views, and holds no secret.
//!
//! - [`socket`]: the file of a listening socket: who may connect, and whose a file is that is there already
//! - [`http`]: requests and answers, bounded in number, size and time
//! - [`docker`]: the volume plugin protocol of Docker and Podman

pub mod docker;
pub mod http;
pub mod socket;
