//! A fake Vault, written from Vault's HTTP API documentation: KV versions 1 and 2, tokens with policies and expiry,
//! AppRole, renewal, namespaces, the seal. It records its requests, and its time passes as a test says.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use simpletuner_live::clock::Instant;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;

pub const ROLE_ID: &str = "hunter2-role-id";
pub const SECRET_ID: &str = "hunter2-secret-id";

/// A server for one test.
pub struct VaultServer {
    port: u16,
    shared: Arc<Mutex<State>>,
    runtime: Runtime,
}

/// A request that the server received.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedRequest {
    pub method: String,
    pub path: String,
    pub namespace: String,
    pub token: Option<String>,
}

#[derive(Default)]
struct State {
    is_sealed: bool,
    /// What has gone by since the start, as a test has it.
    time: Duration,
    tokens: HashMap<String, Token>,
    issued: usize,
    /// By namespace and mount point.
    engines: BTreeMap<(String, String), Engine>,
    approle: Option<AppRole>,
    log: Vec<ReceivedRequest>,
}

/// What a token may do, and until when.
#[derive(Clone)]
struct Token {
    namespace: String,
    /// Paths that it may read.
    may_read: Vec<String>,
    /// How long a renewal is good for; `None`: for ever.
    ttl: Option<Duration>,
    ends: Option<Duration>,
    /// No renewal goes beyond it.
    ends_at_last: Option<Duration>,
    is_renewable: bool,
}

enum Engine {
    V1(HashMap<String, Value>),
    V2(HashMap<String, Versions>),
}

struct Versions {
    number: u64,
    data: Option<Value>,
    deletion_time: &'static str,
    destroyed: bool,
}

/// How the tokens are that a log-in gives.
#[derive(Clone)]
pub struct AppRole {
    pub may_read: Vec<String>,
    pub ttl: Duration,
    pub max_ttl: Duration,
    pub is_renewable: bool,
}

type Answer = (u16, Value);

fn errors(status: u16, errors: &[&str]) -> Answer {
    (status, json!({ "errors": errors }))
}

fn denied() -> Answer {
    errors(403, &["1 error occurred:\n\t* permission denied\n\n"])
}

/// The fields that all answers have.
fn whole(data: Value, auth: Value, warnings: Value) -> Value {
    json!({
        "request_id": "a1b2c3d4-0000-4000-8000-000000000000", "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": data, "wrap_info": null, "warnings": warnings, "auth": auth,
    })
}

