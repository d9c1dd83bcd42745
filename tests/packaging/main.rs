//! What is installed beside the program, and what it is made of: the manual, the Debian package, the licences.

mod all;
mod deb;
mod licences;
mod manual;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
