//! An AWS and a Vault with a document each, each behind a proxy that can fail, and the commands by which
//! `examples/backends.rs` and the guide change them.

use serde_json::{Map, Value, json};

use super::moto::Moto;
use super::openbao::OpenBao;
use super::proxy::{Fault, Proxy};

pub const USAGE: &str = "commands, after `aws` or `vault`:
  put KEY=VALUE...        changes its document (KEY= removes the key)
  pass | refuse | hang    answers, refuses connections, never answers
  hold                    answers after the next `pass`
  requests                how many there were";

/// The two servers. They end when it is dropped.
pub struct Backends {
    aws: Side,
    vault: Side,
    moto: Moto,
    openbao: OpenBao,
}

struct Side {
    proxy: Proxy,
    document: Map<String, Value>,
}

impl Backends {
    pub fn start() -> Self {
        let (moto, openbao) = (Moto::start(), OpenBao::start());
        let side = |url: &str, document: Value| Side {
            proxy: Proxy::before(url),
            document: document.as_object().cloned().unwrap_or_default(),
        };
        let started = Self {
            aws: side(
                &moto.url(),
                json!({"IN_AWS": "of AWS", "IN_BOTH": "of AWS"}),
            ),
            vault: side(
                &openbao.url(),
                json!({"IN_VAULT": "of Vault", "IN_BOTH": "of Vault"}),
            ),
            moto,
            openbao,
        };
        started.store();
        started
    }

    /// Lines for a shell: the variables that lead to the servers.
    pub fn exports(&self) -> String {
        let mut exports = self.moto.env(&self.aws.proxy.url());
        exports.extend([
            ("SIMPLETUNER_AWS_SECRET_NAME", "simpletuner".to_owned()),
            ("VAULT_ADDR", self.vault.proxy.url()),
            ("VAULT_TOKEN", self.openbao.token()),
        ]);
        let lines = exports
            .iter()
            .map(|(name, value)| format!("export {name}={value}\n"));
        let lines: String = lines.collect();
        format!("{lines}# {} is AWS without the proxy\n", self.moto.url())
    }

    /// Carries a command out. The reply, or [`USAGE`] if there is no such command.
    pub fn obey(&mut self, command: &str) -> Result<String, &'static str> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let side = match words.first() {
            Some(&"aws") => &mut self.aws,
            Some(&"vault") => &mut self.vault,
            _ => return Err(USAGE),
        };
        match words[1..] {
            ["put", ref changes @ ..] => {
                side.change(changes).ok_or(USAGE)?;
                self.store();
            }
            ["pass"] => side.proxy.set(Fault::None),
            ["refuse"] => side.proxy.set(Fault::Refuse),
            ["hang"] => side.proxy.set(Fault::Hang),
            ["hold"] => side.proxy.set(Fault::Hold),
            ["requests"] => return Ok(side.proxy.requests().to_string()),
            _ => return Err(USAGE),
        }
        Ok("done".to_owned())
    }

    fn store(&self) {
        let document = |side: &Side| Value::Object(side.document.clone());
        self.moto
            .put("simpletuner", &document(&self.aws).to_string());
        self.openbao.put("simpletuner", &document(&self.vault));
    }
}

impl Side {
    /// `None`, and nothing has changed, if a change is not KEY=VALUE.
    fn change(&mut self, changes: &[&str]) -> Option<()> {
        let changes: Option<Vec<_>> = changes.iter().map(|text| text.split_once('=')).collect();
        for (key, value) in changes? {
            match value {
                "" => drop(self.document.shift_remove(key)),
                value => drop(self.document.insert(key.to_owned(), value.into())),
            }
        }
        Some(())
    }
}
