//! Default, configured and overridden prices.

use super::*;
use crate::cache::HARDWARE;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

type Cache = TtlCache<Arc<PriceTable>>;

fn hardware_over(
    configured: impl Fn() -> Option<PriceTable> + Send + Sync + 'static,
) -> (Cache, Hardware) {
    let cache = Cache::new(HARDWARE);
    let configured = move || ConfiguredPrices::Current(configured());
    (cache.clone(), Hardware::new(cache, Box::new(configured)))
}

fn price(cost_per_second: f64) -> Price {
    let name = "H200 (141GB)".into();
    Price {
        name,
        cost_per_second,
    }
}

#[test]
fn without_a_configured_table_the_defaults_apply() {
    let empty: [fn() -> Option<PriceTable>; 2] = [|| None, || Some(PriceTable::new())];
    for configured in empty {
        let (_, hardware) = hardware_over(configured);
        assert_eq!(*hardware.table(), default_prices());
        assert_eq!(hardware.get("gpu-l40s").unwrap().cost_per_second, 0.000975);
        assert_eq!(hardware.get("gpu-h200"), None);
    }
}

#[test]
fn configured_prices_are_loaded_once_while_they_are_cached() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (cache, hardware) = hardware_over({
        let asked = asked.clone();
        move || {
            let nth = asked.fetch_add(1, Ordering::Relaxed) as f64;
            Some(PriceTable::from([("gpu".into(), price(nth))]))
        }
    });
    assert_eq!(hardware.get("gpu"), Some(price(0.0)));
    assert_eq!(hardware.get("gpu"), Some(price(0.0)));
    cache.clear();
    assert_eq!(hardware.get("gpu"), Some(price(1.0)));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(cache.ttl_left(CONFIGURED).unwrap().as_secs() / 10, 29);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (1, 2));
}

#[test]
fn an_override_stays_until_the_cache_is_cleared_or_invalidated() {
    let reset: [fn(&Cache) -> usize; 3] = [
        |cache| cache.clear(),
        |cache| cache.invalidate_prefix("hardware:"),
        |cache| cache.invalidate_prefix("hardware:set"),
    ];
    for reset in reset {
        let (cache, hardware) = hardware_over(|| None);
        hardware.set("gpu-l40s", price(0.5)).unwrap();
        hardware.set("gpu-h200", price(2.0)).unwrap();
        assert_eq!(cache.ttl_left(PRICE_OVERRIDES), Some(Duration::MAX));
        assert_eq!(hardware.table().len(), 3);
        assert_eq!(hardware.get("gpu-l40s"), Some(price(0.5)));
        assert!(reset(&cache) > 0);
        assert_eq!(*hardware.table(), default_prices());
    }
}

#[test]
fn a_reset_restores_the_configured_price_and_drops_a_redundant_override() {
    let (cache, hardware) = hardware_over(|| None);
    hardware.set("gpu-l40s", price(0.5)).unwrap();
    hardware.set("gpu-h200", price(2.0)).unwrap();
    assert!(hardware.reset("gpu-h200").unwrap());
    assert_eq!(hardware.get("gpu-h200"), None);
    assert!(cache.ttl_left(PRICE_OVERRIDES).is_some());
    assert!(hardware.reset("gpu-l40s").unwrap());
    assert_eq!(*hardware.table(), default_prices());
    assert_eq!(cache.ttl_left(PRICE_OVERRIDES), None);
    assert!(!hardware.reset("gpu-h200").unwrap());
    assert_eq!(cache.ttl_left(PRICE_OVERRIDES), None);
}

#[test]
fn prices_without_an_override_follow_the_configuration() {
    let per_second = Arc::new(AtomicUsize::new(1));
    let (_, hardware) = hardware_over({
        let per_second = per_second.clone();
        move || {
            let cost = per_second.load(Ordering::Relaxed) as f64;
            Some(PriceTable::from([
                ("gpu".into(), price(cost)),
                ("other".into(), price(cost)),
            ]))
        }
    });
    hardware.set("gpu", price(0.5)).unwrap();
    hardware.set("mine", price(0.25)).unwrap();
    per_second.store(2, Ordering::Relaxed);
    hardware.invalidate_configured();
    let cost = |id: &str| hardware.get(id).map(|price| price.cost_per_second);
    assert_eq!(
        (cost("gpu"), cost("mine"), cost("other")),
        (Some(0.5), Some(0.25), Some(2.0))
    );
    hardware
        .replace(PriceTable::from([("only".into(), price(3.0))]))
        .unwrap();
    hardware.set("gpu", price(4.0)).unwrap();
    per_second.store(5, Ordering::Relaxed);
    hardware.invalidate_configured();
    assert_eq!(
        (cost("only"), cost("gpu"), cost("other"), cost("mine")),
        (Some(3.0), Some(4.0), None, None)
    );
}

#[test]
fn overrides_survive_saving_and_restoring() {
    let (_, none) = hardware_over(|| None);
    assert_eq!(none.save(), None);
    let changes: [fn(&Hardware); 3] = [
        |hardware| hardware.set("gpu-l40s", price(0.5)).unwrap(),
        |hardware| hardware.replace(PriceTable::new()).unwrap(),
        |hardware| hardware.set("gpu", price(2.0)).unwrap(),
    ];
    let (_, before) = hardware_over(|| None);
    for change in changes {
        change(&before);
        let (_, after) = hardware_over(|| None);
        after.restore(&before.save().unwrap()).unwrap();
        assert_eq!(after.table(), before.table());
        assert_eq!(after.save(), before.save());
    }
}

