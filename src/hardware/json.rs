//! Prices as JSON: parsed strictly, written as SimpleTuner writes them.

use std::fmt::{self, Write};
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Price, PriceTable, check_price, malformed};
use crate::error::{Error, Result};

/// serde's own message quotes the text, which may be a secret written to the wrong file.
fn parse_error(what: &str, error: &serde_json::Error) -> Error {
    let problem = if error.is_data() {
        "not the expected object"
    } else {
        "not valid JSON"
    };
    let (line, column) = (error.line(), error.column());
    malformed(what, format!("{problem} at line {line} column {column}"))
}

/// Parses a price: `{"name": "L40S (48GB)", "cost_per_second": 0.000975}`.
///
/// # Errors
/// [`Error::Malformed`] says where and why.
pub fn parse_price(bytes: &[u8]) -> Result<Price> {
    let what = "the price";
    let fields = serde_json::from_slice(bytes).map_err(|e| parse_error(what, &e))?;
    let price = price_of(fields, what)?;
    check_price("price", &price)?;
    Ok(price)
}

/// Parses a table: an object of prices by id.
///
/// # Errors
/// [`Error::Malformed`] says where and why.
pub fn parse_table(bytes: &[u8]) -> Result<PriceTable> {
    let what = "the price table";
    let Pairs(entries) =
        serde_json::from_slice::<Pairs<Pairs<Value>>>(bytes).map_err(|e| parse_error(what, &e))?;
    let mut table = PriceTable::new();
    for (id, fields) in entries {
        let price = price_of(fields, &format!("the price of {id:?}"))?;
        check_price(&id, &price)?;
        if table.contains_key(&id) {
            return Err(malformed(what, format!("{id} is in it twice")));
        }
        table.insert(id, price);
    }
    Ok(table)
}

fn price_of(Pairs(fields): Pairs<Value>, what: &str) -> Result<Price> {
    let (mut name, mut cost_per_second) = (None, None);
    for (field, value) in fields {
        let twice = match (field.as_str(), value) {
            ("name", Value::String(text)) => name.replace(text).is_some(),
            ("cost_per_second", Value::Number(number)) => {
                cost_per_second.replace(number.as_f64()).is_some()
            }
            ("name", _) => return Err(malformed(what, "`name` must be a string")),
            ("cost_per_second", _) => {
                return Err(malformed(what, "`cost_per_second` must be a number"));
            }
            _ => {
                let reason = "it has a field other than `name` and `cost_per_second`";
                return Err(malformed(what, reason));
            }
        };
        if twice {
            return Err(malformed(what, format!("`{field}` is in it twice")));
        }
    }
    match (name, cost_per_second.flatten()) {
        (Some(name), Some(cost_per_second)) => Ok(Price {
            name,
            // Turns -0.0 into 0.0.
            cost_per_second: cost_per_second + 0.0,
        }),
        (None, _) => Err(malformed(what, "`name` is missing")),
        (_, None) => Err(malformed(what, "`cost_per_second` is missing")),
    }
}

/// A price as one line of JSON.
pub fn price_to_json(price: &Price) -> String {
    let mut json = object(price);
    json.push('\n');
    json
}

/// The table as JSON, one line for each id.
pub fn table_to_json(table: &PriceTable) -> String {
    let mut json = String::from("{");
    for (i, (id, price)) in table.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(json, "{comma}\n  {}: {}", Value::from(&**id), object(price));
    }
    json.push_str(if table.is_empty() { "}\n" } else { "\n}\n" });
    json
}

fn object(price: &Price) -> String {
    let name = Value::from(&*price.name);
    let cost_per_second = Value::from(price.cost_per_second);
    format!(r#"{{"name": {name}, "cost_per_second": {cost_per_second}}}"#)
}

/// A JSON object with its duplicate keys: serde's maps lose them, and its structs accept lists too.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}
