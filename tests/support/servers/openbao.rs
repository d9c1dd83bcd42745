//! OpenBao, the open-source fork of Vault: real engines, policies, tokens, AppRole and seal, where a fake could be wrong.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{OPENBAO, Server, request, tool};

/// A server for one test, initialized and unsealed, with an engine of KV version 1 at `secret/`.
pub struct OpenBao {
    server: Server,
    _dir: TempDir,
    pub unseal_key: String,
    pub root_token: String,
}

impl OpenBao {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(|port| {
            let config = format!(
                "storage \"inmem\" {{}}\n\
                 listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_disable = true\n}}\n"
            );
            let file = dir.path().join(format!("config-{port}.hcl"));
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(tool(OPENBAO));
            command.arg("server").arg("-config").arg(file);
            command
        });
        let mut bao = Self {
            server,
            _dir: dir,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        let init = json!({"secret_shares": 1, "secret_threshold": 1});
        let made = bao.done("PUT", "sys/init", &init);
        bao.root_token = made["root_token"].as_str().unwrap().to_owned();
        bao.unseal_key = made["keys"][0].as_str().unwrap().to_owned();
        bao.unseal();
        bao.enable_kv("secret", 1);
        bao
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn unseal(&self) {
        self.done("PUT", "sys/unseal", &json!({"key": self.unseal_key}));
        // It answers 500 to all else until it has become the active node.
        let begun = std::time::Instant::now();
        while self.ask("GET", "sys/health", &Value::Null).0 != 200 {
            assert!(begun.elapsed() < super::WAIT_TIMEOUT, "it is not unsealed");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn seal(&self) {
        self.done("PUT", "sys/seal", &json!({}));
    }

    /// Adds a KV engine of this version.
    pub fn enable_kv(&self, mount_point: &str, version: u8) {
        let engine = json!({"type": "kv", "options": {"version": version.to_string()}});
        self.done("POST", &format!("sys/mounts/{mount_point}"), &engine);
    }

    /// Has the secret at this path of the engine at `secret/` hold this document.
    pub fn put(&self, path: &str, document: &Value) {
        self.done("POST", &format!("secret/{path}"), document);
    }

    /// Has the secret at this path of an engine of version 2 hold this document.
    pub fn put_v2(&self, mount_point: &str, path: &str, document: &Value) {
        let path = format!("{mount_point}/data/{path}");
        // The engine is being upgraded for a moment after it was enabled.
        let begun = std::time::Instant::now();
        while self.ask("POST", &path, &json!({"data": document})).0 != 200 {
            assert!(
                begun.elapsed() < super::WAIT_TIMEOUT,
                "{path} is not written"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// A policy that allows to read these paths and nothing else.
    pub fn policy(&self, name: &str, may_read: &[&str]) {
        let rules: Vec<String> = may_read
            .iter()
            .map(|path| format!("path \"{path}\" {{ capabilities = [\"read\"] }}"))
            .collect();
        let policy = json!({"policy": rules.join("\n")});
        self.done("PUT", &format!("sys/policies/acl/{name}"), &policy);
    }

    /// A token for a client that may read all of `secret/`.
    pub fn token(&self) -> String {
        self.policy("reader", &["secret/*"]);
        self.token_of("reader")
    }

    /// A token with this policy.
    pub fn token_of(&self, policy: &str) -> String {
        let made = self.done("POST", "auth/token/create", &json!({"policies": [policy]}));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Adds the auth method at `auth/approle`.
    pub fn enable_approle(&self) {
        self.done("POST", "sys/auth/approle", &json!({"type": "approle"}));
    }

    /// The role id of an AppRole with these settings, which is made if it is not there.
    pub fn approle(&self, role: &str, settings: &Value) -> String {
        self.done("POST", &format!("auth/approle/role/{role}"), settings);
        let path = format!("auth/approle/role/{role}/role-id");
        let made = self.done("GET", &path, &Value::Null);
        made["data"]["role_id"].as_str().unwrap().to_owned()
    }

    /// A new secret id of an AppRole.
    pub fn secret_id(&self, role: &str) -> String {
        let path = format!("auth/approle/role/{role}/secret-id");
        let made = self.done("POST", &path, &json!({}));
        made["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// The display names of all tokens that are valid.
    pub fn tokens(&self) -> Vec<String> {
        let listed = self.done("GET", "auth/token/accessors?list=true", &Value::Null);
        let accessors = listed["data"]["keys"].as_array().unwrap();
        accessors
            .iter()
            .filter_map(|accessor| {
                let body = json!({"accessor": accessor});
                // One that has ended meanwhile is not there.
                let (status, said) = self.ask("POST", "auth/token/lookup-accessor", &body);
                let said: Value = serde_json::from_str(&said).unwrap_or_default();
                (status == 200).then(|| said["data"]["display_name"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// What it says to the root token; it must be a success.
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, said) = self.ask(method, path, body);
        assert!((200..300).contains(&status), "{path}: {status} {said}");
        serde_json::from_str(&said).unwrap_or_default()
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let url = format!("{}/v1/{path}", self.url());
        let token = [("x-vault-token", self.root_token.as_str())];
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        request(method, &url, &token, body)
    }
}