impl VaultServer {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared: Arc<Mutex<State>> = Arc::default();
        runtime.spawn(serve(listener, shared.clone()));
        Self {
            port,
            shared,
            runtime,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves at this socket, too.
    pub fn listen_at(&self, socket: &Path) {
        let _runtime = self.runtime.enter();
        let listener = UnixListener::bind(socket).unwrap();
        self.runtime
            .spawn(serve_socket(listener, self.shared.clone()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    /// Has the secret of a version 1 engine, which is made if need be.
    pub fn put_v1(&self, namespace: &str, mount: &str, path: &str, data: &Value) {
        let mut state = self.state();
        let key = (namespace.to_owned(), mount.to_owned());
        let none = || Engine::V1(HashMap::new());
        match state.engines.entry(key).or_insert_with(none) {
            Engine::V1(secrets) => drop(secrets.insert(path.to_owned(), data.clone())),
            Engine::V2(_) => panic!("{mount} is of version 2"),
        }
    }

    /// Has another version of the secret of a version 2 engine, which is made if need be.
    pub fn put_v2(&self, namespace: &str, mount: &str, path: &str, data: &Value) {
        let mut state = self.state();
        let key = (namespace.to_owned(), mount.to_owned());
        let none = || Engine::V2(HashMap::new());
        let Engine::V2(secrets) = state.engines.entry(key).or_insert_with(none) else {
            panic!("{mount} is of version 1")
        };
        let number = secrets.get(path).map_or(1, |before| before.number + 1);
        let version = Versions {
            number,
            data: Some(data.clone()),
            deletion_time: "",
            destroyed: false,
        };
        secrets.insert(path.to_owned(), version);
    }

    /// The present version is deleted, or destroyed for good.
    pub fn delete_v2(&self, mount: &str, path: &str, destroyed: bool) {
        let mut state = self.state();
        let key = (String::new(), mount.to_owned());
        let Some(Engine::V2(secrets)) = state.engines.get_mut(&key) else {
            panic!("there is no {mount}")
        };
        let version = secrets.get_mut(path).unwrap();
        version.data = None;
        version.destroyed = destroyed;
        if !destroyed {
            version.deletion_time = "2026-01-02T03:04:05.678Z";
        }
    }

    /// What is mounted there is gone.
    pub fn unmount(&self, mount: &str) {
        let key = (String::new(), mount.to_owned());
        self.state().engines.remove(&key);
    }

    /// A token that may read these paths and nothing else, without an end.
    pub fn token(&self, namespace: &str, may_read: &[&str]) -> String {
        self.state().issue(Token {
            namespace: namespace.to_owned(),
            may_read: may_read.iter().map(ToString::to_string).collect(),
            ttl: None,
            ends: None,
            ends_at_last: None,
            is_renewable: false,
        })
    }

    pub fn revoke(&self, token: &str) {
        self.state().tokens.remove(token);
    }

    /// No token may read anything any more.
    pub fn deny_all(&self) {
        let mut state = self.state();
        let tokens = state.tokens.values_mut();
        tokens.for_each(|token| token.may_read.clear());
    }

    /// Every token may read this path.
    pub fn allow_all(&self, path: &str) {
        let mut state = self.state();
        let tokens = state.tokens.values_mut();
        tokens.for_each(|token| token.may_read.push(path.to_owned()));
    }

    /// How many tokens there are that can be used.
    pub fn live_tokens(&self) -> usize {
        let state = self.state();
        let lives = |token: &&Token| token.ends.is_none_or(|ends| ends > state.time);
        state.tokens.values().filter(lives).count()
    }

    /// Lets in by AppRole; `None`: nobody.
    pub fn let_in(&self, approle: impl Into<Option<AppRole>>) {
        self.state().approle = approle.into();
    }

    pub fn seal(&self, is_sealed: bool) {
        self.state().is_sealed = is_sealed;
    }

    /// Time goes by, here and by [`clock`](Self::clock).
    pub fn wait(&self, time: Duration) {
        self.state().time += time;
    }

    pub fn clock(&self) -> impl Fn() -> Instant + Send + Sync + 'static {
        let (shared, start) = (self.shared.clone(), Instant::now());
        move || start + shared.lock().unwrap().time
    }

    /// What it was asked since the last time.
    pub fn take_log(&self) -> Vec<ReceivedRequest> {
        std::mem::take(&mut self.state().log)
    }

    /// The same, as `GET secret/data/simpletuner`.
    pub fn take_calls(&self) -> Vec<String> {
        let log = self.take_log();
        log.iter()
            .map(|asked| format!("{} {}", asked.method, asked.path))
            .collect()
    }
}

async fn serve_socket(listener: UnixListener, shared: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = service_fn(move |request| answer(shared.clone(), request));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn serve(listener: TcpListener, shared: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = service_fn(move |request| answer(shared.clone(), request));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    shared: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = |name: &str| {
        let value = head.headers.get(name)?.to_str().unwrap();
        Some(value.to_owned())
    };
    let path = head.uri.path();
    let asked = ReceivedRequest {
        method: head.method.to_string(),
        path: percent_decode_str(path.strip_prefix("/v1/").unwrap_or(path))
            .decode_utf8()
            .unwrap()
            .into_owned(),
        namespace: header("x-vault-namespace").unwrap_or_default(),
        token: header("x-vault-token"),
    };
    let (status, body) = {
        let mut state = shared.lock().unwrap();
        state.log.push(asked.clone());
        match path.starts_with("/v1/") {
            true => state.answer(&asked, &body),
            false => errors(404, &[]),
        }
    };
    Ok(Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("cache-control", "no-store")
        .body(Full::from(body.to_string()))
        .unwrap())
}

impl State {
    fn issue(&mut self, token: Token) -> String {
        self.issued += 1;
        let name = format!("hvs.hunter2-token-{}", self.issued);
        self.tokens.insert(name.clone(), token);
        name
    }

    fn answer(&mut self, asked: &ReceivedRequest, body: &[u8]) -> Answer {
        if self.is_sealed {
            return errors(503, &["Vault is sealed"]);
        }
        let writes = matches!(asked.method.as_str(), "POST" | "PUT");
        if asked.path == "auth/approle/login" && writes && asked.namespace.is_empty() {
            return self.log_in(body);
        }
        let name = asked.token.clone().unwrap_or_default();
        let is_good = |token: &&Token| {
            token.namespace == asked.namespace && token.ends.is_none_or(|ends| ends > self.time)
        };
        let Some(token) = self.tokens.get(&name).filter(is_good).cloned() else {
            return errors(403, &["permission denied"]);
        };
        match (asked.path.as_str(), asked.method.as_str()) {
            ("auth/token/renew-self", _) if writes => self.renew(&name, token),
            ("auth/token/revoke-self", _) if writes => {
                self.tokens.remove(&name);
                (204, Value::Null)
            }
            (path, "GET") if token.may_read.iter().any(|may| may == path) => {
                self.read(&asked.namespace, path)
            }
            _ => denied(),
        }
    }

    fn read(&self, namespace: &str, path: &str) -> Answer {
        let mount = self.engines.iter().find_map(|((of, mount), engine)| {
            let rest = path.strip_prefix(mount)?.strip_prefix('/')?;
            (of == namespace).then_some((rest, engine))
        });
        let no_handler = format!("no handler for route \"{path}\". route entry not found.");
        match mount {
            None => errors(404, &[&no_handler]),
            Some((path, Engine::V1(secrets))) => match secrets.get(path) {
                Some(data) => (200, whole(data.clone(), Value::Null, Value::Null)),
                None => errors(404, &[]),
            },
            Some((path, Engine::V2(secrets))) => match path.strip_prefix("data/") {
                Some(path) => secrets.get(path).map_or(errors(404, &[]), Versions::answer),
                None => {
                    let warning = json!([
                        "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use."
                    ]);
                    (404, whole(Value::Null, Value::Null, warning))
                }
            },
        }
    }

    fn log_in(&mut self, body: &[u8]) -> Answer {
        let Some(approle) = self.approle.clone() else {
            return errors(403, &["permission denied"]);
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if body["role_id"] != ROLE_ID || body["secret_id"] != SECRET_ID {
            return errors(400, &["invalid role or secret ID"]);
        }
        let token = Token {
            namespace: String::new(),
            may_read: approle.may_read,
            ttl: Some(approle.ttl),
            ends: Some(self.time + approle.ttl),
            ends_at_last: Some(self.time + approle.max_ttl),
            is_renewable: approle.is_renewable,
        };
        let name = self.issue(token);
        (200, self.auth(&name))
    }

    fn renew(&mut self, name: &str, token: Token) -> Answer {
        if !token.is_renewable {
            return errors(400, &["1 error occurred:\n\t* lease is not renewable\n\n"]);
        }
        let ends = token.ttl.map(|ttl| self.time + ttl);
        let ends = ends.min(token.ends_at_last);
        self.tokens.insert(name.to_owned(), Token { ends, ..token });
        (200, self.auth(name))
    }

    fn auth(&self, name: &str) -> Value {
        let token = &self.tokens[name];
        let left = token.ends.map_or(0, |ends| (ends - self.time).as_secs());
        let auth = json!({
            "client_token": name, "accessor": "fd6c9a00", "policies": ["default", "trainer"],
            "token_policies": ["default", "trainer"], "metadata": {"role_name": "trainer"},
            "lease_duration": left, "renewable": token.is_renewable, "entity_id": "", "token_type": "service",
            "orphan": true, "mfa_requirement": null, "num_uses": 0,
        });
        whole(Value::Null, auth, Value::Null)
    }
}

impl Versions {
    fn answer(&self) -> Answer {
        let metadata = json!({
            "created_time": "2026-01-01T00:00:00.25Z", "custom_metadata": null, "deletion_time": self.deletion_time,
            "destroyed": self.destroyed, "version": self.number,
        });
        let status = if self.data.is_some() { 200 } else { 404 };
        let data = json!({"data": self.data, "metadata": metadata});
        (status, whole(data, Value::Null, Value::Null))
    }
}
