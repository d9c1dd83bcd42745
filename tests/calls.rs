//! Makes every call in the documentation's table of SimpleTuner's calls.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use simpletuner_live::cache::{CacheOptions, TtlCache};
use simpletuner_live::credential::{self, KeySource};
use simpletuner_live::error::Error;
use simpletuner_live::hardware::{self, Price, PriceTable};
use simpletuner_live::manager::SecretsManager;
use simpletuner_live::provider::BACKENDS;
use simpletuner_live::provider::aws::{AwsBackend, AwsOptions};
use simpletuner_live::provider::backend::Backend;
use simpletuner_live::provider::file::{FileOptions, StoreLocation};
use simpletuner_live::provider::vault::{VaultAuth, VaultBackend, VaultOptions, VaultTls};
use simpletuner_live::provider::{EnvironmentProvider, FileProvider, Provider};
use simpletuner_live::secret::{SecretName, SecretValue};
use simpletuner_live::settings::{Flags, Settings};
use simpletuner_live::simpletuner_db::{self, ProviderConfigs};
use simpletuner_live::users;

const TABLE: &str = include_str!("../src/calls.md");
/// Set in the child process that makes the calls in a scratch home.
const CHILD: &str = "SIMPLETUNER_LIVE_TEST_CALLS";

fn cache() -> TtlCache<u32> {
    TtlCache::new(CacheOptions {
        default_ttl: Duration::from_secs(300),
        max_size: 10,
        cleanup_interval: Some(Duration::from_secs(60)),
    })
}

fn manager() -> Arc<SecretsManager> {
    SecretsManager::global().unwrap()
}

fn ok(value: u32) -> impl FnOnce() -> Result<u32, String> {
    move || Ok(value)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().unwrap().block_on(future)
}

fn file_options() -> FileOptions {
    let folder = simpletuner_folder();
    FileOptions {
        location: StoreLocation::at(folder.join("other.json")),
        key: KeySource::new(None, folder.join("credential.key")),
        encrypt: true,
        max_stale: Duration::from_secs(3600),
        max_keys: 10_000,
        keep_previous: 1,
        lock_timeout: Duration::from_secs(10),
    }
}

