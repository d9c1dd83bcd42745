//! An AWS and a Vault to try the mount with: moto and OpenBao on loopback, each with a document, and each behind a
//! proxy that can fail. Prints the variables that lead to them, and then obeys the commands on standard input.
//!
//! `scripts/test-tools` makes the servers; they end with this program.

#[path = "../tests/support/servers/mod.rs"]
mod servers;

use std::io::{BufRead, Result, Write};

use serde_json::{Map, Value, json};
use servers::moto::Moto;
use servers::openbao::OpenBao;
use servers::proxy::{Fault, Proxy};

const USAGE: &str = "commands, after `aws` or `vault`:
  put KEY=VALUE...        changes its document (KEY= removes the key)
  pass | refuse | hang    answers, refuses connections, never answers
  hold                    answers after the next `pass`
  requests                how many there were";

/// One of the two, as the commands see it.
struct Side<'a> {
    name: &'static str,
    proxy: Proxy,
    document: Map<String, Value>,
    put: Box<dyn Fn(&Value) + 'a>,
}

fn main() -> Result<()> {
    let (moto, openbao) = (Moto::start(), OpenBao::start());
    let document = |value: Value| value.as_object().cloned().unwrap_or_default();
    let mut sides = [
        Side {
            name: "aws",
            proxy: Proxy::before(&moto.url()),
            document: document(json!({"IN_AWS": "of AWS", "IN_BOTH": "of AWS"})),
            put: Box::new(|document| moto.put("simpletuner", &document.to_string())),
        },
        Side {
            name: "vault",
            proxy: Proxy::before(&openbao.url()),
            document: document(json!({"IN_VAULT": "of Vault", "IN_BOTH": "of Vault"})),
            put: Box::new(|document| openbao.put("simpletuner", document)),
        },
    ];
    let mut out = std::io::stdout();
    for side in &mut sides {
        side.put(&[])?;
    }
    for (name, value) in moto.env(&sides[0].proxy.url()) {
        writeln!(out, "export {name}={value}")?;
    }
    writeln!(out, "export SIMPLETUNER_AWS_SECRET_NAME=simpletuner")?;
    writeln!(out, "export VAULT_ADDR={}", sides[1].proxy.url())?;
    writeln!(out, "export VAULT_TOKEN={}", openbao.token())?;
    writeln!(out, "# {} is AWS without the proxy", moto.url())?;
    writeln!(out, "# ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let side = sides
            .iter_mut()
            .find(|side| words.first() == Some(&side.name));
        let Some(side) = side else {
            eprintln!("{USAGE}");
            continue;
        };
        match words[1..] {
            ["put", ref changes @ ..] => side.put(changes)?,
            ["pass"] => side.proxy.set(Fault::None),
            ["refuse"] => side.proxy.set(Fault::Refuse),
            ["hang"] => side.proxy.set(Fault::Hang),
            ["hold"] => side.proxy.set(Fault::Hold),
            ["requests"] => {
                writeln!(out, "{}", side.proxy.requests())?;
                continue;
            }
            _ => {
                eprintln!("{USAGE}");
                continue;
            }
        }
        writeln!(out, "done")?;
    }
    Ok(())
}

impl Side<'_> {
    fn put(&mut self, changes: &[&str]) -> Result<()> {
        for change in changes {
            match change.split_once('=') {
                None => eprintln!("{change}: not KEY=VALUE"),
                Some((key, "")) => drop(self.document.shift_remove(key)),
                Some((key, value)) => drop(self.document.insert(key.to_owned(), value.into())),
            }
        }
        (self.put)(&Value::Object(self.document.clone()));
        Ok(())
    }
}
