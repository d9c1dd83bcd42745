//! Servers that backends are tested against, on free ports of the loopback interface. All end when they are dropped.

#![allow(dead_code)]

pub mod tls;