#[test]
fn an_overridden_table_is_complete_and_a_reset_restores_what_it_left_out() {
    let (_, hardware) = hardware_over(|| None);
    hardware.replace(PriceTable::new()).unwrap();
    assert!(hardware.table().is_empty());
    assert!(hardware.reset("gpu-l40s").unwrap());
    assert_eq!(hardware.table().len(), 1);
    hardware.replace(default_prices()).unwrap();
    assert_eq!(*hardware.table(), default_prices());
}

#[test]
fn an_invalid_price_changes_nothing() {
    let (cache, hardware) = hardware_over(|| None);
    for cost in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = hardware.set("gpu", price(cost)).unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        let table = PriceTable::from([("a".into(), price(1.0)), ("b".into(), price(cost))]);
        assert!(hardware.replace(table).is_err());
    }
    let long = "k".repeat(MAX_ID + 1);
    for id in ["", "all", ".x", "-x", "a/b", "a b", "ä", &long] {
        assert!(hardware.set(id, price(1.0)).is_err(), "{id:?}");
    }
    let nameless = Price {
        name: " ".into(),
        cost_per_second: 1.0,
    };
    assert!(hardware.set("gpu", nameless).is_err());
    assert_eq!(cache.ttl_left(PRICE_OVERRIDES), None);
}

#[test]
fn concurrent_changes_are_not_lost() {
    let (_, hardware) = hardware_over(|| None);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let hardware = &hardware;
            scope.spawn(move || {
                for i in 0..50 {
                    let id = format!("gpu-{thread}-{i}");
                    hardware.set(&id, price(1.0)).unwrap();
                    if i % 2 == 0 {
                        assert!(hardware.reset(&id).unwrap());
                    }
                }
            });
        }
    });
    assert_eq!(hardware.table().len(), 2 + 8 * 25);
}

#[test]
fn prices_are_written_as_simpletuner_writes_them() {
    let table = default_prices();
    let l40s = r#"{"name": "L40S (48GB)", "cost_per_second": 0.000975}"#;
    let a100 = r#"{"name": "A100 (80GB)", "cost_per_second": 0.0014}"#;
    assert_eq!(price_to_json(&table["gpu-l40s"]), format!("{l40s}\n"));
    assert_eq!(
        table_to_json(&table),
        format!("{{\n  \"gpu-a100-large\": {a100},\n  \"gpu-l40s\": {l40s}\n}}\n")
    );
    assert_eq!(table_to_json(&PriceTable::new()), "{}\n");
}

#[test]
fn a_price_is_an_object_with_a_name_and_a_cost() {
    let good = parse_price(b" {\"cost_per_second\": 2, \"name\": \"x\"}\n").unwrap();
    assert_eq!((good.cost_per_second, &*good.name), (2.0, "x"));
    let zero = parse_price(br#"{"name": "x", "cost_per_second": -0.0}"#).unwrap();
    assert!(zero.cost_per_second.is_sign_positive());
    for bad in [
        "",
        "{}",
        "[]",
        "null",
        "0.1",
        r#"["x", 0.1]"#,
        r#"{"name": "x"}"#,
        r#"{"cost_per_second": 1}"#,
        r#"{"name": "", "cost_per_second": 1}"#,
        r#"{"name": 1, "cost_per_second": 1}"#,
        r#"{"name": "x", "cost_per_second": "1"}"#,
        r#"{"name": "x", "cost_per_second": null}"#,
        r#"{"name": "x", "cost_per_second": -1}"#,
        r#"{"name": "x", "cost_per_second": NaN}"#,
        r#"{"name": "x", "cost_per_second": 1e999}"#,
        r#"{"name": "x", "cost_per_second": 1, "more": 2}"#,
        r#"{"name": "x", "name": "y", "cost_per_second": 1}"#,
        r#"{"name": "x", "cost_per_second": 1} {}"#,
    ] {
        let error = parse_price(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{bad}");
        let table = format!(r#"{{"gpu": {bad}}}"#);
        assert!(parse_table(table.as_bytes()).is_err(), "{table}");
    }
    let fine = r#"{"name": "x", "cost_per_second": 1}"#;
    for bad in [
        format!("[{fine}]"),
        format!(r#"{{"all": {fine}}}"#),
        format!(r#"{{"a/b": {fine}}}"#),
        format!(r#"{{"gpu": {fine}, "gpu": {fine}}}"#),
    ] {
        assert!(parse_table(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(parse_table(b"{}").unwrap().is_empty());
}

proptest! {
    #[test]
    fn a_price_table_that_is_written_is_read_back(
        prices in prop::collection::btree_map("[A-Za-z0-9_][A-Za-z0-9._-]{0,9}", ("\\PC*[a-z]", 0..1u64 << 50, 0..20i32), 0..8)
    ) {
        let mut table = PriceTable::new();
        for (id, (name, digits, places)) in prices {
            let cost_per_second = digits as f64 / 10f64.powi(places);
            table.insert(id, Price { name, cost_per_second });
        }
        table.remove("all");
        prop_assert_eq!(parse_table(table_to_json(&table).as_bytes()).unwrap(), table.clone());
        for price in table.values() {
            prop_assert_eq!(&parse_price(price_to_json(price).as_bytes()).unwrap(), price);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in any::<Vec<u8>>()) {
        let _ = parse_price(&bytes);
        let _ = parse_table(&bytes);
    }
}