fn simpletuner_folder() -> std::path::PathBuf {
    std::path::Path::new(&std::env::var("HOME").unwrap()).join(".simpletuner")
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

simpletuner_live::cached! {
    ttl = 60, key_prefix = "p";
    fn function(id: u32) -> u32 {
        id + 1
    }
}

struct Row {
    here: &'static str,
    code: &'static str,
    call: fn(),
}

macro_rules! rows {
    ($($here:literal => $code:block)*) => {
        vec![$(Row { here: $here, code: stringify!($code), call: || $code }),*]
    };
}

fn rows() -> Vec<Row> {
    rows! {
        "TtlCache::new(CacheOptions { .. })" => {
            let options = CacheOptions { default_ttl: Duration::from_secs(1), max_size: 2, cleanup_interval: None };
            assert_eq!(TtlCache::<u32>::new(options).stats().max_size, 2);
        }
        "cache.get(key)" => {
            assert_eq!(cache().get("k"), None);
        }
        "cache.set(key, value)" => {
            let cache = cache();
            cache.set("k", 1);
            assert_eq!(cache.get("k"), Some(1));
        }
        "cache.set_with_ttl(key, value, ttl)" => {
            let cache = cache();
            cache.set_with_ttl("k", 1, Duration::from_secs(5));
            assert!(cache.ttl_left("k").unwrap() <= Duration::from_secs(5));
        }
        "cache.delete(key)" => {
            let cache = cache();
            cache.set("k", 1);
            assert!(cache.delete("k") && !cache.delete("k"));
        }
        "cache.clear()" => {
            let cache = cache();
            cache.set("k", 1);
            assert_eq!((cache.clear(), cache.clear()), (1, 0));
        }
        "cache.invalidate_prefix(prefix)" => {
            let cache = cache();
            for key in ["user:1:a", "user:1:b", "user:12:a"] {
                cache.set(key, 1);
            }
            assert_eq!(cache.invalidate_prefix("user:1:"), 2);
        }
        "cache.get_or_set(key, compute)" => {
            let cache = cache();
            assert_eq!(cache.get_or_set("k", ok(1)), Ok(1));
            assert_eq!(cache.get_or_set("k", ok(2)), Ok(1));
        }
        "cache.get_or_set_with_ttl(key, ttl, compute)" => {
            let cache = cache();
            assert_eq!(cache.get_or_set_with_ttl("k", Duration::from_secs(5), ok(1)), Ok(1));
            assert!(cache.ttl_left("k").unwrap() <= Duration::from_secs(5));
        }
        "cache.get_or_set_async(key, compute).await" => {
            let (cache, compute) = (cache(), || async { Ok::<_, String>(1) });
            assert_eq!(run(async { cache.get_or_set_async("k", compute).await }), Ok(1));
        }
        "cache.get_or_set_async_with_ttl(key, ttl, compute).await" => {
            let (cache, compute) = (cache(), || async { Ok::<_, String>(1) });
            let ttl = Duration::from_secs(5);
            assert_eq!(run(async { cache.get_or_set_async_with_ttl("k", ttl, compute).await }), Ok(1));
            assert!(cache.ttl_left("k").unwrap() <= ttl);
        }
        "cache.stats()" => {
            let stats = cache().stats();
            assert_eq!((stats.size, stats.max_size, stats.expired_count, stats.default_ttl), (0, 10, 0, 300.0));
        }
        "cached! { ttl = 60, key_prefix = \"p\"; fn .. }" => {
            simpletuner_live::cached! {
                ttl = 60, key_prefix = "p";
                fn get_user(id: u32) -> String { format!("user {id}") }
            }
            assert_eq!(get_user(123), "user 123");
            assert!(get_user::cache().ttl_left("p:get_user:123").is_some());
        }
        "function::cache()" => {
            assert_eq!(function(1), 2);
            assert_eq!(function::cache().clear(), 1);
        }
        "simpletuner_db::provider_config_cache()" => {
            ProviderConfigs::global().unwrap().save("seen", json!({"a": 1}).as_object().unwrap()).unwrap();
            ProviderConfigs::global().unwrap().get("seen").unwrap();
            assert!(simpletuner_db::provider_config_cache().get("provider:seen:config").is_some());
        }
        "simpletuner_db::invalidate_provider_cache(provider)" => {
            assert_eq!(simpletuner_db::invalidate_provider_cache(Some("seen")), 1);
        }
        "users::user_permission_cache()" => {
            users::user_name(0);
            assert_eq!(users::user_permission_cache().get("user:0:name").unwrap(), "root");
            assert_eq!(users::user_permission_cache().stats().max_size, 500);
        }
        "users::invalidate_user_cache(uid)" => {
            assert_eq!(users::invalidate_user_cache(0), 1);
        }
        "ProviderConfigs::global()?.get(provider)" => {
            assert!(ProviderConfigs::global().unwrap().get("none").unwrap().object().is_empty());
        }
        "ProviderConfigs::global()?.save(provider, &config)" => {
            let config = json!({"cost_limit_amount": 5});
            ProviderConfigs::global().unwrap().save("replicate", config.as_object().unwrap()).unwrap();
            assert_eq!(json!(ProviderConfigs::global().unwrap().get("replicate").unwrap().object()), config);
        }
        "hardware::hardware_info()" => {
            assert_eq!(*hardware::hardware_info().unwrap(), hardware::default_prices());
        }
        "hardware::set_hardware_info(table)" => {
            let price = Price { name: "G".into(), cost_per_second: 0.5 };
            hardware::set_hardware_info(PriceTable::from([("gpu".into(), price)])).unwrap();
            assert_eq!(hardware::hardware_info().unwrap()["gpu"].cost_per_second, 0.5);
        }
        "hardware::clear_hardware_info_cache()" => {
            hardware::clear_hardware_info_cache().unwrap();
            assert_eq!(*hardware::hardware_info().unwrap(), hardware::default_prices());
        }
        "hardware::default_prices()" => {
            assert_eq!(hardware::default_prices()["gpu-l40s"].cost_per_second, 0.000975);
        }
        "SecretsManager::global()" => {
            assert!(Arc::ptr_eq(&SecretsManager::global().unwrap(), &SecretsManager::global().unwrap()));
        }
        "SecretsManager::builder().with_provider(provider).build()" => {
            let provider = EnvironmentProvider::new([("K".into(), "v".into())], "", &[]);
            let manager = SecretsManager::builder().with_provider(Arc::new(provider)).build();
            assert_eq!(manager.get("K").unwrap().as_str(), "v");
        }
        "SecretsManager::from_settings(&settings)" => {
            let settings = Settings::load(&Flags::default(), BACKENDS).unwrap();
            let manager = SecretsManager::from_settings(&settings).unwrap();
            let reports = manager.reports();
            let names = reports.iter().map(|report| report.name.as_ref());
            assert_eq!(names.collect::<Vec<&str>>(), ["environment", "file", "aws", "vault"]);
        }
        "manager.get(key)" => {
            assert!(matches!(manager().get("NO_SUCH"), Err(Error::NotFound { .. })));
        }
        "manager.get_or(key, default)" => {
            assert_eq!(manager().get_or("NO_SUCH", "default").unwrap().as_str(), "default");
        }
        "manager.hf_token()" => {
            assert_eq!(manager().hf_token().unwrap().unwrap().as_str(), "hf_of_the_test");
        }
        "manager.replicate_api_token()" => {
            assert!(manager().replicate_api_token().unwrap().is_none());
        }
        "manager.cloud_webhook_secret()" => {
            assert!(manager().cloud_webhook_secret().unwrap().is_none());
        }
        "manager.set(key, value)" => {
            manager().set("KEY", "value").unwrap();
            assert_eq!(manager().get("KEY").unwrap().as_str(), "value");
        }
        "manager.set(\"REPLICATE_API_TOKEN\", token)" => {
            manager().set("REPLICATE_API_TOKEN", "r8").unwrap();
            assert_eq!(manager().replicate_api_token().unwrap().unwrap().as_str(), "r8");
        }
        "manager.delete(key)" => {
            manager().delete("KEY").unwrap();
            assert!(manager().get("KEY").unwrap_err().is_not_found());
        }
        "manager.clear_cache()" => {
            manager().clear_cache();
            assert_eq!(manager().caches().stats()["secrets"].size, 0);
        }
        "manager.store_path()" => {
            assert_eq!(manager().store_path().unwrap(), simpletuner_folder().join("secrets.json"));
        }
        "EnvironmentProvider::from_process(prefix, &env_keys)" => {
            let provider = EnvironmentProvider::from_process("HF", &[]);
            assert!(provider.get(&name("token")).unwrap().is_some());
        }
        "FileProvider::new(options)" => {
            assert_eq!(FileProvider::new(file_options()).name(), "file");
        }
        "AwsBackend::new(options)" => {
            let options = AwsOptions {
                secret_name: "simpletuner".into(),
                region: Some("us-west-2".into()),
                ca_bundle: None,
                connect_timeout: Duration::from_secs(3),
                total_timeout: Duration::from_secs(10),
            };
            assert_eq!(AwsBackend::new(options).source(), "simpletuner (us-west-2)");
        }
        "VaultBackend::new(options)" => {
            let options = VaultOptions {
                url: "http://127.0.0.1:8200".into(),
                mount_point: "secret".into(),
                path: "simpletuner".into(),
                namespace: None,
                auth: VaultAuth::Token(SecretValue::new("t")),
                tls: VaultTls::default(),
                proxy: None,
                connect_timeout: Duration::from_secs(3),
            };
            assert_eq!(VaultBackend::new(options).unwrap().name(), "vault");
        }
        "provider.get(&name)" => {
            let provider = EnvironmentProvider::new([("K".into(), "v".into())], "", &[]);
            assert_eq!(provider.get(&name("k")).unwrap().unwrap().value.as_str(), "v");
        }
        "provider.view().report(now).available == Some(true)" => {
            assert!(EnvironmentProvider::new([], "", &[]).view().report(simpletuner_live::clock::Instant::now()).available == Some(true));
        }
        "credential::encrypt_credential(text)" => {
            assert!(credential::encrypt_credential("v").unwrap().starts_with("Z0FBQUFB"));
        }
        "credential::decrypt_credential(stored)" => {
            let stored = credential::encrypt_credential("v").unwrap();
            assert_eq!(credential::decrypt_credential(&stored).unwrap().as_str(), "v");
        }
    }
}

/// The calls in a row: names before a `(`, and macros.
fn called(here: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    here.match_indices(['(', '!'])
        .map(|(end, _)| {
            let before = &here[..end];
            let start = before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
            &before[start..]
        })
        .collect()
}

#[test]
fn every_call_in_the_table_of_simpletuners_calls_does_what_it_says() {
    let in_table: Vec<&str> = TABLE
        .lines()
        .filter_map(|line| line.strip_suffix("` |")?.rsplit_once("| `"))
        .map(|(_, here)| here)
        .collect();
    let rows = rows();
    let tested: Vec<&str> = rows.iter().map(|row| row.here).collect();
    assert_eq!(in_table, tested);
    for row in &rows {
        for name in called(row.here) {
            assert!(row.code.contains(name), "{} without {name}", row.here);
        }
    }
    if std::env::var_os(CHILD).is_some() {
        for row in &rows {
            eprintln!("{}", row.here);
            (row.call)();
        }
        return;
    }
    let home = support::scratch_home();
    std::fs::create_dir_all(home.path().join(".simpletuner/cloud")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "--nocapture"])
        .arg("every_call_in_the_table_of_simpletuners_calls_does_what_it_says")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home.path())
        .env("HF_TOKEN", "hf_of_the_test")
        .env(CHILD, "1");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        said.lines().filter(|line| tested.contains(line)).count(),
        rows.len()
    );
}
