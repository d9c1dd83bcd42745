//! A source of secrets of the program's own: the files of a folder, such as the `/run/secrets` of a container. The
//! environment is asked first. Usage: `own_source FOLDER KEY`. Prints a length only: a value is never printed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use simpletuner_live::error::{Error, Result};
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::{EnvironmentProvider, KeyedSource, Provided};
use simpletuner_live::secret::{SecretName, SecretValue};

struct SecretsFolder(PathBuf);

impl KeyedSource for SecretsFolder {
    fn name(&self) -> &str {
        "folder"
    }

    fn get(&self, name: &SecretName) -> Result<Option<Provided>> {
        let path = self.0.join(name.as_str());
        let read = || io::Result::Ok((fs::read(&path)?, fs::metadata(&path)?.modified()?));
        match read() {
            Ok((bytes, changed_at)) => {
                let value = SecretValue::from_bytes(name.as_str(), &bytes)?;
                Ok(Some(Provided::now(value, changed_at)))
            }
            // "No such key": the next provider of the chain is asked. Any other error is a failure.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path.display().to_string(), error)),
        }
    }

    fn names(&self) -> Vec<SecretName> {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files
            .filter_map(|file| SecretName::new(file.file_name().to_str()?).ok())
            .collect()
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(key)) = (args.next(), args.next()) else {
        eprintln!("usage: own_source FOLDER KEY");
        std::process::exit(2);
    };
    let secrets = SecretsManager::builder()
        .with_provider(Arc::new(EnvironmentProvider::from_process("", &[])))
        .with_source(Arc::new(SecretsFolder(folder.into())))
        .build();
    println!("{key} has {} bytes", secrets.get(&key)?.len());
    Ok(())
}
