//! The virtual tree.

pub mod bundle;
