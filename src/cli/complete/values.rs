//! Names that arguments take: of secrets, prices, caches, settings, views. Asks no backend and records nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::Value;

use super::Candidate;
use crate::cli::Context;
use crate::hardware::Hardware;
use crate::manager::SecretsManager;
use crate::mount::{self, MountPointState};
use crate::provider::BACKENDS;
use crate::settings;
use crate::simpletuner_db::ProviderConfigs;

/// A kind of names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ValueKind {
    Secrets,
    Prices,
    Caches,
    /// Of keys in the caches.
    Prefixes,
    Configs,
    Settings,
    Views,
}

/// What fits of a kind.
pub(super) struct Fitting {
    pub(super) candidates: Vec<Candidate>,
    /// Whether each of them is the beginning of a longer word.
    pub(super) go_on: bool,
}

impl ValueKind {
    /// The kind of an argument, which its name in the help tells.
    pub(super) fn of_value_name(name: &str) -> Option<Self> {
        match name {
            "KEY" | "KEY[=NAME]" | "PATTERN" => Some(Self::Secrets),
            "ID" => Some(Self::Prices),
            "CACHE" => Some(Self::Caches),
            "PREFIX" => Some(Self::Prefixes),
            "SETTING" => Some(Self::Settings),
            "VIEW" => Some(Self::Views),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Prices => "prices",
            Self::Caches => "caches",
            Self::Prefixes => "prefixes",
            Self::Configs => "configs",
            Self::Settings => "settings",
            Self::Views => "views",
        }
    }

    /// What fits where `current` is typed; `ask` gets the names of a kind.
    pub(super) fn candidates(self, current: &str, ask: impl Fn(Self) -> Vec<String>) -> Fitting {
        let plain = |word: String| Candidate { word, help: None };
        let (words, go_on) = match self {
            Self::Settings => {
                let rows = settings::rows(BACKENDS).into_iter();
                let setting = |row: settings::SettingRow| Candidate {
                    word: row.title().to_owned(),
                    help: Some(row.help.replace('`', "")),
                };
                return Fitting {
                    candidates: rows.map(setting).collect(),
                    go_on: false,
                };
            }
            Self::Prefixes => {
                let behind = |prefix: &'static str, kind: Self, end: &'static str| {
                    let names = ask(kind).into_iter();
                    names
                        .map(move |name| format!("{prefix}{name}{end}"))
                        .collect()
                };
                if current.starts_with("secret:") {
                    (behind("secret:", Self::Secrets, ""), false)
                } else if current.starts_with("provider:") {
                    (behind("provider:", Self::Configs, ":"), false)
                } else {
                    let all = ["secret:", "provider:", "user:", "hardware:"];
                    (all.map(str::to_owned).to_vec(), true)
                }
            }
            kind => (ask(kind), false),
        };
        Fitting {
            candidates: words.into_iter().map(plain).collect(),
            go_on,
        }
    }
}

/// The names of a kind, sorted: those of the running mount, or without one those that can be had without a backend.
pub(super) fn names(kind: ValueKind, context: &Context) -> Vec<String> {
    let mut names = match running(context) {
        Some(mount) => names_in(&mount, kind),
        None => names_without(kind, context).unwrap_or_default(),
    };
    names.sort_unstable();
    names.dedup();
    names
}

fn running(context: &Context) -> Option<std::path::PathBuf> {
    let mount_point = context.mount_point(None).ok()?;
    // A process that asks a stopped one would last as long as that.
    if !mount::stopped_processes(&mount_point).is_empty() {
        return None;
    }
    match mount::mount_point_state(&mount_point) {
        Ok(MountPointState::Ours { alive: true, .. }) => Some(mount_point),
        _ => None,
    }
}

fn names_in(mount: &Path, kind: ValueKind) -> Vec<String> {
    let files = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(mount.join(folder)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    };
    let documents = |folder: &str| {
        let files = files(folder).into_iter();
        let names = files.filter_map(|file| Some(file.strip_suffix(".json")?.to_owned()));
        names.collect::<Vec<_>>()
    };
    match kind {
        // Opening the folder `secrets` would have the mount ask the backends.
        ValueKind::Secrets => {
            let reports = files("providers").into_iter().filter_map(|provider| {
                let report = fs::read(mount.join("providers").join(provider)).ok()?;
                serde_json::from_slice::<Value>(&report).ok()
            });
            let keys = |report: Value| match &report["keys"] {
                Value::Array(keys) => keys
                    .iter()
                    .map(|key| key.as_str().map(str::to_owned))
                    .collect(),
                _ => Vec::new(),
            };
            reports.flat_map(keys).flatten().collect()
        }
        ValueKind::Prices => {
            let mut ids = documents("hardware");
            ids.retain(|id| id != "all");
            ids
        }
        ValueKind::Configs => documents("config"),
        ValueKind::Caches => {
            let mut caches = files("cache");
            caches.retain(|name| mount.join("cache").join(name).is_dir());
            caches
        }
        ValueKind::Views => documents("views"),
        ValueKind::Prefixes | ValueKind::Settings => Vec::new(),
    }
}

fn names_without(kind: ValueKind, context: &Context) -> Option<Vec<String>> {
    match kind {
        ValueKind::Secrets => {
            let manager = SecretsManager::from_settings(&context.settings().ok()?).ok()?;
            let names = manager.names().into_iter();
            Some(names.map(|(name, _)| name.to_string()).collect())
        }
        ValueKind::Prices => {
            let configs = ProviderConfigs::from_settings(&context.settings().ok()?);
            let prices = Hardware::with_configs(Arc::new(configs)).table();
            Some(prices.keys().cloned().collect())
        }
        _ => None,
    }
}
