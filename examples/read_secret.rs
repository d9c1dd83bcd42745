//! Reads a secret of this user, without a mount: through the environment, the secrets file and the configured backends.
//! Usage: `read_secret [KEY]`. Prints a length only: a value is never printed.

use simpletuner_live::manager::SecretsManager;

fn main() -> simpletuner_live::error::Result<()> {
    let key = std::env::args().nth(1).unwrap_or("HF_TOKEN".into());
    let secrets = SecretsManager::open()?;
    let token = secrets.get_or(&key, "")?;
    println!("{key} has {} bytes", token.len());
    Ok(())
}
