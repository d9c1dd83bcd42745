//! The secrets of this user from a Rust program, without a mount. Prints a length only: a value is never printed.

use simpletuner_live::manager::SecretsManager;

fn main() -> simpletuner_live::error::Result<()> {
    let secrets = SecretsManager::open()?;
    let token = secrets.get_or("HF_TOKEN", "")?;
    println!("HF_TOKEN has {} bytes", token.len());
    Ok(())
}
