//! A server of Vault's kind, RustyVault: KV version 1 at `secret/`, tokens, the seal.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{RVAULT, Server, request, tool};

/// A server of one's own, initialized and unsealed.
pub struct RVault {
    server: Server,
    _dir: TempDir,
    unseal_key: String,
    pub root_token: String,
}

impl RVault {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(|port| {
            let data = dir.path().join(format!("data-{port}"));
            let config = format!(
                "storage \"file\" {{\n  path = \"{}\"\n}}\n\
                 listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_disable = \"true\"\n}}\n\
                 work_dir = \"{}\"\n",
                data.display(),
                dir.path().display()
            );
            let file = dir.path().join(format!("config-{port}.hcl"));
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(tool(RVAULT));
            command.arg("server").arg("--config").arg(file);
            command
        });
        let mut vault = Self {
            server,
            _dir: dir,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        let init = json!({"secret_shares": 1, "secret_threshold": 1});
        let made = vault.done("PUT", "sys/init", &init);
        vault.root_token = made["root_token"].as_str().unwrap().to_owned();
        vault.unseal_key = made["keys"][0].as_str().unwrap().to_owned();
        vault.unseal();
        vault
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn unseal(&self) {
        self.done("PUT", "sys/unseal", &json!({"key": self.unseal_key}));
    }

    pub fn seal(&self) {
        self.done("PUT", "sys/seal", &json!({}));
    }

    /// Has the secret at this path of the engine at `secret/` hold this document.
    pub fn put(&self, path: &str, document: &Value) {
        self.done("POST", &format!("secret/{path}"), document);
    }

    /// A token of its own for a client. (This server has no policies.)
    pub fn token(&self) -> String {
        let made = self.done(
            "POST",
            "auth/token/create",
            &json!({"policies": ["default"]}),
        );
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("{}/v1/{path}", self.url());
        let token = [("x-vault-token", self.root_token.as_str())];
        let (status, said) = request(method, &url, &token, body.to_string());
        assert!((200..300).contains(&status), "{path}: {status} {said}");
        serde_json::from_str(&said).unwrap_or_default()
    }
}
