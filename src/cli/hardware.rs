//! `hardware`: the prices of a running mount, or without one the configured prices.

use std::fs;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Map, json};

use super::failure::{Failure, say};
use super::mount_client::MountClient;
use super::{Context, Outcome, output};
use crate::error::Error;
use crate::hardware::{self, Hardware, Price, PriceTable};
use crate::simpletuner_db::ProviderConfigs;

/// Show what hardware costs, set it, or estimate a run
///
/// Prices are in US dollars. A price that is set is in force until it is reset or the cache `hardware` is cleared; --save
/// also stores it in SimpleTuner's own configuration.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:
  simpletuner-live hardware ls
  simpletuner-live hardware set gpu-h100 --name 'H100 (80GB)' --per-second 0.001525 --save
  simpletuner-live hardware estimate gpu-l40s --hours 12"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the prices per second and per hour
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live hardware ls
  simpletuner-live hardware ls --json | jq '.[\"gpu-l40s\"].cost_per_hour'"
    )]
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a price, in the running mount until it is reset, and with --save for good
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live hardware set gpu-l40s --name 'L40S (48GB)' --per-second 0.0011
  simpletuner-live hardware set gpu-h100 --name 'H100 (80GB)' --per-second 0.001525 --save"
    )]
    Set {
        /// The hardware's id, as SimpleTuner has it
        id: String,
        /// What people call it
        #[arg(long)]
        name: String,
        /// US dollars per second
        #[arg(long, value_name = "X", value_parser = amount, allow_negative_numbers = true)]
        per_second: f64,
        /// Store it in SimpleTuner's configuration (hardware_info of replicate), too
        #[arg(long)]
        save: bool,
    },
    /// Put a price, or all of them, back to what is configured
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live hardware reset gpu-l40s
  simpletuner-live hardware reset"
    )]
    Reset {
        /// The hardware's id; all, if it is left out
        id: Option<String>,
    },
    /// Print what a run would cost
    #[command(
        verbatim_doc_comment,
        after_help = "Examples:
  simpletuner-live hardware estimate gpu-l40s --hours 12
  simpletuner-live hardware estimate gpu-l40s --hours 0.5 --json | jq .cost"
    )]
    Estimate {
        /// The hardware's id
        id: String,
        /// How many hours it runs
        #[arg(long, value_name = "H", value_parser = amount, allow_negative_numbers = true)]
        hours: f64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Parses a price or a time.
fn amount(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(amount) if amount.is_finite() && amount >= 0.0 => Ok(amount + 0.0),
        _ => Err("it must be a finite number, 0 or more".into()),
    }
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    match args.action {
        Action::Ls { json } => list(&prices(context)?, json),
        Action::Set {
            id,
            name,
            per_second: cost_per_second,
            save,
        } => {
            let price = Price {
                name,
                cost_per_second,
            };
            set(context, &id, &price, save)
        }
        Action::Reset { id } => reset(context, id.as_deref()),
        Action::Estimate { id, hours, json } => {
            let prices = prices(context)?;
            let price = prices.get(&id).ok_or_else(|| unknown(&id))?;
            estimate(&id, price, hours, json)
        }
    }
}

/// The prices in force.
fn prices(context: &Context) -> Outcome<PriceTable> {
    match MountClient::find(&context.mount_point(None)?)? {
        Some(client) => Ok(hardware::parse_table(
            client.read_text("hardware/all.json")?.as_bytes(),
        )?),
        None => {
            let configs = Arc::new(ProviderConfigs::from_settings(&context.settings()?));
            Ok(PriceTable::clone(&Hardware::with_configs(configs).table()))
        }
    }
}

fn list(prices: &PriceTable, json: bool) -> Outcome {
    if json {
        let entry = |(id, price): (&String, &Price)| {
            let entry = json!({
                "name": price.name,
                "cost_per_second": price.cost_per_second,
                "cost_per_hour": per_hour(price),
            });
            (id.clone(), entry)
        };
        return output::json(&prices.iter().map(entry).collect::<Map<_, _>>());
    }
    let row = |(id, price): (&String, &Price)| {
        let (second, hour) = (price.cost_per_second, per_hour(price));
        vec![
            id.clone(),
            price.name.clone(),
            format!("${second}"),
            format!("${hour}"),
        ]
    };
    let rows: Vec<_> = prices.iter().map(row).collect();
    output::table(&["ID", "NAME", "PER SECOND", "PER HOUR"], &rows)
}

fn set(context: &Context, id: &str, price: &Price, save: bool) -> Outcome {
    hardware::check_price(id, price)?;
    let client = MountClient::find(&context.mount_point(None)?)?;
    if !save && client.is_none() {
        return Err(Failure::with_hint(
            "no mount is running, so the price cannot be set",
            "add --save to store it in SimpleTuner's configuration, or start a mount with `simpletuner-live mount`",
        ));
    }
    if save {
        let configs = ProviderConfigs::from_settings(&context.settings()?);
        hardware::save_price(&configs, id, price)?;
    }
    if let Some(client) = client {
        if save {
            // The mount may have cached the configuration from before the save.
            client.write_control("cache/invalidate", b"provider:replicate:\n")?;
        }
        client.write_whole(&file(id), hardware::price_to_json(price).as_bytes())?;
    }
    Ok(())
}

fn reset(context: &Context, id: Option<&str>) -> Outcome {
    let client = MountClient::require(&context.mount_point(None)?)?;
    let id = id.unwrap_or("all");
    let path = client.path(&file(id));
    fs::remove_file(&path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::EPERM) => unknown(id),
        _ => Error::io(format!("cannot reset {}", path.display()), error).into(),
    })
}

fn estimate(id: &str, price: &Price, hours: f64, json: bool) -> Outcome {
    let cost = rounded(price.cost_per_second * 3600.0 * hours);
    if json {
        return output::json(&json!({
            "id": id,
            "name": price.name,
            "hours": hours,
            "cost": cost,
        }));
    }
    say(
        "note",
        &format!("{}: {hours} h at ${} an hour", price.name, per_hour(price)),
    );
    output::line(&format!("${cost:.2}"))
}

fn file(id: &str) -> String {
    format!("hardware/{id}.json")
}

fn unknown(id: &str) -> Failure {
    Failure::with_hint(
        format!("no price is known for {id:?}"),
        "`simpletuner-live hardware ls` shows the ids",
    )
}

fn per_hour(price: &Price) -> f64 {
    rounded(price.cost_per_second * 3600.0)
}

/// Rounded to a millionth, which hides the error of binary fractions.
fn rounded(amount: f64) -> f64 {
    let rounded = (amount * 1e6).round() / 1e6;
    if rounded.is_finite() { rounded } else { amount }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_finite_number_of_at_least_zero() {
        assert_eq!(amount("0.000975"), Ok(0.000975));
        assert!(amount("-0").is_ok_and(|zero| zero.is_sign_positive()));
        for bad in ["-1", "NaN", "inf", "1e999", "", "one", "$1"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_price_per_hour_is_3600_times_the_price_per_second_without_rounding_errors() {
        let shown = |cost_per_second| {
            let name = "N".to_owned();
            per_hour(&Price {
                name,
                cost_per_second,
            })
            .to_string()
        };
        assert_eq!(
            (shown(0.000975), shown(0.0014)),
            ("3.51".into(), "5.04".into())
        );
        assert_eq!(shown(0.0), "0");
    }
}
