//! What is written to the control files: prices, price tables and bundles. What is taken must be rendered and taken again
//! as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use simpletuner_live::hardware::{parse_price, parse_table, table_to_json, to_json};
use simpletuner_live::bundle::{Base, BundleFormat, merge, parse, render};

fuzz_target!(|bytes: &[u8]| {
    // Only that it is taken again: the last bit of a long number may differ.
    if let Ok(price) = parse_price(bytes) {
        assert!(parse_price(to_json(&price).as_bytes()).is_ok());
    }
    if let Ok(table) = parse_table(bytes) {
        let again = parse_table(table_to_json(&table).as_bytes());
        assert!(again.is_ok_and(|again| again.keys().eq(table.keys())));
    }
    for format in [BundleFormat::Json, BundleFormat::Yaml] {
        if let Ok(document) = parse(format, bytes) {
            let again = parse(format, &render(format, &document));
            assert!(again.is_ok_and(|again| again == document));
            render(BundleFormat::Env, &document);
            render(BundleFormat::DockerEnv, &document);
            assert!(merge(Some(&Base::of(&document)), &document, &document).is_empty());
        }
    }
});
